"""What a fit needs from the world around it: somewhere to save, somebody to tell, and whether it is time to go."""

from __future__ import annotations

import signal
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from espalier_trainer import peers
from espalier_trainer.errors import PreemptedError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import FrameType

    from espalier_trainer.engines import Contribution


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a fit is, and what it came to so far."""

    done: float
    """0 to 1."""
    epoch: int
    """Done ones, of `epochs`."""
    epochs: int
    step: int
    losses: Mapping[str, float]
    """Of the last epoch: train, validation, ..."""
    blocks: Mapping[str, Contribution]

    def part(self, index: int, count: int) -> Progress:
        """The same as fit `index` of `count` that follow each other."""
        return replace(self, done=(index + self.done) / count)


class Session(Protocol):
    """One fit's view of the world."""

    def restore(self) -> Mapping[str, Any] | None:
        """The state of an interrupted run of this very fit; None to start fresh."""
        ...

    def wants_checkpoint(self) -> bool:
        """True at a step boundary when the state should be saved now. Asked every step: cheap."""
        ...

    def save(self, state: Mapping[str, Any]) -> None:
        """Save atomically."""
        ...

    def stop_if_preempted(self) -> None:
        """Raise PreemptedError after SIGTERM."""
        ...

    def progress(self, now: Progress) -> None:
        """Tell how far the fit is."""
        ...


class Alone:
    """A session without a world: nothing is saved, nobody listens, nothing preempts. For tests and benchmarks."""

    def restore(self) -> None:
        """Nothing to resume."""
        return

    def wants_checkpoint(self) -> bool:
        """Never."""
        return False

    def save(self, state: Mapping[str, Any]) -> None:
        """Forget it."""

    def stop_if_preempted(self) -> None:
        """Never."""

    def progress(self, now: Progress) -> None:
        """Nobody listens."""


class Preemption:
    """Remembers SIGTERM. The handler only sets a flag: the fit leaves at a step boundary, everything else at its next `check`."""

    def __init__(self) -> None:
        self._flag = threading.Event()

    def install(self) -> None:
        """Listen to SIGTERM and SIGINT; main thread only."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._noted)

    def _noted(self, number: int, frame: FrameType | None) -> None:
        self._flag.set()

    def request(self) -> None:
        """The same as the signal."""
        self._flag.set()

    @property
    def requested(self) -> bool:
        """True once the signal has come."""
        return self._flag.is_set()

    def together(self) -> bool:
        """At a step boundary, where all processes of a fit ask at once: True when any of them was told to leave."""
        return peers.current().any(flag=self.requested)

    def check(self, doing: str) -> None:
        """Leave between two phases; `doing` says what was about to happen."""
        if self.requested:
            raise PreemptedError(f"SIGTERM before {doing}; the next attempt starts this phase again")


class Clock:
    """True every `seconds`; monotonic, so that a corrected wall clock neither storms nor silences checkpoints."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self._last = seconds, time.monotonic()

    def due(self) -> bool:
        """True once per period."""
        now = time.monotonic()
        if now - self._last < self.seconds:
            return False
        self._last = now
        return True
