"""The playbook's moves: which recipe keys to turn, in what order, how far at a time, and why.

    Scale   the axis on which equal steps are equally large
    Move    a line to search along: keys that turn together, the direction to try first, its reason
    MOVES   the table, and `schema_moves()`: plain lines for the numeric keys that it does not name

Priors are expected gains in no unit; only their order matters. `signals` are facts about the
incumbent (see reading.signals) that raise a move and say which way to go.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from autoresearch.research.researchers.base import Context
from backends.recipe import Key, keys

UP, DOWN = 1, -1
SCHEMA = {k.name: k for k in keys()}


@dataclass(frozen=True)
class Scale:
    to: Callable[[float], float]
    back: Callable[[float], float]


LOG = Scale(math.log2, math.exp2)  # a step of 1 is a factor of 2
LINEAR = Scale(float, float)
HALF_LIFE = Scale(lambda b: -math.log2(1 - b), lambda u: 1 - math.exp2(-u))  # 0.9, 0.95, 0.975: one step each


@dataclass(frozen=True)
class Move:
    """One line to search along. The first key decides what counts as up."""

    label: str
    keys: tuple[str, ...]
    prior: float
    first: int  # UP or DOWN
    up: str  # why it may help
    down: str
    stride: float = 1.0  # first step, in units of the scale
    grow: float = 1.0  # the stride's factor after a kept step
    finest: float = 0.25  # the search rests when the stride falls below this share of the first
    back: float = 0.5  # what remains of the prior for the direction not tried first
    scale: Scale = LOG
    powers: tuple[float, ...] = ()  # steps per stride of each key, 1 by default; 0: it may have to follow
    start: float = 0.0  # first value above 0, for keys where 0 means off
    options: Callable[[Context], dict[Any, float]] | None = None  # value -> position, for keys without a scale
    signals: Mapping[str, tuple[int, float]] = field(default_factory=dict)  # name -> direction, factor of the prior
    when: Callable[[Context], bool] = lambda context: True

    def turn(self, context: Context, flat: Mapping[str, Any], sign: int, stride: float) -> dict[str, Any]:
        """{"table.key": value} one stride from the incumbent's flat recipe; {} where there is nothing that way."""
        if self.options:
            places = self.options(context)
            here = places.get(flat[self.keys[0]])
            away = {v: (place - here) * sign for v, place in places.items()} if here is not None else {}
            beyond = [v for v in away if away[v] > 0]
            return {self.keys[0]: min(beyond, key=away.__getitem__)} if beyond else {}
        powers = self.powers or (1.0,) * len(self.keys)
        pairs = zip(self.keys, powers, strict=True)
        turned = {k: self._step(SCHEMA[k], flat[k], sign * p * stride) for k, p in pairs if p}
        return turned if turned[self.keys[0]] != flat[self.keys[0]] else {}

    def _step(self, key: Key, old: float, by: float) -> float:
        if self.scale is LOG and old <= 0:
            new = self.start if by > 0 else old
        else:
            new = self.scale.back(self.scale.to(old) + by)
        if self.start and new < self.start / 4:
            new = 0.0  # as good as off
        assert key.low is not None and key.high is not None  # every numeric key has a range
        if key.type is float:
            return min(max(float(f"{new:.3g}"), key.low), key.high)
        whole = round(new) if round(new) != old else old + math.copysign(1, by)  # at least one
        return int(min(max(whole, key.low), key.high))

    def direction(self, context: Context, before: Mapping[str, Any], after: Mapping[str, Any]) -> int:
        """UP, DOWN, or 0 where it can't be told, of a past change."""
        a, b = before[self.keys[0]], after[self.keys[0]]
        if self.options:
            places = self.options(context)
            if a not in places or b not in places:
                return 0
            a, b = places[a], places[b]
        return int(b > a) - int(b < a)

    def leap(self, context: Context, flat: Mapping[str, Any], turned: Mapping[str, Any]) -> float:
        """How much longer than a stride a step between options is; long leaps are less likely to help."""
        if not self.options:
            return 1.0
        places = self.options(context)
        return max(1.0, abs(places[turned[self.keys[0]]] - places[flat[self.keys[0]]]) / self.stride)


def in_order(*values: Any) -> Callable[[Context], dict[Any, float]]:
    return lambda context: {v: float(i) for i, v in enumerate(values)}


def vocabularies(context: Context) -> dict[Any, float]:
    return {t: math.log2(context.vocab[t]) for t in context.tokenizers if t in context.vocab}


def precisions(context: Context) -> dict[Any, float]:
    """By how fast the device multiplies in them; where that was not measured, "auto" first."""
    names, flops = tuple(context.device.get("precisions", ())), context.device.get("ceiling_flops") or {}
    places = {p: float(i) for i, p in enumerate(sorted(names, key=lambda p: flops.get(p, 0.0)))}
    return {"auto": places[names[0]] if names else 0.0} | places


def qk_norms(context: Context) -> dict[Any, float]:
    """Root-mean-square is the same before and after a rotation: only a gain or a LayerNorm makes them differ."""
    model = context.recipe.model
    differ = model.norm_gain or model.norm == "layer" or model.qk_norm == "before"
    return {v: float(i) for i, v in enumerate(("none", "before", "after")) if differ or v != "before"}


def has_value_embeds(context: Context) -> bool:
    return context.recipe.model.value_embeds != "none"


def has_vectors(context: Context) -> bool:
    model = context.recipe.model
    return model.norm_gain or model.biases or model.token_shift


def uses_muon(context: Context) -> bool:
    return context.recipe.optim.matrix_rule == "muon"


def decays_tables(context: Context) -> bool:
    o = context.recipe.optim
    return o.embedding_decay + o.value_embedding_decay + o.unembedding_decay > 0


def starts_short(context: Context) -> bool:
    return context.recipe.schedule.seq_parts > 1


def has_long_rows(context: Context) -> bool:
    return context.recipe.model.seq_len >= 128 or starts_short(context)


def compiling_pays(context: Context) -> bool:
    """The clock does not count compiling, but a night does: every new shape costs about a minute on few cores."""
    long_enough = context.budget_s is None or context.budget_s >= 20
    return long_enough and (context.seconds_left is None or context.seconds_left > 4 * (context.budget_s or 0) + 60)


RATES = tuple(f"optim.{role}_lr" for role in ("matrix", "embedding", "value_embedding", "unembedding", "scalar"))
FASTER = {"starved": (DOWN, 1.4), "overfit": (DOWN, 1.3), "plenty": (UP, 1.3)}  # what a smaller model is good for
REGULARISE = {"overfit": (UP, 2.0)}

MOVES: tuple[Move, ...] = (
    # Steps before size: on a fixed clock the number of updates is the first thing to get right.
    Move("tokens per step", ("batch.tokens_per_step",), 10, DOWN, "smoother gradients", "more updates in the same time",
         signals={"starved": (DOWN, 1.5)}),
    Move("learning rates", RATES, 9, UP, "learn more from every step", "smaller, steadier updates", grow=0.8,
         signals={"steep": (UP, 1.25), "diverged": (DOWN, 5.0), "shaky": (DOWN, 1.0)}),
    Move("vocabulary", ("data.tokenizer",), 6.5, DOWN, "more text in every token", "fewer rare tokens to memorise",
         finest=1, options=vocabularies, signals={"small_data": (DOWN, 1.4), "overfit": (DOWN, 2.0)}),
    Move("compile", ("runtime.compile",), 6, UP, "faster steps, at no cost to the clock", "no compiler to work around",
         finest=1, back=0.05, options=in_order(False, True), signals={"starved": (UP, 1.7)},
         when=compiling_pays),
    Move("depth", ("model.depth",), 6, DOWN, "more capacity", "a shallower model takes more steps",
         stride=0.42, finest=1, signals=FASTER),
    Move("width", ("model.width",), 5, DOWN, "more capacity", "a narrower model takes more steps",
         stride=0.5, finest=0.5, signals=FASTER),
    Move("precision", ("runtime.precision",), 4, UP, "cheaper arithmetic, more steps", "exact arithmetic",
         finest=1, back=0.1, options=precisions),
    Move("matrix learning rate", RATES[:1], 5, UP, "bigger Muon updates", "smaller Muon updates", grow=0.8),
    Move("embedding learning rate", RATES[1:2], 4.5, UP, "rare tokens move further", "embeddings settle", grow=0.8),
    Move("output learning rate", RATES[3:4], 4, UP, "the output head catches up", "a calmer output head", grow=0.8),
    Move("value-embedding learning rate", RATES[2:3], 3, DOWN, "value tables learn faster",
         "value tables memorise less", when=has_value_embeds),
    Move("Muon steps", ("optim.muon_steps",), 3.5, DOWN, "better orthogonalised updates",
         "cheaper updates, more of them", scale=LINEAR, finest=1, back=0.2, signals={"starved": (DOWN, 1.5)}),
    Move("warmdown", ("schedule.warmdown_frac", "schedule.warmup_frac"), 4, UP, "a longer anneal",
         "longer at full speed", scale=LINEAR, stride=0.2, powers=(1, 0)),
    Move("value embeddings", ("model.value_embeds",), 3.5, DOWN, "more memory for tokens",
         "fewer tables to memorise with", finest=1, options=in_order("none", "alternate", "all"),
         signals={"overfit": (DOWN, 2.0)}),
    Move("width against depth", ("model.width", "model.depth"), 3.5, UP, "wide and shallow runs faster",
         "deep and narrow composes more", stride=0.5, powers=(1, -2), finest=1),
    Move("QK scale", ("model.qk_scale",), 3.4, UP, "sharper attention", "more diffuse attention", stride=0.5),
    Move("MLP ratio", ("model.mlp_ratio",), 3.2, DOWN, "more MLP capacity", "cheaper blocks, more steps",
         signals=FASTER),
    Move("value-embedding decay", ("optim.value_embedding_decay",), 3.2, UP, "value embeddings like regularisation",
         "less shrinkage", start=0.01, signals=REGULARISE, when=has_value_embeds),
    Move("matrix decay", ("optim.matrix_decay",), 3, DOWN, "regularise the matrices", "let the matrices grow",
         start=0.05, signals=REGULARISE),
    Move("warm-up", ("schedule.warmup_frac", "schedule.warmdown_frac"), 2.8, UP, "a gentler start", "full speed sooner",
         scale=LINEAR, stride=0.05, powers=(1, 0), signals={"diverged": (UP, 2.0), "shaky": (UP, 1.5)}),
    Move("final learning rate", ("schedule.final_lr_frac",), 2.6, UP, "keep learning to the end", "anneal fully",
         scale=LINEAR, stride=0.05),
    Move("Muon momentum", ("optim.muon_momentum",), 2.6, DOWN, "average over more steps", "react faster in a short run",
         scale=HALF_LIFE, stride=0.75),
    Move("Adam beta1", ("optim.adam_beta1",), 2.5, UP, "smoother updates", "react faster", scale=HALF_LIFE),
    Move("Adam beta2", ("optim.adam_beta2",), 2.4, UP, "steadier step sizes for rare tokens", "adapt sooner",
         scale=HALF_LIFE),
    Move("softcap", ("model.softcap",), 2.2, UP, "let logits spread", "keep logits small", start=5.0),
    Move("embedding decay", ("optim.embedding_decay",), 2, UP, "shrink rare tokens", "less shrinkage", start=0.001,
         signals=REGULARISE),
    Move("context length", ("model.seq_len", "batch.tokens_per_step"), 2.2, UP, "more context to predict from",
         "more independent rows", powers=(1, 0), finest=1),
    Move("windows", ("model.window_pattern",), 2, DOWN, "longer attention", "cheaper, more local attention", finest=1,
         options=in_order("SSSL", "SL", "L")),
    Move("output decay", ("optim.unembedding_decay",), 1.6, UP, "regularise the head", "less shrinkage", start=0.01,
         signals=REGULARISE),
    Move("activation", ("model.activation",), 1.9, UP, "a smoother or gated MLP", "a cheaper MLP, more steps", finest=1,
         options=in_order("relu2", "gelu", "silu", "swiglu")),
    Move("dropout", ("model.dropout",), 1.3, UP, "rely on no single channel", "keep all that was learned", start=0.05,
         back=0.8, signals={"overfit": (UP, 2.5)}),
    Move("short rows first", ("schedule.seq_parts",), 1.5, UP, "short contexts are cheaper and learned first",
         "whole rows from the start", finest=1, options=in_order(1, 2, 4, 8, 16), signals={"starved": (UP, 1.3)},
         when=has_long_rows),
    Move("short rows' share", ("schedule.seq_warmup_frac",), 1.3, UP, "short rows for longer", "whole rows sooner",
         scale=LINEAR, stride=0.1, when=starts_short),
    Move("polynomial", ("optim.muon_polynomial",), 1.2, UP, "flatter singular values", "the older iteration", finest=1,
         options=in_order("newton_schulz", "polar_express"), when=uses_muon),
    Move("Muon variance", ("optim.muon_variance",), 1.1, DOWN, "even rows and columns", "Muon as it was", finest=1,
         options=in_order(False, True), when=uses_muon),
    Move("cautious decay", ("optim.cautious_matrices",), 1.1, DOWN, "decay only along the step", "decay everywhere",
         finest=1, options=in_order(False, True), when=lambda context: context.recipe.optim.matrix_decay > 0),
    Move("cautious decay of tables", ("optim.cautious_tables",), 1.0, UP, "decay only along the step",
         "decay everywhere", finest=1, options=in_order(False, True), when=decays_tables),
    Move("clipping", ("optim.clip_norm",), 1.0, UP, "one bad batch does less harm", "clip harder", start=1.0,
         signals={"shaky": (UP, 1.5), "diverged": (UP, 1.5)}),
    Move("norm gains", ("model.norm_gain",), 1.2, UP, "every channel finds its scale", "fewer numbers to tune",
         finest=1, options=in_order(False, True)),
    Move("rate of vectors", ("optim.vector_lr",), 1.1, UP, "gains, biases and shifts keep up", "they settle",
         when=has_vectors),
    Move("norm", ("model.norm",), 0.9, UP, "no mean in the residual stream", "cheaper norms", finest=1,
         options=in_order("rms", "layer")),
    Move("QK-norm", ("model.qk_norm",), 1.2, DOWN, "bounded attention logits", "let attention find its scale",
         finest=1, options=qk_norms),
    Move("embedding norm", ("model.embed_norm",), 0.9, DOWN, "tokens enter at one size", "frequent tokens stand out",
         finest=1, options=in_order(False, True)),
    Move("biases", ("model.biases",), 0.8, UP, "a place for what is always true", "fewer numbers to tune", finest=1,
         options=in_order(False, True)),
    Move("residual lambdas", ("model.resid_lambdas",), 0.9, DOWN, "blocks weigh their past", "a plain residual stream",
         finest=1, options=in_order(False, True)),
    Move("input lambdas", ("model.input_lambdas",), 0.9, DOWN, "every block sees the input", "a plain residual stream",
         finest=1, options=in_order(False, True)),
    Move("value gate", ("model.value_gate",), 1.0, DOWN, "heads choose their values", "values as they are, cheaper",
         finest=1, options=in_order(False, True), when=has_value_embeds),
    Move("best weights", ("schedule.keep_best_dev",), 0.9, UP, "keep what scored best on dev", "keep the last weights",
         finest=1, options=in_order(False, True), signals={"overfit": (UP, 3.0)}),
    Move("key shift", ("model.key_shift",), 3.0, UP, "a block finds what followed a token the last time",
         "keys as they are, cheaper", finest=1, options=in_order(False, True)),
    Move("token shift", ("model.token_shift",), 3.0, UP, "blocks read the token before at no product's cost",
         "blocks read one token, cheaper", finest=1, options=in_order(False, True)),
    Move("head size", ("model.head_dim", "model.width"), 1.4, DOWN, "fewer, richer heads", "more heads",
         powers=(1, 0), finest=1),
)


# Keys that no move turns, and why.
LEFT_ALONE = {
    "model.kv_heads": "follows the heads", "model.value_gate_channels": "follows the width",
    "batch.micro_rows": "follows the memory", "runtime.checkpoint": "buys memory with time",
    "model.positions": "learned ones must be as long as the rows that are scored, and gain nothing over RoPE",
    "model.tied_embeddings": "needs another std and rate at the same time",
    "optim.matrix_rule": "needs other learning rates at the same time",
    "init.matrix_std": "matrix_scale turns the same number",
    "model.norm_eps": "matters to precision, not to what is learned",
}


def schema_moves() -> tuple[Move, ...]:
    """Plain lines along the numeric keys that the table leaves out, so a new key is explored too."""
    named = {k for m in MOVES for k in m.keys} | LEFT_ALONE.keys()
    return tuple(
        Move(k.name.split(".")[1], (k.name,), 1.0, UP, "not yet tuned", "not yet tuned",
             scale=LOG if k.log else LINEAR, stride=1.0 if k.log else 0.1)
        for k in SCHEMA.values() if k.low is not None and k.name not in named
    )
