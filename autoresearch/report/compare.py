"""Two studies, or two experiments, side by side: what differs, and whether their scores compare at all.

    Side         one of the two, as facts for a person
    studies      two of them, each by its champion
    experiments  two of them, paired on the seeds they share
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoresearch import words
from autoresearch.records import Experiment
from autoresearch.report import hours
from autoresearch.report.story import Attempt, Story
from autoresearch.research.paired import Gain, gain

# Facts that must be equal for scores to compare, and what they are called; on val as many rows of it besides.
TERMS = {"data_digest": "text", "device": "device", "backend": "backend", "budget_s": "training budget",
         "frozen_digest": "trainer"}
ON_VAL = TERMS | {"val_rows": "scored rows"}


@dataclass(frozen=True)
class Side:
    name: str
    facts: dict[str, str]
    recipe: dict[str, Any]
    verified: str = ""  # what fresh seeds and the confirm split said, in a sentence
    unscored: str = ""  # why it has no score


@dataclass(frozen=True)
class Comparison:
    a: Side
    b: Side
    unlike: list[str]  # terms that differ: scores don't compare
    gain: Gain | None  # of b over a, on the seeds and rows both were scored on

    @property
    def turned(self) -> list[tuple[str, Any, Any]]:
        """(key, a's value, b's value) of the recipes where they differ."""
        keys = [*self.a.recipe, *(key for key in self.b.recipe if key not in self.a.recipe)]
        pairs = [(key, self.a.recipe.get(key), self.b.recipe.get(key)) for key in keys]
        return [(key, x, y) for key, x, y in pairs if x != y]


def studies(a: Story, b: Story) -> Comparison:
    unlike = differing(a.facts, b.facts)
    return Comparison(_study(a), _study(b), unlike, None if unlike else _on_val(a.champion, b.champion))


def experiments(a: Story, m: Attempt, b: Story, n: Attempt) -> Comparison:
    unlike = [] if a.tag == b.tag else differing(a.facts, b.facts)
    names = (str(m.n), str(n.n)) if a.tag == b.tag else (f"{a.tag}:{m.n}", f"{b.tag}:{n.n}")
    sides = _experiment(names[0], a, m), _experiment(names[1], b, n)
    return Comparison(*sides, unlike, None if unlike else _on_val(m, n))


def terms(facts: Mapping[str, Any]) -> tuple[Any, ...]:
    """Equal for studies whose scores on confirm compare."""
    return tuple(_term(facts, key) for key in TERMS)


def differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """What keeps scores on val from being compared."""
    return [name for key, name in ON_VAL.items() if _term(a, key) != _term(b, key)]


def _term(facts: Mapping[str, Any], key: str) -> Any:
    found = facts.get(key)
    return found.get("name") if isinstance(found, Mapping) else found


def _on_val(a: Attempt | None, b: Attempt | None) -> Gain | None:
    if a is None or b is None:
        return None
    return gain("", a.experiment.on_val(), b.experiment.on_val())


def _study(story: Story) -> Side:
    base, champion = story.baseline, story.champion
    facts = {"text": str(story.facts.get("data_name")), "device": words.device(story.facts),
             "backend": str(story.facts.get("backend")), "ratchet": story.ratchet,
             "training budget": f"{story.facts['budget_s']:g} s" if story.facts.get("budget_s") else "",
             "experiments": f"{len(story.judged)}, {len(story.kept)} kept",
             "time": words.duration(hours.spent(story).total_s),
             "baseline, val": _score(base.bpb if base else None),
             "champion": f"#{champion.n}" if champion and champion.n else "the baseline" if champion else "",
             "champion, val": _score(champion.bpb if champion else None),
             "gain where it was selected": f"{story.gain_percent:.1f}%" if story.gain_percent is not None else "",
             "spread of seeds": _score(story.spread_bpb)}
    return Side(story.tag, facts, champion.experiment.recipe if champion else {},
                story.summary.sentence if story.summary else "Not verified yet.",
                "" if champion else "its baseline is not done")


def _experiment(name: str, story: Story, a: Attempt) -> Side:
    e, t = a.experiment, a.trial
    facts = {"hypothesis": words.one_line(e.hypothesis), "proposed by": words.one_line(e.researcher),
             "verdict": story.standing(a), "val, screening seed": _score(a.bpb), "val, mean of seeds": _mean(e),
             "against its incumbent": words.signed(None if a.gain_bpb is None else -a.gain_bpb),
             "steps": f"{t.steps:,}" if t and t.steps else "",
             "tokens a second": f"{a.tokens_per_s:,.0f}" if a.tokens_per_s else "",
             "parameters": f"{t.params:,}" if t and t.params else "",
             "peak memory": words.gib(t.peak_memory_bytes) if t and t.peak_memory_bytes else "",
             "commit": e.sha[:12]}
    return Side(name, facts, e.recipe, unscored=_unscored(a))


def _unscored(a: Attempt) -> str:
    if a.bpb is not None:
        return ""
    why = a.experiment.reason or (a.trial.reason if a.trial else "")
    return words.first_sentence(why) or ("it is not decided yet" if not a.verdict else a.verdict)


def _mean(e: Experiment) -> str:
    scores = list(e.on_val().values())
    return f"{sum(scores) / len(scores):.4f} ({len(scores)} seed{'' if len(scores) == 1 else 's'})" if scores else ""


def _score(bpb: float | None) -> str:
    return "" if bpb is None else f"{bpb:.4f}"
