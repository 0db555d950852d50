"""`ar try`: a person's or a coding agent's own edit, judged like any other experiment."""

from __future__ import annotations

import json

import click

from autoresearch.cli.machine import fair_options, futility_option, sandbox_option
from autoresearch.cli.studying import interruptible, lab_of, loop_of, open_study, ratchet_option
from autoresearch.cli.terminal import TerminalView
from autoresearch.errors import UserError
from autoresearch.paths import CANDIDATE
from autoresearch.records import BASELINE
from autoresearch.research.lint import lint
from autoresearch.research.researchers.playbook import Playbook
from autoresearch.research.until import Until
from autoresearch.research.workspace import message
from backends.recipe import RecipeError, changed, parse


@click.command("try")
@click.option("-m", "--message", "hypothesis", required=True, help="What the edit should do, in one line.")
@click.option("--tag", default=None, help="Which study. Default: the last one.")
@ratchet_option
@fair_options
@futility_option
@sandbox_option
def command(hypothesis: str, tag: str | None, ratchet: str | None) -> None:
    """Train and judge the edit in the study's worktree, then commit or revert it.

    Edit files below studies/<tag>/worktree/backends/gpt/, then try them. Your own checkout is never touched. The last
    line on standard output is one JSON object: experiment, verdict, val_bpb, incumbent_bpb, reason, commit, and log:
    the end of a crash's log.

    \b
    Example:
      ar try -m "GELU instead of squared ReLU"
    """
    hypothesis = " ".join(hypothesis.split())
    if not hypothesis:
        raise UserError("the hypothesis is empty", 'Say what the edit should do: ar try -m "half the batch"')
    view, until = TerminalView(), Until()
    study, found = open_study(tag)
    with study, study.lock():
        study.reconcile(sync=False)
        if not any(e.n == BASELINE and e.state == "done" for e in study.ledger.experiments()):
            raise UserError(f"study {study.tag} has no baseline yet to compare with",
                            f"Make it first: ar loop --tag {study.tag} --experiments 0")
        workspace, ledger = study.workspace, study.ledger
        if outside := workspace.outside_edits():
            raise UserError(f"only files in {CANDIDATE}/ may change; also edited: {', '.join(outside[:5])}",
                            f"Undo these in {study.worktree}, then try again.")
        lab = lab_of(study, found, view, until)
        parent = workspace.head()
        n = max([e.n for e in ledger.experiments()], default=0) + 1
        sha = workspace.commit_worktree(parent, message(hypothesis, ""), n)
        if sha is None:
            raise UserError("nothing has been edited",
                            f"Edit files below {study.worktree / CANDIDATE}, then try again.")
        files, before = workspace.candidate_files(sha), workspace.candidate_files(parent)
        for remark in lint(files, before):
            view.note(f"lint (a courtesy, it decides nothing): {remark}")
        recipe, changes = _recipe(before["recipe.toml"], files)
        ledger.propose(n=n, parent=parent, researcher="person", hypothesis=hypothesis, evidence="",
                       changes=changes, recipe=recipe)
        ledger.commit(n, sha)
        with interruptible(until, view, f"`ar loop --tag {study.tag}` goes on with it"):
            best = ledger.incumbent()
            lab.view.proposed(n, hypothesis, changes)
            judged = loop_of(lab, Playbook(), until, ratchet).judge(ledger.experiment(n)) or ledger.experiment(n)
    click.echo(json.dumps({
        "experiment": n, "verdict": judged.verdict or None, "val_bpb": judged.bpb(),
        "incumbent_bpb": best.bpb() if best else None, "reason": judged.reason, "commit": judged.sha,
        "log": judged.trials[-1].log_tail if judged.verdict == "crash" else ""}))


def _recipe(before: bytes, files: dict[str, bytes]) -> tuple[dict[str, object], dict[str, object]]:
    """(flat recipe, what of it changed). Where the edit's is not valid, which the gate will say, the incumbent's."""
    old = parse(before.decode()).flat()
    try:
        new = parse(files["recipe.toml"].decode()).flat()
    except (KeyError, UnicodeDecodeError, RecipeError):
        return old, {}
    return new, changed(old, new)


