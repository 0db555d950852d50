"""Recipe: everything numeric or categorical that defines a training run.

    Key         what one entry may be: type, range or choices, scale, meaning
    Recipe      the schema as frozen dataclasses, one per TOML table
    parse       TOML text -> Recipe, or RecipeError naming key, value, what is allowed
    edit        TOML text + {"table.key": value} -> TOML text, comments kept
    changed     what differs between two flat recipes
    preset_file a recipe to start from

The schema is data (`keys()`): the optimizer's search ranges and the tools that a language
model sees are generated from it. `[extra]` is the candidate's own: any numbers its code reads.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomlkit


class RecipeError(ValueError):
    """A recipe that can't be run; `problems` has one sentence for each fault."""

    def __init__(self, problems: list[str]):
        self.problems = problems
        super().__init__("; ".join(problems))


@dataclass(frozen=True)
class Key:
    """What one recipe entry may be. `log`: sensible steps are factors, not differences."""

    name: str
    type: type
    default: Any
    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    log: bool = False

    def allowed(self) -> str:
        if self.type is bool:
            return "true or false"
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.type is str:
            return "a text"
        if self.type is int:
            return f"a whole number from {self.low} to {self.high}"
        return f"a number from {self.low:g} to {self.high:g}"

    def check(self, value: Any) -> str | None:
        """The fault of a value in one sentence, or None."""
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        right_type = {
            bool: isinstance(value, bool),
            str: isinstance(value, str),
            int: isinstance(value, int) and not isinstance(value, bool),
            float: is_number,
        }[self.type]
        if right_type and self.choices:
            right_type = value in self.choices
        if right_type and self.low is not None:
            # An int too large for a float compares fine; NaN fails both comparisons.
            right_type = bool(self.low <= value <= self.high)
        return None if right_type else f"{self.name} = {_show(value)}: must be {self.allowed()}"


def _key(default: Any, help: str, low: float | None = None, high: float | None = None,
         choices: tuple[str, ...] = (), log: bool = False) -> Any:
    return field(default=default, metadata=dict(help=help, low=low, high=high, choices=choices, log=log))


@dataclass(frozen=True)
class Data:
    tokenizer: str = _key("bpe-2048", "name of a prepared tokenizer: byte, char, gpt2, or bpe-<vocabulary size>")


@dataclass(frozen=True)
class Model:
    depth: int = _key(4, "transformer blocks", 1, 48)
    width: int = _key(256, "channels of the residual stream", 16, 8192, log=True)
    head_dim: int = _key(64, "channels of one attention head", 8, 256, log=True)
    kv_heads: int = _key(0, "key and value heads shared by groups of query heads; 0: as many as query heads", 0, 256)
    seq_len: int = _key(256, "training context, tokens", 16, 65536, log=True)
    mlp_ratio: float = _key(4.0, "MLP width over model width", 0.25, 16.0, log=True)
    window_pattern: str = _key("L", "per block, repeated: L attends to seq_len tokens, S to short_window_frac of it")
    short_window_frac: float = _key(0.5, "length of an S window over seq_len", 0.01, 1.0, log=True)
    rope_base: float = _key(10000.0, "base of the rotary frequencies", 10.0, 1e7, log=True)
    positions: str = _key("rotary", "RoPE, or a learned table, which needs rows as long as those that are scored",
                          choices=("rotary", "learned"))
    norm: str = _key("rms", "RMSNorm or LayerNorm, everywhere", choices=("rms", "layer"))
    norm_eps: float = _key(1e-6, "epsilon under the root of every norm", 1e-12, 1e-2, log=True)
    norm_gain: bool = _key(False, "norms learn a gain per channel")
    embed_norm: bool = _key(True, "normalise the embedded input")
    qk_norm: str = _key("after", "normalise queries and keys before or after the rotation; alike without norm_gain",
                        choices=("none", "before", "after"))
    qk_scale: float = _key(1.0, "multiplies the logits of attention, beside 1 / sqrt(head_dim)", 0.1, 10.0, log=True)
    key_shift: bool = _key(False, "half of each key's channels, those that rotate slowly, are of the token before")
    token_shift: bool = _key(False, "attentions and MLPs read a token with the one before it added, each channel by a "
                                    "learned weight")
    activation: str = _key("relu2", "of the MLP; swiglu gates with a third matrix",
                           choices=("relu2", "gelu", "silu", "swiglu"))
    biases: bool = _key(False, "of matrices inside blocks (but the keys', which softmax cancels) and of LayerNorms "
                               "that have a gain")
    dropout: float = _key(0.0, "share of channels zeroed, in training only, of the embedded input and of what each "
                               "attention and MLP adds", 0.0, 0.9)
    resid_lambdas: bool = _key(True, "a learned factor of the residual stream before every block")
    input_lambdas: bool = _key(True, "the embedded input, with a learned weight, added before every block")
    tied_embeddings: bool = _key(False, "one table embeds tokens and predicts them, with the embedding's rate, decay "
                                        "and std")
    softcap: float = _key(15.0, "logits are softcap * tanh(logits / softcap); 0 turns it off", 0.0, 1000.0)
    value_embeds: str = _key("alternate", "blocks that mix a gated value embedding into attention",
                             choices=("none", "alternate", "all"))
    value_gate: bool = _key(True, "value embeddings pass a learned gate per head, else they are added as they are")
    value_gate_channels: int = _key(32, "residual channels that the value gate reads", 1, 8192, log=True)


@dataclass(frozen=True)
class Init:
    embedding_std: float = _key(1.0, "normal; token embedding", 1e-4, 10.0, log=True)
    unembedding_std: float = _key(0.001, "normal; output head", 1e-6, 1.0, log=True)
    matrix_scale: float = _key(1.0, "uniform, std scale / sqrt(fan_in), or scale * matrix_std; matrices", 0.01, 10.0,
                               log=True)
    matrix_std: float = _key(0.0, "std of matrices at any width, times matrix_scale; 0: 1 / sqrt(fan_in)", 0.0, 10.0)
    projection_scale: float = _key(0.0, "projections out of blocks: std over that of matrices, times sqrt(2 * depth); "
                                        "0: blocks start as the identity", 0.0, 10.0)
    input_lambda: float = _key(0.1, "weight of the embedded input added before every block", -2.0, 2.0)


@dataclass(frozen=True)
class Optim:
    matrix_rule: str = _key("muon", "update rule of matrices inside blocks; everything else is AdamW's",
                            choices=("muon", "adamw"))
    matrix_lr: float = _key(0.04, "matrices inside blocks; times (width / 768)^-0.5 with AdamW", 1e-5, 1.0, log=True)
    embedding_lr: float = _key(0.6, "AdamW, times (width / 768)^-0.5; token embedding", 1e-5, 10.0, log=True)
    value_embedding_lr: float = _key(0.6, "AdamW, scaled alike; value embeddings", 1e-5, 10.0, log=True)
    unembedding_lr: float = _key(0.004, "AdamW, scaled alike; output head", 1e-6, 1.0, log=True)
    scalar_lr: float = _key(0.5, "AdamW; input lambdas (residual lambdas take a hundredth)", 1e-5, 10.0, log=True)
    vector_lr: float = _key(0.01, "AdamW, scaled alike; gains, biases, shifts, which never decay", 1e-6, 1.0, log=True)
    matrix_decay: float = _key(0.2, "weight decay of matrices", 0.0, 10.0)
    embedding_decay: float = _key(0.0, "weight decay of the token embedding", 0.0, 10.0)
    value_embedding_decay: float = _key(0.0, "weight decay of the value embeddings", 0.0, 10.0)
    unembedding_decay: float = _key(0.0, "weight decay of the output head", 0.0, 10.0)
    cautious_matrices: bool = _key(True, "matrices decay only where that agrees with the step's sign")
    cautious_tables: bool = _key(False, "the same for embeddings and output head")
    clip_norm: float = _key(0.0, "largest norm of all gradients together; 0 turns clipping off", 0.0, 1000.0)
    adam_beta1: float = _key(0.8, "AdamW first-moment decay", 0.0, 0.999)
    adam_beta2: float = _key(0.95, "AdamW second-moment decay", 0.0, 0.99999)
    adam_eps: float = _key(1e-8, "AdamW epsilon", 1e-15, 1e-2, log=True)
    muon_momentum: float = _key(0.95, "Muon Nesterov momentum after its warm-up", 0.0, 0.999)
    muon_variance: bool = _key(True, "bring the rows or columns of Muon's update to equal variance")
    muon_beta2: float = _key(0.95, "decay of Muon's second moment per row or column", 0.0, 0.99999)
    muon_polynomial: str = _key("polar_express", "what makes Muon's update orthogonal",
                                choices=("polar_express", "newton_schulz"))
    muon_steps: int = _key(5, "iterations of that polynomial", 1, 5)


@dataclass(frozen=True)
class Schedule:
    warmup_frac: float = _key(0.0, "share of the budget over which learning rates rise from 0", 0.0, 1.0)
    warmdown_frac: float = _key(0.5, "share of the budget over which learning rates fall at the end", 0.0, 1.0)
    final_lr_frac: float = _key(0.0, "learning rates at the end over their peak", 0.0, 1.0)
    momentum_start: float = _key(0.85, "Muon momentum at the start", 0.0, 0.999)
    momentum_warmup_frac: float = _key(0.3, "share of the budget over which momentum rises", 0.0, 1.0)
    final_decay_frac: float = _key(0.0, "matrices' weight decay at the end over that at the start", 0.0, 1.0)
    seq_parts: int = _key(1, "training starts with rows cut in this many parts (a power of two), then half as "
                             "many, ...", 1, 16)
    seq_warmup_frac: float = _key(0.3, "share of the budget until rows are whole, where seq_parts is more than 1",
                                  0.0, 1.0)
    keep_best_dev: bool = _key(False, "save the weights of the best dev measurement, not the last")


@dataclass(frozen=True)
class Batch:
    tokens_per_step: int = _key(8192, "tokens in one optimizer step", 16, 2**24, log=True)
    micro_rows: int = _key(0, "rows of seq_len tokens in one forward pass; 0: all of the step's", 0, 65536)


@dataclass(frozen=True)
class Runtime:
    precision: str = _key("auto", "arithmetic of forward and backward; master weights stay float32; float16: with "
                                  "a dynamic loss scale, for cards before sm_80",
                          choices=("auto", "float32", "bfloat16", "float16"))
    compile: bool = _key(True, "compile the whole training step")
    checkpoint: bool = _key(False, "compute each block again in the backward pass: less memory, a third more work")


@dataclass(frozen=True)
class Recipe:
    """One training run. Build it with `parse`, change it with `replace`; both check every rule."""

    data: Data = Data()
    model: Model = Model()
    init: Init = Init()
    optim: Optim = Optim()
    schedule: Schedule = Schedule()
    batch: Batch = Batch()
    runtime: Runtime = Runtime()
    extra: Mapping[str, float] = field(default_factory=dict)

    def flat(self) -> dict[str, Any]:
        """{"table.key": value} over the whole recipe, `extra.*` last."""
        flat = {k.name: getattr(getattr(self, k.name.split(".")[0]), k.name.split(".")[1]) for k in keys()}
        return flat | {f"extra.{name}": value for name, value in self.extra.items()}

    def replace(self, changes: Mapping[str, Any]) -> Recipe:
        """The recipe with {"table.key": value} applied; RecipeError where the result is not valid."""
        tables: dict[str, dict[str, Any]] = {}
        for name, value in (self.flat() | dict(changes)).items():
            table, _, key = name.partition(".")
            tables.setdefault(table, {})[key] = value
        return _build(tables)

    def digest(self) -> str:
        """Equal for equal runs, however the file was written."""
        canonical = "\n".join(f"{k}={v!r}" for k, v in sorted(self.flat().items()))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    @property
    def rows_per_step(self) -> int:
        return self.batch.tokens_per_step // self.model.seq_len

    @property
    def micro_rows(self) -> int:
        return self.batch.micro_rows or self.rows_per_step


PRESETS = ("gpt2", "modern")  # recipes to start from, each a file in backends/presets


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """{key: its value after} of two flat recipes where they differ; None where an entry of `[extra]` is gone."""
    return {k: after.get(k) for k in {**before, **after} if after.get(k) != before.get(k)}


def preset_file(name: str) -> Path:
    """The file of one of PRESETS."""
    return Path(__file__).parent / "presets" / f"{name}.toml"


TABLES: dict[str, type] = {f.name: f.default.__class__ for f in dataclasses.fields(Recipe) if f.name != "extra"}
_TYPES = {"int": int, "float": float, "str": str, "bool": bool}


@functools.cache
def keys() -> tuple[Key, ...]:
    """The whole schema in file order."""
    return tuple(Key(f"{table}.{f.name}", _TYPES[str(f.type)], f.default, **f.metadata)
                 for table, cls in TABLES.items() for f in dataclasses.fields(cls))


def parse(text: str) -> Recipe:
    """Recipe from TOML text. Keys left out take their defaults. Raises RecipeError."""
    try:
        return _build(tomllib.loads(text))
    except RecipeError:
        raise
    except (ValueError, RecursionError) as e:  # TOML's own errors, and what Python says of numbers without end
        raise RecipeError([f"not valid TOML: {e}"]) from None


def load(path: Path) -> Recipe:
    """`parse` of a file. Raises RecipeError, with the path, for anything wrong with it."""
    try:
        return parse(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise RecipeError([f"{path}: {e.strerror}"]) from None
    except UnicodeDecodeError:
        raise RecipeError([f"{path}: not UTF-8 text"]) from None
    except RecipeError as e:
        raise RecipeError([f"{path}: {p}" for p in e.problems]) from None


def edit(text: str, changes: Mapping[str, Any]) -> str:
    """TOML text with {"table.key": value} set in place; comments and order are kept."""
    parse(text).replace(changes)
    document = tomlkit.parse(text)
    for name, value in changes.items():
        table, _, key = name.partition(".")
        document.setdefault(table, tomlkit.table())[key] = value
    return tomlkit.dumps(document)


def _build(tables: Mapping[str, Any]) -> Recipe:
    problems: list[str] = []
    schema = {k.name: k for k in keys()}
    known: dict[str, dict[str, Any]] = {}
    for table, entries in tables.items():
        if table != "extra" and table not in TABLES:
            problems.append(f"[{_show(table)}]: no such table{_nearest(table, [*TABLES, 'extra'])}")
        elif not isinstance(entries, Mapping):
            problems.append(f"{table} = {_show(entries)}: must be a table, [{table}]")
        elif table == "extra":
            problems += [f"extra.{k} = {_show(v)}: must be a finite number"
                         for k, v in entries.items() if not _finite(v)]
            known["extra"] = dict(entries)
        else:
            for key, value in entries.items():
                name = f"{table}.{key}"
                if name not in schema:
                    problems.append(f"{_show(name)}: no such key{_nearest(name, list(schema))}")
                elif fault := schema[name].check(value):
                    problems.append(fault)
                else:
                    known.setdefault(table, {})[key] = float(value) if schema[name].type is float else value
    if problems:
        raise RecipeError(problems)
    recipe = Recipe(**{t: cls(**known.get(t, {})) for t, cls in TABLES.items()}, extra=known.get("extra", {}))
    if problems := _conflicts(recipe):
        raise RecipeError(problems)
    return recipe


def _conflicts(r: Recipe) -> list[str]:
    """Keys that are valid alone and not together."""
    m, b, s = r.model, r.batch, r.schedule
    found = []
    if m.width % m.head_dim:
        found.append(f"model.width = {m.width}: must be a multiple of model.head_dim = {m.head_dim}")
    elif m.kv_heads and (m.width // m.head_dim) % m.kv_heads:
        found.append(f"model.kv_heads = {m.kv_heads}: must divide the {m.width // m.head_dim} query heads")
    if m.head_dim % 2 and m.positions == "rotary":
        found.append(f"model.head_dim = {m.head_dim}: must be even, rotary positions turn pairs of channels")
    if not m.window_pattern or set(m.window_pattern) - set("SL"):
        found.append(f"model.window_pattern = {m.window_pattern!r}: must be letters S and L, such as 'SSSL'")
    if m.value_gate_channels > m.width:
        found.append(f"model.value_gate_channels = {m.value_gate_channels}: must be at most model.width = {m.width}")
    if b.tokens_per_step % m.seq_len:
        found.append(f"batch.tokens_per_step = {b.tokens_per_step}: must be a multiple of model.seq_len = {m.seq_len}")
    elif b.micro_rows and r.rows_per_step % b.micro_rows:
        found.append(f"batch.micro_rows = {b.micro_rows}: must divide the {r.rows_per_step} rows of one step")
    if s.seq_parts & (s.seq_parts - 1):
        found.append(f"schedule.seq_parts = {s.seq_parts}: must be a power of two, 1 to 16")
    elif m.seq_len % s.seq_parts:
        found.append(f"schedule.seq_parts = {s.seq_parts}: must divide model.seq_len = {m.seq_len}")
    if s.warmup_frac + s.warmdown_frac > 1:
        found.append(f"schedule.warmup_frac + warmdown_frac = {s.warmup_frac + s.warmdown_frac:g}: must be at most 1")
    return found


def _finite(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) if isinstance(value, float) else abs(value) < 2**63


def _nearest(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
