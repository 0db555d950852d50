"""Who finds more in as many experiments: random search, TPE, CMA-ES, the playbook, the playbook and then search.

    python -m benchmarks.researchers --simulated                          minutes; no training, no machine
    python -m benchmarks.researchers --text shakespeare_complete.txt --preset gpt2 --folder DIR
    python -m benchmarks.researchers ... --arm "claude=--researcher claude --max-usd 2"

Every arm starts from the same baseline of the same text on the same machine, with the same training seeds, and gets the
same number of experiments. That is not the same time: one that looks promising is trained again on fresh seeds, so the
table has every arm's trials and minutes of training too. The baseline is this clone's recipe, tuned as it is, unless
--preset names one that leaves researchers more to find. A repetition begins the text elsewhere, so that all of its
splits differ; arms are compared within repetitions. Arms take turns in another order each time, since machines drift.
Prints the curves of the best so far, in bits per byte gained on the baseline (what each kept change gained on its fresh
seeds, added up), with 95% intervals over repetitions, and the area under them: the gain that one has on average while
the study runs. Run again with the same --folder it goes on. Keep the machine otherwise idle: 5 arms, 3 repetitions and
24 experiments of 30 s take most of a day.

With --simulated the trainer is a function (benchmarks/simulated.py), every repetition another machine to learn, and
the gain is the true one, without the noise that decided.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import math
import shlex
import shutil
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from autoresearch.records import BASELINE, Experiment, Trial
from autoresearch.report.story import Story, tell
from autoresearch.research import verify
from autoresearch.research.paired import half_width
from autoresearch.research.researchers.base import Researcher
from autoresearch.research.researchers.hybrid import Relay
from autoresearch.research.researchers.playbook import Playbook
from autoresearch.research.researchers.search import Search
from autoresearch.research.study import Study
from backends.recipe import PRESETS
from benchmarks import clones, simulated
from benchmarks.clones import ar

TAG = "night"
ARMS = {
    "random": "--researcher search --sampler random",
    "TPE": "--researcher search --sampler tpe",
    "CMA-ES": "--researcher search --sampler cma",
    "playbook": "--researcher playbook",
    "playbook, then CMA-ES": "--researcher relay --sampler cma",
}
DEFAULT_ARM = "playbook"  # what `ar loop` does unless it is told otherwise
SIMULATED: dict[str, Callable[[], Researcher]] = {
    "random": lambda: Search("random"),
    "TPE": lambda: Search("tpe"),
    "CMA-ES": lambda: Search("cma"),
    "playbook": Playbook,
    "playbook, then CMA-ES": lambda: Relay(Playbook(), Search("cma")),
    "playbook, then TPE": lambda: Relay(Playbook(), Search("tpe")),
}


@dataclass(frozen=True)
class Run:
    """One arm in one repetition. `gains_bpb` is the incumbent's on the baseline after each experiment."""

    arm: str
    repetition: int
    gains_bpb: list[float]
    kept: int
    out_of_memory: int
    verified_bpb: float | None = None  # champion on baseline, on fresh seeds and text that selected nothing
    trials: int = 0  # of its experiments and their incumbents, beside the baseline that all arms share
    training_minutes: float = 0.0

    @property
    def area(self) -> float:
        return statistics.fmean(self.gains_bpb)


# Simulated


def simulate(arm: str, repetition: int, experiments: int, noise_bpb: float = simulated.SPREAD) -> Run:
    trainer = simulated.Trainer(repetition, noise_bpb)
    study = simulated.Study(simulated.START, trainer, SIMULATED[arm](), fits=trainer.fits, spread_bpb=noise_bpb)
    gains = []
    for _ in range(experiments):
        study.step()
        gains.append(trainer.level(simulated.START) - trainer.level(study.recipe))
    return counted(arm, repetition, gains, study.ledger)


def counted(arm: str, repetition: int, gains: list[float], ledger: Sequence[Experiment],
            verified: float | None = None) -> Run:
    ideas = [e for e in ledger if e.n > BASELINE]
    trials = [t for e in ledger for t in e.trials if _is_own(t)]
    return Run(arm, repetition, gains, sum(e.verdict == "keep" for e in ideas),
               sum("out of memory" in e.reason for e in ideas), verified, len(trials),
               sum(t.train_s for t in trials) / 60)


def _is_own(trial: Trial) -> bool:
    """Whether the arm's researcher is why it ran: not the baseline's first ones, verification, or what the machine
    spoilt."""
    is_shared = trial.experiment == BASELINE and trial.purpose == "screen"
    return not is_shared and trial.purpose != verify.PURPOSE and trial.status not in ("running", "interrupted")


# On this machine


def beginning(options: argparse.Namespace, repetition: int) -> Path:
    """A clone with the repetition's text and a study that has its baseline, and nothing else."""
    place = options.folder.resolve() / f"repetition-{repetition}"
    clone, cache = place / "baseline" / "clone", place / "cache"
    if (place / "begun").exists():
        return clone
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    clones.fresh(clone)
    whole = options.text.read_text(encoding="utf-8")
    cut = whole.find("\n", (repetition - 1) * len(whole) // options.repetitions) + 1 if repetition > 1 else 0
    (place / "text.txt").write_text(whole[cut:] + whole[:cut], encoding="utf-8")
    ar(clone, cache, "prepare", "--text", str(place / "text.txt"), "--name", "benchmark")
    start = ("--preset", options.preset) if options.preset else ()
    ar(clone, cache, "loop", "--tag", TAG, "--budget", str(options.budget), "--experiments", "0",
       "--verify-seeds", "0", *start)
    (place / "begun").touch()
    return clone


def night(begun: Path, arm: str, options: str, repetition: int, experiments: int) -> Run:
    """One arm from the repetition's baseline to its last experiment, and its champion verified; or what is left."""
    place = begun.parents[1] / "".join(c if c.isalnum() else "-" for c in arm)
    result, clone, cache = place / "result.json", place / "clone", begun.parents[1] / "cache"
    if result.exists():
        return Run(**json.loads(result.read_text()))
    if not clone.exists():
        partial = place.with_name(place.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(begun, partial / "clone", symlinks=True)
        partial.rename(place)
    while (left := experiments - len(decided(clone))) > 0:
        ar(clone, cache, "loop", "--tag", TAG, "--experiments", str(left), "--verify-seeds", "0", *shlex.split(options))
    if any(e.verdict == "keep" for e in decided(clone)):  # else there is nothing to compare, which `ar verify` refuses
        ar(clone, cache, "verify", "--tag", TAG, "--seeds", "3", "--no-reference")
    run = measured(arm, repetition, clone, experiments)
    clones.save(result, asdict(run))
    return run


def decided(clone: Path) -> list[Experiment]:
    with Study.open(clone, TAG, readonly=True) as study:
        return [e for e in study.ledger.experiments() if e.n > BASELINE and e.state == "done"]


def measured(arm: str, repetition: int, clone: Path, experiments: int) -> Run:
    with Study.open(clone, TAG, readonly=True) as study:
        story = tell(study)
    total, gains = 0.0, list[float]()
    for idea in story.ideas:
        if idea.verdict == "keep":
            total += idea.gain_bpb or 0.0
        gains.append(total)
    ledger = [e for e in story.experiments if e.n >= BASELINE]
    return counted(arm, repetition, gains[:experiments], ledger, _verified(story))


def _verified(story: Story) -> float | None:
    """The champion's gain on confirm; 0 where it is the baseline itself, None where nothing was measured."""
    if not story.kept:
        return 0.0
    found = story.summary.splits.get("confirm") if story.summary else None
    return found.mean_bpb if found else None


# What came out


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half of its 95% interval."""
    return statistics.fmean(values), half_width(list(values))


def table(runs: Sequence[Run], against: str) -> str:
    arms, experiments = list(dict.fromkeys(r.arm for r in runs)), len(runs[0].gains_bpb)
    points = [n for n in (experiments // 4, experiments // 2, 3 * experiments // 4, experiments) if n]
    lines = ["Bits per byte gained on the baseline after so many experiments, in thousandths, with 95% intervals over "
             "repetitions:\n",
             "| researcher | " + " | ".join(f"after {n}" for n in points)
             + f" | area | area less that of {against} | verified | trials | minutes of training | kept "
             "| out of memory |",
             "|---|" + "--:|" * (len(points) + 7)]
    reference = {r.repetition: r.area for r in runs if r.arm == against}
    for arm in arms:
        own = [r for r in runs if r.arm == arm]
        cells = [_thousandths([r.gains_bpb[n - 1] for r in own]) for n in points]
        cells += [_thousandths([r.area for r in own])]
        paired = [r.area - reference[r.repetition] for r in own if r.repetition in reference]
        cells += [_thousandths(paired) if paired and arm != against else ""]
        verified = [r.verified_bpb for r in own if r.verified_bpb is not None]
        cells += [_thousandths(verified) if verified else ""]
        cells += [f"{statistics.fmean(r.trials for r in own):.1f}",
                  f"{statistics.fmean(r.training_minutes for r in own):.1f}",
                  f"{statistics.fmean(r.kept for r in own):.1f}",
                  f"{sum(r.out_of_memory for r in own) / (len(own) * experiments):.0%}"]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _thousandths(values: Sequence[float]) -> str:
    mean, half = interval(values)
    return f"{1000 * mean:.1f}" + (f" ± {1000 * half:.1f}" if math.isfinite(half) else "")


def write_curves(path: Path, runs: Sequence[Run]) -> None:
    with path.open("w", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(["researcher", "repetition", "experiment", "gain_bpb"])
        writer.writerows([r.arm, r.repetition, n, g] for r in runs for n, g in enumerate(r.gains_bpb, 1))


def asked(words: Sequence[str] | None = None) -> tuple[argparse.Namespace, dict[str, str]]:
    """What was typed, and the arms that it chooses, each with its options of `ar loop`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulated", action="store_true")
    parser.add_argument("--text", type=Path)
    parser.add_argument("--folder", type=Path, help="where the clones and the curves go")
    parser.add_argument("--experiments", type=int, default=24)
    parser.add_argument("--budget", type=float, default=30.0, help="seconds of training of one trial")
    parser.add_argument("--preset", choices=PRESETS, help="the recipe to start from; default: this clone's")
    parser.add_argument("--repetitions", type=int, default=None, help="default: 3, simulated 20")
    parser.add_argument("--only", default="", help="names of arms, separated by semicolons")
    parser.add_argument("--arm", action="append", default=[], metavar="NAME=OPTIONS", help="one more, of ar loop")
    options = parser.parse_args(words)
    if options.repetitions is None:
        options.repetitions = 20 if options.simulated else 3
    more = {name: rest for name, _, rest in (arm.partition("=") for arm in options.arm)}
    arms = dict.fromkeys(SIMULATED, "") if options.simulated else ARMS | more
    only = [name for name in options.only.split(";") if name]
    if not options.simulated and (options.text is None or options.folder is None):
        parser.error("--text and --folder are needed, the text to train on and where results go; --simulated needs "
                     "neither")
    if options.simulated and more:
        parser.error(f"--arm {', '.join(more)}: it is run by `ar loop`, which --simulated does without; leave out one "
                     "of the two")
    if nameless := [arm for arm in options.arm if "=" not in arm]:
        parser.error(f"--arm {nameless[0]}: write NAME=OPTIONS, such as \"claude=--researcher claude --max-usd 2\"")
    if unknown := [name for name in only if name not in arms]:
        parser.error(f"--only {unknown[0]}: there is no such arm; there are {'; '.join(arms)}")
    if min(options.experiments, options.repetitions) < 1:
        parser.error("--experiments and --repetitions must be 1 or more")
    return options, {name: rest for name, rest in arms.items() if name in only or not only}


def main() -> None:
    options, arms = asked()
    chosen = list(arms)
    if not options.simulated:
        clones.settle(options.folder, {
            "text": clones.digest(options.text), "budget_s": options.budget, "experiments": options.experiments,
            "repetitions": options.repetitions, "preset": options.preset,
            **{f"arm {name}": words for name, words in arms.items()}})
    runs: list[Run] = []
    for repetition in range(1, options.repetitions + 1):
        begun = None if options.simulated else beginning(options, repetition)
        for arm in itertools.islice(itertools.cycle(chosen), repetition - 1, repetition - 1 + len(chosen)):
            runs.append(simulate(arm, repetition, options.experiments) if begun is None
                        else night(begun, arm, arms[arm], repetition, options.experiments))
            print(f"repetition {repetition}, {arm}: {runs[-1].gains_bpb[-1]:.4f}", file=sys.stderr)
    runs.sort(key=lambda r: (chosen.index(r.arm), r.repetition))
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
        write_curves(options.folder / "curves.csv", runs)
    print(table(runs, "random" if "random" in chosen else chosen[0]))


if __name__ == "__main__":
    main()
