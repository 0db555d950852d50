"""The loop: propose, commit, gate, train, score, decide, keep or revert; until told to stop.

Code drives it, so it cannot lose interest. Every step is journalled before the next begins, so a kill at any
moment loses at most the trial in progress.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from autoresearch.harness.runner import TrialFailed
from autoresearch.paths import CANDIDATE
from autoresearch.records import BASELINE, Experiment, Trial
from autoresearch.research import decide, gate
from autoresearch.research.lab import Candidate, Lab
from autoresearch.research.researchers.base import Context, Proposal, Researcher
from autoresearch.research.until import Until
from backends.recipe import Recipe, edit, parse
from backends.spec import GPTSpec

SEEDS = (1, 2, 3)  # of the baseline; ideas are screened on the first


@dataclass
class Loop:
    lab: Lab
    researcher: Researcher
    brief: str
    device: dict[str, object]
    until: Until
    _done: int = field(default=0, init=False)

    def run(self, baseline: dict[str, object], why: str) -> None:
        """A baseline if there is none, what a kill left unfinished, then experiment after experiment."""
        unfinished = self.lab.study.reconcile()
        self.lab.sweep()
        for ref in self.lab.study.workspace.saved:
            self.lab.view.note(f"edits found in the worktree were saved as {ref}")
        self.baseline(baseline, why)
        for experiment in unfinished:
            if experiment.n > BASELINE and not self.until.reached(self._done, self.typical_s()):
                self.resume(experiment)
        while not self.until.reached(self._done, self.typical_s()):
            proposal = self.researcher.propose(self.context())
            self.judge(self.commit(proposal))

    # The baseline

    def baseline(self, changes: dict[str, object], why: str) -> None:
        """The starting recipe, sized to the device by `changes`, on three seeds: their spread is the noise."""
        lab, workspace = self.lab, self.lab.study.workspace
        found = {e.n: e for e in lab.ledger.experiments()}.get(BASELINE)
        if found and found.state == "done":
            return
        if found is None or not found.sha:
            start = workspace.head()
            text = workspace.read(start, f"{CANDIDATE}/{gate.RECIPE}").decode()
            recipe = parse(text).replace(changes)
            lab.ledger.propose(n=BASELINE, parent=start, researcher="probe", evidence=why, changes=dict(changes),
                               hypothesis="Baseline: the starting recipe, sized to this device", recipe=recipe.flat())
            edits = {f"{CANDIDATE}/{gate.RECIPE}": edit(text, changes).encode()} if changes else {}
            sha = workspace.propose_commit(start, edits, f"Baseline sized to this device\n\n{why}", BASELINE)
            lab.ledger.commit(BASELINE, sha)
        experiment = lab.ledger.experiment(BASELINE)
        try:
            candidate = self._candidate(experiment)
        except gate.Refused as e:
            raise BaselineFailed("invalid", str(e), "") from None
        have = {t.seed: t for t in experiment.screens()}
        for seed in SEEDS:
            have[seed] = have.get(seed) or lab.screen(candidate, seed)
            if have[seed].status != "ok":
                raise BaselineFailed(have[seed].status, have[seed].reason, have[seed].log_tail)
        spread = decide.spread_bpb([b for t in have.values() if (b := t.bpb()) is not None])
        lab.ledger.set_fact("spread_bpb", spread)
        lab.study.conclude(BASELINE, "keep", f"the baseline; seed spread {spread:.4f} bits per byte")
        lab.study.export_tsv()
        lab.view.decided(lab.ledger.experiment(BASELINE), None)

    # One experiment

    def commit(self, proposal: Proposal) -> Experiment:
        """Journal a proposal, then make its commit."""
        lab, workspace = self.lab, self.lab.study.workspace
        parent = workspace.head()
        text = workspace.read(parent, f"{CANDIDATE}/{gate.RECIPE}").decode()
        recipe = parse(text).replace(proposal.changes)
        n = lab.ledger.propose(parent=parent, researcher=self.researcher.name, hypothesis=proposal.hypothesis,
                               evidence=proposal.evidence, changes=proposal.changes, recipe=recipe.flat())
        lab.view.proposed(n, proposal.hypothesis, proposal.changes)
        edits = {f"{CANDIDATE}/{name}": content.encode() for name, content in proposal.files.items()}
        if proposal.changes:
            edits[f"{CANDIDATE}/{gate.RECIPE}"] = edit(text, proposal.changes).encode()
        sha = workspace.propose_commit(parent, edits, message(proposal.hypothesis, proposal.evidence), n)
        lab.ledger.commit(n, sha)
        return lab.ledger.experiment(n)

    def resume(self, experiment: Experiment) -> None:
        """Finish what a kill interrupted. A proposal without a commit is gone with the process that made it."""
        if experiment.sha and experiment.parent != self.lab.study.workspace.head():
            self.lab.study.conclude(experiment.n, "interrupted", "something else was kept before it could be finished")
        elif experiment.sha:
            self.lab.view.proposed(experiment.n, experiment.hypothesis, experiment.changes)
            self.judge(experiment)
        else:
            self.lab.study.conclude(experiment.n, "interrupted", "the process ended before the change was committed")

    def judge(self, experiment: Experiment) -> Experiment:
        """Gate, train, score, decide; then keep or revert, and record."""
        ledger = self.lab.ledger
        verdict, reason, gain, trial = self._verdict(experiment)
        saved = self.lab.study.conclude(experiment.n, verdict, reason)
        if saved:
            self.lab.view.note(f"edits found in the worktree were saved as {saved}")
        if trial is not None and verdict != "keep":
            self.lab.discard_files(trial)
        self.lab.study.export_tsv()
        self._done += 1
        judged = ledger.experiment(experiment.n)
        self.lab.view.decided(judged, gain)
        return judged

    def _verdict(self, experiment: Experiment) -> tuple[str, str, float | None, Trial | None]:
        lab = self.lab
        try:
            candidate = self._candidate(experiment)
        except gate.Refused as e:
            return "invalid", str(e), None, None
        trial = self._finished(experiment) or lab.screen(candidate, SEEDS[0])
        score = trial.bpb()
        if trial.status != "ok" or score is None:
            return trial.status, trial.reason, None, trial
        paired = self._paired()
        best = paired.bpb()
        assert best is not None
        lab.ledger.pair(experiment.n, trial.id, paired.id, score - best)
        decision = decide.decide(score, best, lab.ledger.fact("spread_bpb"))
        if decision.verdict == "discard":
            return "discard", decision.reason, decision.gain_bpb, trial
        try:
            finding = lab.audit(candidate, trial)
        except TrialFailed as e:
            return e.status, e.reason, decision.gain_bpb, trial
        return "keep", f"{decision.reason}; {finding}", decision.gain_bpb, trial

    def _candidate(self, experiment: Experiment) -> Candidate:
        """Raises gate.Refused."""
        workspace = self.lab.study.workspace
        changed = workspace.changed_paths(experiment.parent, experiment.sha)
        outside = [path for _, path in changed if not path.startswith(CANDIDATE + "/")]
        files = {} if outside else workspace.candidate_files(experiment.sha)
        recipe = gate.check(changed, files, CANDIDATE, self.lab.runner.prepared.tokenizers())
        return Candidate(experiment.n, files, recipe)

    def _finished(self, experiment: Experiment) -> Trial | None:
        """A scored trial from before a kill, its weights still there for the audit."""
        for trial in experiment.screens():
            if trial.seed == SEEDS[0] and (self.lab.folder(trial.id) / "recorded.npz").is_file():
                return trial
        return None

    def _paired(self) -> Trial:
        """The incumbent's trial on the screening seed."""
        incumbent = self.lab.ledger.incumbent()
        assert incumbent is not None
        return next(t for t in incumbent.screens() if t.seed == SEEDS[0])

    # What researchers see, and time

    def context(self) -> Context:
        lab, prepared = self.lab, self.lab.runner.prepared
        experiments = [e for e in lab.ledger.experiments() if e.n >= BASELINE]
        incumbent = lab.ledger.incumbent()
        assert incumbent is not None
        names = prepared.tokenizers()
        return Context(
            incumbent=incumbent, recipe=Recipe().replace(incumbent.recipe), experiments=experiments,
            spread_bpb=lab.ledger.fact("spread_bpb"), tokenizers=names,
            vocab={name: prepared.tokenizer(name).vocab for name in names},
            train_tokens={name: len(prepared.tokens("train", name)) for name in names},
            device=dict(self.device), budget_s=lab.budget_s, seconds_left=self.until.seconds_left(),
            brief=self.brief, fits=self._fits)

    def _fits(self, recipe: Recipe) -> bool:
        if recipe.data.tokenizer not in self.lab.runner.prepared.tokenizers():
            return False
        spec = GPTSpec.of(recipe, self.lab.runner.prepared.tokenizer(recipe.data.tokenizer).vocab)
        memory = self.device.get("memory_bytes")
        needed = spec.training_bytes(recipe.micro_rows, 4)
        return not isinstance(memory, int | float) or needed < 0.7 * memory

    def typical_s(self) -> float:
        """What an experiment has been taking, from the last few trials."""
        recent = [t.total_s for e in self.lab.ledger.experiments() for t in e.trials if t.status == "ok"][-5:]
        return 1.15 * max(recent, default=self.lab.budget_s + 20.0)


class BaselineFailed(Exception):
    """The starting recipe itself could not be trained or scored."""

    def __init__(self, status: str, reason: str, log_tail: str):
        self.status, self.reason, self.log_tail = status, reason, log_tail
        super().__init__(f"{status}: {reason}")


def message(hypothesis: str, evidence: str) -> str:
    """A commit message: subject of at most 72 characters, then the rest."""
    subject = hypothesis if len(hypothesis) <= 72 else hypothesis[:69].rsplit(" ", 1)[0] + "..."
    body = "\n\n".join(part for part in (hypothesis if subject != hypothesis else "", evidence) if part)
    return f"{subject}\n\n{body}".strip()
