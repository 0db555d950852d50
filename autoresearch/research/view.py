"""What a running study tells whoever is watching. This one says nothing; events.Teller tells everybody."""

from __future__ import annotations

from autoresearch.records import Experiment, Point, Trial


class View:
    def began(self, deadline: float | None, experiments: int | None) -> None:
        """The loop starts; when (time.time()) or after how many experiments it ends."""

    def note(self, text: str) -> None:
        """One line about the study."""

    def trial_started(self, label: str, seed: int, budget_s: float | None, part: str = "") -> None:
        """`label` says whose trial it is, such as '#4' or 'baseline'; `part`, which one of how many where that is
        known, such as 'verification, run 4 of 15'."""

    def trial_event(self, event: str, point: Point | None) -> None:
        """Start-up ('loaded', 'ready'), training ('step', with its point), 'scoring'."""

    def trial_ended(self, trial: Trial) -> None: ...

    def proposed(self, n: int, hypothesis: str, changes: dict[str, object]) -> None: ...

    def decided(self, experiment: Experiment, gain_bpb: float | None) -> None: ...
