"""The page of a study: what came of it, how sure that is, what was tried, and how to do it again. One HTML file that
needs nothing else.

Hypotheses, reasons, logs and samples are strangers' text: the templates escape all they are given.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import shlex
from dataclasses import dataclass
from datetime import date
from typing import Any

import autoresearch
from autoresearch import words
from autoresearch.data import overlap
from autoresearch.data.prepared import Prepared
from autoresearch.errors import UserError
from autoresearch.harness import conditions
from autoresearch.records import name_of
from autoresearch.report import charts, hours
from autoresearch.report.picture import caption, headline
from autoresearch.report.progress import progress
from autoresearch.report.samples import Sample
from autoresearch.report.story import Attempt, Story
from autoresearch.report.templates import render
from autoresearch.research import ablate, fair, horizon, verify
from autoresearch.research.ablate import Finding
from autoresearch.research.account import Arm, arms
from autoresearch.research.workspace import Workspace
from backends.recipe import keys

NEAREST = 8  # of the ideas that were dropped, those that came closest are named
FAILURES = 8
MATMUL = "this machine's matmul, TFLOP/s"
READING = {MATMUL: "The same work before every trial: where it sinks, the machine was throttled or shared."}
KNOBS = 40  # rows of what each knob taught
RATCHETS = {  # what it took to be kept
    "careful": "A change that looked promising on the first seed was kept when fresh seeds, compared with the "
               "incumbent's on the same seeds, put it beyond chance (docs/decisions.md).",
    "fast": "A change was kept when it beat the incumbent by more than that on one seed.",
    "greedy": "A change was kept for any decrease on one seed, so some of these gains are luck.",
}
MEANS = {
    "discard": "no better, too little better to tell from luck, or stopped when it could hardly catch up",
    "crash": "the training ended with an error",
    "timeout": "it overstayed its budget",
    "invalid": "it broke a rule, or its score was not earned",
    "interrupted": "the machine slept, was stopped or was shared: no judgement",
}


@dataclass(frozen=True)
class Turned:
    """One change in plain words."""

    change: str
    meaning: str = ""


def page(story: Story, workspace: Workspace, prepared: Prepared | None, samples: list[Sample],
         findings: list[Finding]) -> str:
    """`findings` are an ablation's, of kept experiments."""
    shown = progress(story)
    return render("report.html", {
        "story": story, "headline": headline(story), "lead": lead(story), "caption": caption(story).splitlines(),
        "today": date.today().isoformat(), "version": autoresearch.__version__,
        "picture": [charts.staircase(shown, width) for width in (charts.WIDE, charts.NARROW)] if shown else [],
        "shown": shown, "kept": [(a, turned(a, workspace), [judged_as(a), *worth(findings, a.n)]) for a in story.kept],
        "learning": learning(story.champion, story.baseline) if story.kept else [],
        "dropped": _dropped(story), "knobs": knobs(story), "checks": _checks(story), "arms": _arms(story),
        "samples": samples, "sure": [*_sureness(story), *_doubts(story, prepared)], "spent": hours.spent(story),
        "night": night(story), "facts": _facts(story, prepared),
        "commands": _commands(story, prepared), "words": words, "lessons": _no_gain(story), "share": _share})


def lead(story: Story) -> list[str]:
    """The first paragraphs: the gain, and what kind of number it is. The first stands out."""
    base, champion = story.baseline, story.champion
    if base is None or base.bpb is None or champion is None:
        return ["The baseline has not been scored yet, so there is nothing to compare with. "
                f"`ar loop --tag {story.tag}` goes on from here."]
    if not story.kept:
        tried = f"None of the {len(story.judged)} ideas tried so far was kept." if len(story.judged) > 1 else \
            "The one idea tried so far was not kept." if story.judged else "No idea has been tried yet."
        return [tried, f"The baseline scores {base.bpb:.4f} bits per byte and remains the champion."]
    selected = (f"On the validation split and the seed that chose it, the champion (#{champion.n}) scores "
                f"{champion.bpb:.4f} bits per byte, the baseline {base.bpb:.4f}: "
                f"{words.lower(story.gain_percent or 0.0)}.")
    if story.summary:
        return [story.summary.sentence, f"{selected} That number selected the winner, so it flatters it; the first one "
                "did not."]
    return [selected, "This gain is optimistic: the same split and seed selected the winner. "
            f"`ar verify --tag {story.tag}` measures it on fresh seeds and on text that selected nothing."]


def turned(a: Attempt, workspace: Workspace | None) -> list[Turned]:
    """What a change turned; files where it is no recipe's."""
    if a.experiment.changes:
        means = {key.name: key.help for key in keys()}
        before = a.parent.recipe if a.parent else None
        return [Turned(text, words.one_line(means.get(key) or "", 120))
                for key, text in zip(a.experiment.changes, words.changes(a.experiment.changes, before), strict=True)]
    if workspace is not None:
        with contextlib.suppress(UserError):
            return [Turned(path) for _, path in workspace.changed_paths(a.experiment.parent, a.experiment.sha)[:6]]
    return []


def judged_as(a: Attempt) -> str:
    """The first part of the reason: what was measured."""
    return words.one_line(a.experiment.reason.partition(": ")[0], 300)


def learning(mine: Attempt | None, theirs: Attempt | None) -> list[Any]:
    """Dev curves of two attempts, wide and narrow."""
    if mine is None or mine.trial is None:
        return []
    other = theirs.trial.curve if theirs and theirs.trial and theirs.n != mine.n else ()
    names = (name_of(mine.n), name_of(theirs.n) if theirs else "")
    drawn = [charts.learning(mine.trial.curve, other, names, mine.trial.budget_s, width)
             for width in (charts.WIDE, charts.NARROW)]
    return [chart for chart in drawn if chart is not None]


def worth(findings: list[Finding], n: int) -> list[str]:
    """What a kept change is worth beside the others, where that was measured."""
    found = next((f for f in findings if f.n == n and f.verdict != ablate.OPEN), None)
    if found is None:
        return []
    if found.mean_bpb is None or found.low_bpb is None or found.high_bpb is None:
        return [f"Beside the others: {ablate.MEANS[found.verdict]}" + (f" ({found.why})" if found.why else "") + "."]
    return [f"Beside the others, leaving it out costs {found.mean_bpb:.4f} bits per byte ({found.low_bpb:.4f} to "
            f"{found.high_bpb:.4f}, {found.seeds} fresh seeds): it {ablate.MEANS[found.verdict]}."]


def _dropped(story: Story) -> dict[str, Any]:
    others = [a for a in story.judged if a.verdict != "keep"]
    scored = sorted((a for a in others if a.gain_bpb is not None), key=lambda a: -(a.gain_bpb or 0.0))
    failed = [a for a in others if a.gain_bpb is None]
    return {"counts": [(v, story.counts[v], MEANS[v]) for v in MEANS if v in story.counts],
            "nearest": [(a, idea(a)) for a in scored[:NEAREST]], "more": len(scored) > NEAREST,
            "failed": [(a, idea(a), words.first_sentence(a.experiment.reason)) for a in failed[-FAILURES:]],
            "failures": len(failed)}


def idea(a: Attempt) -> str:
    changed = words.changes(a.experiment.changes, a.parent.recipe if a.parent else None)
    return ", ".join(changed) or words.one_line(a.experiment.hypothesis, 160)


def knobs(story: Story) -> list[tuple[str, list[Attempt]]]:
    """What turning each key did, those with the largest effect first: one key alone, or several turned together."""
    found: dict[str, list[Attempt]] = {}
    for a in story.judged:
        if a.gain_bpb is not None and a.experiment.changes:
            found.setdefault(" with ".join(a.experiment.changes), []).append(a)
    effect = {key: max(abs(a.gain_bpb or 0.0) for a in tried) for key, tried in found.items()}
    return sorted(found.items(), key=lambda item: -effect[item[0]])[:KNOBS]


def _no_gain(story: Story) -> list[str]:
    """What a night without a gain says all the same."""
    if story.kept or not story.judged or story.baseline is None:
        return []
    said = []
    if story.spread_bpb:
        said.append(f"Seeds alone move this baseline by {story.spread_bpb:.4f} bits per byte, so what gains much less "
                    "than that can't be seen here in one night.")
    scored = [a for a in story.judged if a.gain_bpb is not None]
    if scored:
        best = max(scored, key=lambda a: a.gain_bpb or 0.0)
        said.append(f"Closest came #{best.n} ({idea(best)}): {words.signed(-(best.gain_bpb or 0.0))} bits per byte.")
    failed = len(story.judged) - len(scored)
    if failed:
        said.append(f"{failed} of {len(story.judged)} ideas came to no score; why stands below.")
    said.append("What usually helps next: a longer budget, so that one step counts for less and more ideas fit; more "
                "text, if the champion sees it more than once; a quieter machine; a brief of your own in program.md.")
    return said


def night(story: Story) -> list[tuple[list[Any], str]]:
    """Charts of what every trial measured, with what one may read from them: throughput, memory, the machine's own
    speed, its heat, and who else used it."""
    found = hours.measured(story)
    series = [("tokens a second", [(m.hour, m.tokens_per_s, f"{m.name}: {m.tokens_per_s:,.0f} tokens/s")
                                   for m in found]),
              ("peak memory, MiB", [(m.hour, m.trial.peak_memory_bytes / 2**20,
                                     f"{m.name}: {words.gib(m.trial.peak_memory_bytes)}") for m in found]),
              (MATMUL, [(m.hour, m.ceiling_flops / 1e12, f"{m.name}: {m.ceiling_flops / 1e12:.2f} TFLOP/s")
                        for m in found])]
    for name, fact in (("hottest, °C", "hottest_c"), ("cores used by others", "outside_cores")):
        series.append((name, [(m.hour, value, f"{m.name}: {value:.1f}") for m in found
                              if (value := m.machine(fact)) is not None]))
    return [([charts.over_time(points, name, width) for width in (charts.WIDE, charts.NARROW)], READING.get(name, ""))
            for name, points in series if any(value for _, value, _ in points)]


def _share(parts: list[hours.Part]) -> list[Any]:
    sizes = [(part.name, part.seconds) for part in parts]
    return [charts.share(sizes, "where the hours went", width) for width in (charts.WIDE, charts.NARROW)]


def _sureness(story: Story) -> list[str]:
    if story.baseline is None or story.baseline.bpb is None:
        return []
    seeds = [f"{b:.4f}" for t in story.baseline.experiment.screens() if (b := t.bpb()) is not None]
    lines = [f"The baseline was trained with {len(seeds)} seeds: {', '.join(seeds)} bits per byte."]
    if story.spread_bpb:
        lines.append(f"Their standard deviation is {story.spread_bpb:.4f}. {RATCHETS[story.ratchet]}")
    reads = story.confirm_reads
    how = ": nothing has been verified yet." if not reads else ", never by the study to choose anything." \
        if not story.quarantined else ", also to examine gains that looked too large, which decided on these."
    lines.append(f"The confirm split has been read {words.times(reads)}{how}")
    if story.holdout_evals:
        lines.append(f"The holdout split has been read {words.times(story.holdout_evals)}, by `ar eval`. A score on it "
                     "means less with every look.")
    return lines


def _doubts(story: Story, prepared: Prepared | None) -> list[str]:
    """What scores are to be doubted for: others at work beside a trial, and rows that training has read."""
    accelerated, seen = fair.accelerated(str(story.facts.get("backend"))), hours.conditions(story)
    shared = [(c, why) for c in seen if (why := conditions.unfair(c, accelerated=accelerated))]
    lines = []
    if shared:
        worst = max(shared, key=lambda found: found[0].outside_cores or 0.0)[1]
        lines.append(f"Of {len(seen)} trials with a score {len(shared)} ran on a machine that was shared or unsteady, "
                     f"as `--busy-ok` allows: their scores are noisier. At worst {worst}.")
    if prepared is not None and (warning := overlap.warning(prepared.manifest.overlap)):
        lines.append(f"Of the text {warning}.")
    return lines


def _checks(story: Story) -> list[str]:
    """What verification says beyond its headline."""
    summary, champion = story.summary, story.champion
    if summary is None or champion is None:
        return []
    budget_s = story.facts.get("budget_s")
    reached = horizon.target(story.experiments, champion.n, budget_s) if budget_s else None
    return [said for said in (verify.optimism(summary), verify.holdout(summary),
                              horizon.sentence(reached) if reached else "") if said]


def _arms(story: Story) -> list[Arm]:
    """What each researcher's experiments cost and earned, where any of it cost something."""
    return arms([(a.experiment, a.gain_bpb) for a in story.judged], story.spending) if story.spending else []


def _facts(story: Story, prepared: Prepared | None) -> list[tuple[str, str]]:
    facts = story.facts
    budget = facts.get("budget_s")
    rows = [("device", words.device(facts)), ("backend", str(facts.get("backend"))),
            ("training budget", f"{budget:g} s a trial" if budget else "a fixed number of steps"),
            ("text", f"{facts.get('data_name')}, digest {facts.get('data_digest')}")]
    if prepared is not None:
        corpus = prepared.manifest.corpus
        rows += [("its source", f"{words.source(corpus.kind, corpus.source)}, {corpus.bytes:,} bytes"),
                 ("its sha256", corpus.sha256)]
    rows += [(f"commit of the {name}", sha) for name, sha in _commits(story) if sha]
    rows += [("trainer", f"autoresearch {autoresearch.__version__}, digest of its frozen files "
              f"{facts.get('frozen_digest') or 'unknown'}"), ("versions when this page was made", _versions())]
    return rows


def _commits(story: Story) -> list[tuple[str, str]]:
    champion = story.champion.experiment.sha if story.champion and story.champion.n > 0 else ""
    return [("start", str(story.facts.get("base") or "")),
            ("baseline", story.baseline.experiment.sha if story.baseline else ""), ("champion", champion)]


def _commands(story: Story, prepared: Prepared | None) -> str:
    kind = prepared.manifest.corpus.kind if prepared is not None else "text"
    source = "--text PATH" if kind == "text" else kind
    name = shlex.quote(str(story.facts.get("data_name")))
    lines = [f"ar prepare {source} --name {name}  # then compare the digest"]
    if story.champion:
        which = "champion" if story.champion.n else "baseline"
        lines += [f"git checkout {story.champion.experiment.sha}  # the {which}",
                  words.train(story.facts, story.seed)]
    return "\n".join([*lines, f"ar verify --tag {story.tag}  # fresh seeds, the whole confirm split",
                      f"ar sample --tag {story.tag}"])


def _versions() -> str:
    found = [f"Python {platform.python_version()}", f"{platform.system()} {platform.machine()}"]
    for name in ("numpy", "torch", "mlx"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    return ", ".join(found)
