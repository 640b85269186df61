"""Workers that share the trials of a search: pods of one Indexed Job, each with the same job.json and an index of its own.

They deal out trials among themselves by number, tell each other results through the store alone, and wait for each other at the end of a
round, because the next one follows from all of it. Index 0 leads: it goes on with the fit of the winner.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from espalier_trainer.errors import InfrastructureError
from espalier_trainer.log import say

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from espalier_api.search import Search
    from espalier_trainer.selection.records import Records
    from espalier_trainer.session import Preemption

FEW: Final = 4
"""Numbers that a message names."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How patient a worker is. Injected, so that tests wait for nothing."""

    sleep: Callable[[float], None] = time.sleep
    now: Callable[[], float] = time.monotonic
    shortest: float = 0.2
    """Seconds between two looks at first; they grow with the wait, to a tenth of it."""
    longest: float = 2.0
    """Seconds between two looks later; SIGTERM waits for as long at most."""
    patience: float = 1800.0
    """Seconds without any new result after which the others count as lost."""
    trials: float = 10.0
    """Patience in the longest trial's seconds, when that is more."""


@dataclass(frozen=True, slots=True)
class Team:
    """Which trials are mine."""

    index: int = 0
    count: int = 1
    pace: Pace = field(default_factory=Pace)

    @classmethod
    def of(cls, search: Search, index: int | None, pace: Pace) -> Team:
        """A worker of the Indexed Job, or (no index) all of them in one process: `espalier train`."""
        return cls(pace=pace) if index is None else cls(index, search.workers, pace)

    @property
    def leads(self) -> bool:
        """True for the one that fits the winner."""
        return self.index == 0

    def owns(self, position: int) -> bool:
        """True when the trial at this position of its round is mine."""
        return position % self.count == self.index

    def is_needed(self, sizes: Sequence[int]) -> bool:
        """False when none of the rounds to come has a trial for me, and I do not lead."""
        return self.leads or any(size > self.index for size in sizes)

    def await_(
        self, numbers: Sequence[int], records: Records, preemption: Preemption, looked: Callable[[], None]
    ) -> None:
        """Until all these trials have records; `looked` is called after each look that found new ones.

        PreemptedError after SIGTERM, InfrastructureError when nothing has come for long.
        """
        pace = self.pace
        began = moved = pace.now()
        while missing := [number for number in numbers if number not in records]:
            preemption.check(f"trials {_few(missing)} of other workers had ended")
            now = pace.now()
            longest = max((float(trial["seconds"]) for trial in records.sorted()), default=0.0)
            if now - moved > max(pace.patience, pace.trials * longest):
                raise InfrastructureError(
                    f"search: trials {_few(missing)} belong to other workers, and no result has come for {now - moved:.0f} s; "
                    "look at the Job's other pods. The next attempt repeats no trial that has ended"
                )
            if now == began:
                say("waiting", trials=missing[:FEW], count=len(missing))
            pace.sleep(min(max((now - began) / 10, pace.shortest), pace.longest))
            if records.refresh():
                moved = pace.now()
                looked()


def _few(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:FEW])) + (" …" if len(numbers) > FEW else "")
