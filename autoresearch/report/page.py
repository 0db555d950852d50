"""The Markdown page of a study: what came of it, how sure that is, what was tried, and how to do it again.

Hypotheses, reasons, logs and samples are strangers' text: they are escaped or fenced wherever they stand.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import shlex
from typing import Any

import autoresearch
from autoresearch.data.prepared import Prepared
from autoresearch.errors import UserError
from autoresearch.report import words
from autoresearch.report.picture import headline
from autoresearch.report.samples import Sample
from autoresearch.report.story import Attempt, Story
from autoresearch.research.workspace import Workspace
from backends.recipe import keys

NEAREST = 8  # of the ideas that were dropped, those that came closest are named
FAILURES = 8
MEANS = {
    "discard": "no better, or too little better to tell from luck",
    "crash": "the training ended with an error",
    "timeout": "it overstayed its budget",
    "invalid": "it broke a rule, or its score was not earned",
    "interrupted": "the machine slept, was stopped or was shared: no judgement",
}


def page(story: Story, workspace: Workspace, prepared: Prepared | None, samples: list[Sample]) -> str:
    parts = [f"# {words.escape(story.tag)}: {headline(story)}", verdict(story), _picture(), _kept(story, workspace),
             _dropped(story), _samples(samples), _sureness(story), _again(story, prepared)]
    return "\n\n".join(part for part in parts if part) + "\n"


def verdict(story: Story) -> str:
    """The first paragraph: the gain, and what kind of number it is."""
    base, champion = story.baseline, story.champion
    if base is None or base.bpb is None or champion is None:
        return "The baseline has not been scored yet, so there is nothing to compare with. " \
               f"`ar loop --tag {story.tag}` goes on from here."
    if not story.kept:
        tried = f"None of the {len(story.judged)} ideas tried so far beats the baseline" if len(story.judged) > 1 else \
            "The one idea tried so far does not beat the baseline" if story.judged else "No idea has been tried yet"
        spread = f" by more than its seeds differ among themselves ({story.spread_bpb:.4f} bits per byte)" \
            if story.judged and story.spread_bpb else ""
        return f"**{tried}{spread}.** The baseline scores {base.bpb:.4f} bits per byte and remains the champion."
    selected = (f"On the validation split and the seed that chose it, the champion (#{champion.n}) scores "
                f"{champion.bpb:.4f} bits per byte, the baseline {base.bpb:.4f}: {story.gain_percent:.1f}% lower.")
    if story.summary:
        return f"**{story.summary.sentence}**\n\n{selected} That number selected the winner, so it flatters it; " \
               "the first one did not."
    return f"**{selected}** This gain is optimistic: the same split and seed selected the winner. " \
           f"`ar verify --tag {story.tag}` measures it on fresh seeds and on text that selected nothing."


def _picture() -> str:
    return ('<picture>\n  <source media="(prefers-color-scheme: dark)" srcset="progress-dark.png">\n'
            '  <img alt="Bits per byte of every experiment, and the best so far" src="progress.png">\n</picture>')


def _kept(story: Story, workspace: Workspace) -> str:
    if not story.kept:
        return ""
    rows = ["| # | change | gain, bits per byte | gain | steps | commit |", "|--:|---|--:|--:|--:|---|"]
    for a in story.kept:
        percent = f"{a.gain_percent:.1f}%" if a.gain_percent is not None else ""
        gain = f"{a.gain_bpb:.4f}" if a.gain_bpb is not None else ""
        steps = f"{a.trial.steps:,}" if a.trial else ""
        rows.append(f"| {a.n} | {_change(a, workspace)} | {gain} | {percent} | {steps} | `{a.experiment.sha[:10]}` |")
    return "## What was kept\n\nEach gain is over the incumbent of its time, on the same seed.\n\n" + "\n".join(rows)


def _change(a: Attempt, workspace: Workspace) -> str:
    """In plain words: what was turned, and why."""
    why = words.escape(a.experiment.hypothesis, 220)
    if a.experiment.changes:
        means = {key.name: key.help for key in keys()}
        before = a.parent.recipe if a.parent else None
        turned = [words.code(text) + (f" ({words.escape(means[key], 120)})" if means.get(key) else "")
                  for key, text in zip(a.experiment.changes, words.changes(a.experiment.changes, before), strict=True)]
        return f"{', '.join(turned)}<br>{why}"
    with contextlib.suppress(UserError):
        paths = [path for _, path in workspace.changed_paths(a.experiment.parent, a.experiment.sha)]
        return f"{', '.join(words.code(p) for p in paths[:6])}<br>{why}"
    return why


def _dropped(story: Story) -> str:
    others = [a for a in story.judged if a.verdict != "keep"]
    if not others:
        return ""
    counts = ["| verdict | ideas | what it means |", "|---|--:|---|"]
    counts += [f"| {v} | {story.counts[v]} | {MEANS[v]} |" for v in MEANS if v in story.counts]
    parts = ["## What did not help", "\n".join(counts)]
    scored = sorted((a for a in others if a.gain_bpb is not None), key=lambda a: -(a.gain_bpb or 0.0))
    if scored:
        nearest = ", those that came closest" if len(scored) > NEAREST else ""
        rows = [f"| {a.n} | {_idea(a)} | {words.signed(-(a.gain_bpb or 0.0))} |" for a in scored[:NEAREST]]
        parts.append(f"Measured and dropped{nearest} (bits per byte against the incumbent; below zero is better):\n\n"
                     + "\n".join(["| # | idea | difference |", "|--:|---|--:|", *rows]))
    failed = [a for a in others if a.gain_bpb is None]
    if failed:
        rows = [f"| {a.n} | {_idea(a)} | {a.verdict}: {words.escape(words.first_sentence(a.experiment.reason), 200)} |"
                for a in failed[-FAILURES:]]
        last = f", the last {FAILURES}" if len(failed) > FAILURES else ""
        parts.append(f"Without a score{last}:\n\n" + "\n".join(["| # | idea | why |", "|--:|---|---|", *rows]))
    return "\n\n".join([*parts, f"All of them: `ar log --tag {story.tag}`; one in full: `ar log N`."])


def _idea(a: Attempt) -> str:
    changed = words.changes(a.experiment.changes, a.parent.recipe if a.parent else None)
    return ", ".join(map(words.code, changed)) or words.escape(a.experiment.hypothesis, 160)


def _samples(samples: list[Sample]) -> str:
    if not samples:
        return ""
    parts = ["## Samples", "The same beginning, from text that was not trained on, and the same seed for each:",
             words.fence(samples[0].prompt)]
    for sample in samples:
        body = words.fence(sample.text) if sample.text else f"Not available: {words.escape(sample.problem)}."
        parts += [f"**{sample.label}** goes on:", body]
    return "\n\n".join(parts)


def _sureness(story: Story) -> str:
    if story.baseline is None or story.baseline.bpb is None:
        return ""
    seeds = [f"{b:.4f}" for t in story.baseline.experiment.screens() if (b := t.bpb()) is not None]
    lines = [f"- The baseline was trained with {len(seeds)} seeds: {', '.join(seeds)} bits per byte."]
    if story.spread_bpb:
        lines.append(f"- Their standard deviation, {story.spread_bpb:.4f}, is what a change had to beat on seed "
                     f"{story.seed} to be kept.")
    reads = story.confirm_reads
    lines.append(f"- The confirm split has been read {reads} time{'' if reads == 1 else 's'}"
                 + (", never to choose anything." if reads else ": nothing has been verified yet."))
    parts = ["## How sure this is", "\n".join(lines)]
    if story.summary:
        rows = ["| on the confirm split | mean bits per byte | each seed |", "|---|--:|---|"]
        rows += [f"| {words.escape(arm.label)} | {arm.mean:.4f} | {', '.join(f'{b:.4f}' for b in arm.bpb)} |"
                 for arm in story.summary.arms]
        parts.append("\n".join(rows))
    return "\n\n".join(parts)


def _again(story: Story, prepared: Prepared | None) -> str:
    facts = story.facts
    budget = facts.get("budget_s")
    rows = [("device", words.escape(words.device(facts))), ("backend", words.escape(str(facts.get("backend")))),
            ("training budget", f"{budget:g} s a trial" if budget else "a fixed number of steps"),
            *_text_rows(facts, prepared)]
    rows += [(f"commit of the {name}", f"`{sha}`") for name, sha in _commits(story) if sha]
    frozen = words.code(str(facts.get("frozen_digest") or "unknown"))
    rows += [("trainer", f"autoresearch {autoresearch.__version__}, digest of its frozen files {frozen}"),
             ("versions at the time of this page", _versions())]
    table = "\n".join(["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows)])
    return f"## How to do it again\n\n{table}\n\n{words.fence(_commands(story, prepared), 'sh')}"


def _text_rows(facts: dict[str, Any], prepared: Prepared | None) -> list[tuple[str, str]]:
    digest = words.code(str(facts.get("data_digest")))
    rows = [("text", f"{words.escape(str(facts.get('data_name')))}, digest {digest}")]
    if prepared is not None:
        corpus = prepared.manifest.corpus
        rows += [("its source", f"{words.escape(corpus.source)}, {corpus.bytes:,} bytes"),
                 ("its sha256", words.code(corpus.sha256))]
    return rows


def _commits(story: Story) -> list[tuple[str, str]]:
    champion = story.champion.experiment.sha if story.champion and story.champion.n > 0 else ""
    return [("start", str(story.facts.get("base") or "")),
            ("baseline", story.baseline.experiment.sha if story.baseline else ""), ("champion", champion)]


def _commands(story: Story, prepared: Prepared | None) -> str:
    tag, budget, backend = story.tag, story.facts.get("budget_s"), story.facts.get("backend")
    source = "" if prepared is not None and prepared.manifest.corpus.kind == "stdlib" else " --text PATH"
    name = shlex.quote(str(story.facts.get("data_name")))
    terms = (f" --budget {budget:g}" if budget else "") + (f" --backend {backend}" if backend else "")
    lines = [f"ar prepare{source} --name {name}  # then compare the digest"]
    if story.champion:
        which = "champion" if story.champion.n else "baseline"
        lines += [f"git checkout {story.champion.experiment.sha}  # the {which}",
                  f"ar train{terms}" + (f" --seed {story.seed}" if story.seed is not None else "")]
    return "\n".join([*lines, f"ar verify --tag {tag}  # fresh seeds, the whole confirm split",
                      f"ar sample --tag {tag}"])


def _versions() -> str:
    found = [f"Python {platform.python_version()}", f"{platform.system()} {platform.machine()}"]
    for name in ("numpy", "torch", "mlx"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    return words.escape(", ".join(found))
