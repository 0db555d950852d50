"""The loop: propose, commit, gate, train, score, decide, keep or revert; until told to stop.

Code drives it, so it cannot lose interest. Every step is journalled before the next begins, so a kill at any
moment loses at most the trial in progress. How one experiment is judged is in judge.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from autoresearch import sizes
from autoresearch.errors import UserError
from autoresearch.harness.supervise import TrialFailed
from autoresearch.paths import CANDIDATE
from autoresearch.records import BASELINE, MACHINE, MEMORY, Experiment
from autoresearch.research import ablate, decide, gate, person
from autoresearch.research.git import GitError
from autoresearch.research.judge import BASELINE_SEEDS, Judge, Judgement, again, kind_of, noise_of, used_files
from autoresearch.research.lab import Candidate, Lab
from autoresearch.research.ledger_file import LedgerError
from autoresearch.research.queue import Queued
from autoresearch.research.researchers.base import Context, NoProposal, Proposal, Researcher
from autoresearch.research.researchers.playbook import Playbook
from autoresearch.research.researchers.repeats import repeat_of
from autoresearch.research.simplicity import simpler
from autoresearch.research.until import Paused, Until
from autoresearch.research.workspace import BRIEF, GUIDANCE, message
from backends.recipe import Recipe, RecipeError, changed, edit, parse
from backends.spec import GPTSpec

ASKED_AGAIN = 2  # times in a row that a researcher whose proposal was refused is asked for another
MOST_FAULTS = 3  # experiments in a row that the machine may fail


@dataclass
class Loop:
    lab: Lab
    researcher: Researcher
    device: dict[str, object]
    until: Until
    ratchet: str = "careful"
    _done: int = field(default=0, init=False)
    _faults: int = field(default=0, init=False)  # experiments in a row that the machine failed

    def run(self, baseline: dict[str, object], why: str) -> None:
        """A baseline if there is none, what a kill left unfinished, then experiment after experiment."""
        self.lab.view.began(self.until.deadline, self.until.experiments)
        unfinished = self.recover()
        for ref in self.lab.study.workspace.saved:
            self.lab.view.note(f"edits found in the worktree were saved as {ref}")
        self.baseline(baseline, why)
        for experiment in unfinished:
            if experiment.n > BASELINE and not self.until.reached(self._done, self.typical_s()):
                self.resume(experiment)
        while not self.until.reached(self._done, self.typical_s()):
            if queued := self.next_queued():
                self.judge(queued)
            elif proposal := self.next_proposal():
                self.judge(self.commit(proposal))

    def recover(self) -> list[Experiment]:
        """What a kill left: branch, ledger and files made to agree. Returns what was not decided yet."""
        unfinished = self.lab.study.reconcile()
        self.lab.sweep()
        for trial in (t for e in self.lab.ledger.experiments() for t in used_files(e)):
            self.lab.discard_files(trial)
        return unfinished

    # The baseline

    def baseline(self, changes: dict[str, object], why: str) -> None:
        """The starting recipe, sized to the device by `changes`, on three seeds: their spread is the noise."""
        lab, workspace = self.lab, self.lab.study.workspace
        found = {e.n: e for e in lab.ledger.experiments()}.get(BASELINE)
        if found and found.state == "done":
            return
        if found is None or not found.sha:
            start = workspace.head()
            preset = lab.ledger.fact("start")
            text = preset or workspace.read(start, f"{CANDIDATE}/{gate.RECIPE}").decode()
            recipe = parse(text).replace(changes)
            lab.ledger.propose(n=BASELINE, parent=start, researcher="probe", evidence=why, changes=dict(changes),
                               hypothesis="Baseline: the starting recipe, sized to this device", recipe=recipe.flat())
            edits = {f"{CANDIDATE}/{gate.RECIPE}": edit(text, changes).encode()} if changes or preset else {}
            sha = workspace.propose_commit(start, edits, f"Baseline sized to this device\n\n{why}", BASELINE)
            lab.ledger.commit(BASELINE, sha)
        experiment = lab.ledger.experiment(BASELINE)
        try:
            candidate = self._lighter(BASELINE) or self._candidate(experiment)
        except gate.Refused as e:
            raise BaselineFailed("invalid", str(e), "") from None
        have = {t.seed: t for t in experiment.screens()}
        for seed in BASELINE_SEEDS:
            have[seed] = have.get(seed) or lab.screen(candidate, seed)
            if have[seed].status != "ok" and (eased := self._lighter(BASELINE)):
                candidate, have[seed] = eased, lab.screen(eased, seed)
            if have[seed].status != "ok":
                raise BaselineFailed(have[seed].status, have[seed].reason, have[seed].log_tail)
        try:
            settled = lab.settle_rows(candidate, list(have.values()))
        except TrialFailed as e:
            raise BaselineFailed(e.status, e.reason, "") from None
        spread = decide.spread_bpb([b for t in settled if (b := t.bpb()) is not None])
        lab.ledger.set_fact("spread_bpb", spread)
        lab.study.conclude(BASELINE, "keep", f"the baseline; seed spread {spread:.4f} bits per byte")
        lab.study.export_tsv()
        lab.view.decided(lab.ledger.experiment(BASELINE), None)

    # One experiment

    def next_queued(self) -> Experiment | None:
        """A person's own, committed; it is judged whatever anybody thinks of it. One that can't even be written down
        as a commit is recorded with the reason, and the next is taken."""
        ledger = self.lab.ledger
        for entry in ledger.queue.waiting():
            try:
                return self.commit(person.proposal_of(entry, self.lab.study.workspace), entry.id)
            except (GitError, LedgerError):  # says nothing of the experiment: it waits until that is mended
                raise
            except (UserError, ValueError) as e:
                ledger.queue.refused(entry.id, self._refused(entry, str(e)))
        return None

    def _refused(self, entry: Queued, why: str) -> int:
        """Its number as an experiment that never was."""
        lab, recipe = self.lab, self._incumbent().recipe
        n = lab.ledger.propose(parent=lab.study.workspace.head(), researcher=person.PERSON, evidence="",
                               hypothesis=entry.hypothesis, changes=entry.changes, recipe=recipe)
        lab.view.proposed(n, entry.hypothesis, entry.changes)
        lab.study.conclude(n, "invalid", why)
        lab.study.export_tsv()
        lab.view.decided(lab.ledger.experiment(n), None)
        return n

    def next_proposal(self) -> Proposal | None:
        """One that may run; None where a stop was asked for while the researcher thought."""
        proposal = None
        for _ in range(1 + ASKED_AGAIN):
            context = self.context()
            try:
                proposal = self.researcher.propose(context)
            except NoProposal as e:
                context.note(f"{self.researcher.name}: {e}")
                break
            if not (why := self.refusal(proposal)):
                break
            context.note(f"not run: {' '.join(proposal.hypothesis.split())[:100]}: {why}")
            proposal = None
        if self.until.late(self.typical_s()):
            return None
        return proposal or replace(Playbook().propose(self.context()), researcher=Playbook.name)

    def refusal(self, proposal: Proposal) -> str:
        """Why a proposal would not be run, in words: what the gate will say of its commit, memory, rows too short."""
        workspace, runner = self.lab.study.workspace, self.lab.runner
        before = workspace.candidate_files(workspace.head())
        try:
            files = edited(before, proposal)
            recipe = gate.check([], files, CANDIDATE, runner.prepared.tokenizers())
        except (gate.Refused, RecipeError) as e:
            return str(e)
        if files == before:
            return "it changes nothing"
        if unfit := runner.too_short(recipe) or self.lab.unfit(recipe):
            return str(unfit)
        # A memory model that denies what has just run is wrong about this machine.
        if not self._fits(recipe) and self._fits(Recipe().replace(self._incumbent().recipe)):
            return "by the memory model it does not fit this device"
        return self._repeat(recipe.flat(), files)

    def _repeat(self, recipe: dict[str, object], files: dict[str, bytes], of: int | None = None) -> str:
        """What has run already and would only run again, in words; `of` is the experiment that is asked about."""
        lab = self.lab
        others = [e for e in lab.ledger.experiments() if e.n != of]
        found = repeat_of(recipe, files, others, lambda e: lab.study.workspace.candidate_files(e.sha))
        if found is None:
            return ""
        bpb = found.bpb()
        became = f"scored {bpb:.4f}" if bpb is not None else f"ended as {found.verdict}"
        return f"it is #{found.n} again, the same run and the same program, which {became}"

    def commit(self, proposal: Proposal, queued: int | None = None) -> Experiment:
        """Journal a proposal, then make its commit. `queued`: the entry of the queue that it came from."""
        lab, workspace = self.lab, self.lab.study.workspace
        parent = workspace.head()
        before = workspace.candidate_files(parent)
        files = edited(before, proposal)
        was, recipe = (parse(of[gate.RECIPE].decode()).flat() for of in (before, files))
        changes = changed(was, recipe)
        n = lab.ledger.propose(parent=parent, researcher=proposal.researcher or self.researcher.name,
                               hypothesis=proposal.hypothesis, evidence=proposal.evidence, changes=changes,
                               recipe=recipe)
        lab.view.proposed(n, proposal.hypothesis, changes)
        edits = {f"{CANDIDATE}/{name}": files.get(name) for name in before | files
                 if files.get(name) != before.get(name)}
        sha = workspace.propose_commit(parent, edits, message(proposal.hypothesis, proposal.evidence), n)
        lab.ledger.commit(n, sha, queued=queued)
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

    def judge(self, experiment: Experiment) -> Experiment | None:
        """Gate, train, decide; then keep or revert, and record. None where a stop came between its trials."""
        try:
            found = self._judgement(experiment)
        except Paused:
            self.lab.view.note(f"#{experiment.n} is not decided yet; the same command goes on with it")
            return None
        self._watch_the_machine(experiment.n, found)
        reason = found.reason + again(self.lab.ledger.experiment(experiment.n))
        saved = self.lab.study.conclude(experiment.n, found.verdict, reason)
        if saved:
            self.lab.view.note(f"edits found in the worktree were saved as {saved}")
        judged = self.lab.ledger.experiment(experiment.n)
        for trial in used_files(judged):
            self.lab.discard_files(trial)
        self.lab.study.export_tsv()
        self._done += 1
        self.lab.view.decided(judged, judged.gain_bpb(self.lab.ledger.pairs(judged.n)))
        return judged

    def _judgement(self, experiment: Experiment) -> Judgement:
        incumbent = self._incumbent()
        try:
            candidate = self._lighter(experiment.n) or self._candidate(experiment)
        except gate.Refused as e:
            return Judgement("invalid", str(e))
        if unfit := self.lab.unfit(candidate.recipe):
            return Judgement("invalid", unfit)
        dropping = ablate.fewer(experiment)  # may lead back to what has run: that is its point
        repeated = "" if experiment.trials or dropping else self._repeat(candidate.recipe.flat(), candidate.files,
                                                                         experiment.n)
        if repeated:
            return Judgement("invalid", repeated)
        theirs = self._candidate(incumbent)
        judge = Judge(self.lab, self.ratchet, lambda: self.until.late(self.typical_s()))
        why = simpler(candidate.files, theirs.files) or dropping
        try:
            found = judge.judge(candidate, theirs, why)
            eased = self._lighter(experiment.n)
            return judge.judge(eased, theirs, why) if eased else found
        except TrialFailed as e:  # it was not begun
            return Judgement(e.status, e.reason)

    def _lighter(self, n: int) -> Candidate | None:
        """An experiment that ran out of memory, in halved micro-batches from now on; None where that can't help."""
        experiment, workspace = self.lab.ledger.experiment(n), self.lab.study.workspace
        trials = experiment.trials
        starved = [t for t in trials if t.facts.get("cause") == MEMORY]
        # Once, and where none has succeeded, so that all of its scores are of one recipe.
        if len(starved) != 1 or starved[0] != trials[-1] or any(t.status == "ok" for t in trials):
            return None
        text = workspace.read(experiment.sha, f"{CANDIDATE}/{gate.RECIPE}").decode()
        recipe = parse(text)
        if starved[0].facts["recipe"] != recipe.digest() or not (change := sizes.halved(recipe)):
            return None  # a kill came after it was halved, or there is nothing to halve
        why = f"Ran out of memory with {recipe.micro_rows} rows at a time: {change['batch.micro_rows']} instead"
        sha = workspace.amend(experiment.sha, experiment.parent, {
            f"{CANDIDATE}/{gate.RECIPE}": edit(text, change).encode()}, message(experiment.hypothesis, why), n)
        self.lab.ledger.commit(n, sha, recipe.replace(change).flat())
        self.lab.view.note(f"{'the baseline' if n == BASELINE else f'#{n}'} ran out of memory; it is run again with "
                           f"{change['batch.micro_rows']} rows at a time instead of {recipe.micro_rows}")
        return self._candidate(self.lab.ledger.experiment(n))

    def _watch_the_machine(self, n: int, found: Judgement) -> None:
        """Raises UserError at the third crash in a row that is not the candidate's doing. It stays undecided."""
        last = self.lab.ledger.experiment(n).trials[-1:]
        machine = found.by_machine or (found.verdict == "crash" and any(t.facts.get("cause") == MACHINE for t in last))
        self._faults = self._faults + 1 if machine else 0
        if self._faults >= MOST_FAULTS:
            raise UserError(f"{MOST_FAULTS} experiments in a row crashed for reasons that look like the machine's, not "
                            f"their own; the last: {found.reason}",
                            "The study is paused, so as not to burn the night. See `ar doctor`, then run the same "
                            f"command: it goes on with #{n}.")

    def _candidate(self, experiment: Experiment) -> Candidate:
        """Raises gate.Refused."""
        workspace = self.lab.study.workspace
        changed = workspace.changed_paths(experiment.parent, experiment.sha)
        paths = [path for _, path in changed]
        outside = [path for path in paths if not path.startswith(CANDIDATE + "/")]
        files = {} if outside else workspace.candidate_files(experiment.sha)
        recipe = gate.check(changed, files, CANDIDATE, self.lab.runner.prepared.tokenizers())
        return Candidate(experiment.n, files, recipe, kind_of(experiment.changes, paths, CANDIDATE),
                         paths=tuple(paths))

    # What researchers see, and time

    def context(self) -> Context:
        lab, prepared = self.lab, self.lab.runner.prepared
        experiments = [e for e in lab.ledger.experiments() if e.n >= BASELINE]
        incumbent, names = self._incumbent(), prepared.tokenizers()
        files = lab.study.workspace.candidate_files(incumbent.sha)
        account, coming = lab.ledger.account, max(e.n for e in experiments) + 1
        return Context(
            incumbent=incumbent, recipe=Recipe().replace(incumbent.recipe), experiments=experiments,
            gains=lab.ledger.gains(),
            noise_bpb={kind: float(noise_of(lab.ledger, coming, kind).sd) for kind in decide.EXPECTED},
            spread_bpb=lab.ledger.fact("spread_bpb"), tokenizers=names,
            vocab={name: prepared.tokenizer(name).vocab for name in names},
            train_tokens={name: prepared.manifest.tokenizers[name].tokens["train"] for name in names},
            device=dict(self.device), budget_s=lab.budget_s, seconds_left=self.until.seconds_left(),
            brief=self._steering(BRIEF), guidance=self._steering(GUIDANCE), fits=self._fits,
            files={name: content.decode(errors="replace") for name, content in files.items()},
            spent=account.spent(), spend=lambda spend: account.record(coming, spend), refusal=self.refusal,
            diff=self._diff, note=lab.view.note, stopping=lambda: self.until.late(self.typical_s()))

    def _steering(self, name: str) -> str:
        """Read anew before every proposal, so that a person steers while it runs."""
        path = self.lab.study.worktree / name
        try:
            return path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def _diff(self, n: int) -> str:
        e = self.lab.ledger.experiment(n)
        return self.lab.study.workspace.diff(e.parent, e.sha) if e.sha else ""

    def _incumbent(self) -> Experiment:
        incumbent = self.lab.ledger.incumbent()
        assert incumbent is not None
        return incumbent

    def _fits(self, recipe: Recipe) -> bool:
        if recipe.data.tokenizer not in self.lab.runner.prepared.tokenizers():
            return False
        if self.lab.runner.too_short(recipe):
            return False
        spec = GPTSpec.of(recipe, self.lab.runner.prepared.tokenizer(recipe.data.tokenizer).vocab)
        memory = self.device.get("memory_bytes")
        needed = spec.training_bytes(recipe.micro_rows, 4)
        return not isinstance(memory, int | float) or needed < 0.7 * memory

    def typical_s(self) -> float:
        """What an experiment has been taking, from the last few trials."""
        recent = [t.whole_s for e in self.lab.ledger.experiments() for t in e.trials
                  if t.status == "ok" and t.purpose in ("screen", "repeat")][-5:]
        return 1.15 * max(recent, default=self.lab.budget_s + 20.0)


class BaselineFailed(Exception):
    """The starting recipe itself could not be trained or scored."""

    def __init__(self, status: str, reason: str, log_tail: str):
        self.status, self.reason, self.log_tail = status, reason, log_tail
        super().__init__(f"{status}: {reason}")


def edited(files: dict[str, bytes], proposal: Proposal) -> dict[str, bytes]:
    """A candidate's files with a proposal's edits. Raises gate.Refused or RecipeError."""
    after = dict(files)
    for name, content in proposal.files.items():
        if any(part in ("", ".", "..") for part in name.split("/")):
            raise gate.Refused(f"{name!r} is no path below {CANDIDATE}/")
        after.pop(name, None)
        if content is not None:
            after[name] = content.encode(errors="replace")  # a model may write half a surrogate pair
    if proposal.changes and gate.RECIPE in after:
        after[gate.RECIPE] = edit(after[gate.RECIPE].decode(), proposal.changes).encode()
    return after
