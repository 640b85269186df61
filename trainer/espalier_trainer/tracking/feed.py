"""Hands points to one tracker from a thread of its own: the fit only appends to a list.

A tracker that fails is said once, tried again with growing pauses, and gets what waited meanwhile; what it has not got when the training
ends is counted. It cannot fail the training.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Final, Self

from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.log import say
from espalier_trainer.termination import without_secrets

if TYPE_CHECKING:
    from collections.abc import Callable

    from espalier_trainer.tracking.telling import End, Ending, Point, Tracker

EVERY: Final = 1.0
"""Seconds between deliveries; points that came meanwhile travel together."""
LONGEST_PAUSE: Final = 60.0
"""Between two tries of a tracker that fails; from `EVERY` on, each pause is twice the one before."""
MOST_WAITING: Final = 20_000
"""Points that wait for a tracker; the oldest give way."""
CLOSES_WITHIN: Final = 20.0
"""Seconds for everything that is left at the end. A pod has 60 from SIGTERM on, and its checkpoint comes first."""
TOLD: Final = 300
"""Characters of an error."""


class Feed:
    """One tracker's points and thread."""

    def __init__(self, name: str, opens: Callable[[], Tracker], every: float = EVERY) -> None:
        self._name, self._opens, self._every = name, opens, every
        self._tracker: Tracker | None = None
        self._waiting: deque[Point] = deque()
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._ending: tuple[Ending, End | None] = ("failed", None)
        self._thread = threading.Thread(target=self._run, name=f"tracking-{name}", daemon=True)
        self.failures, self._dropped, self._reason = 0, 0, ""
        self._closed = False

    def start(self) -> Self:
        """Open the run. InvalidConfigError passes; a tracker that cannot be reached now is tried again later."""
        try:
            self._tracker = self._opens()
        except InvalidConfigError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a tracker's library throws: it must not fail the training
            self._failed(error)
        self._thread.start()
        return self

    @property
    def link(self) -> str:
        """Where a person reads it; empty while it could not be opened."""
        return "" if self._tracker is None else self._tracker.link

    @property
    def complete(self) -> bool:
        """True when the tracker got every point and its run was closed."""
        return self._closed and not self._dropped

    def put(self, point: Point) -> None:
        """Costs an append."""
        with self._lock:
            self._waiting.append(point)
            if len(self._waiting) > MOST_WAITING:
                self._waiting.popleft()
                self._dropped += 1

    def end(self, how: Ending, end: End | None) -> None:
        """Deliver what is left and close, without waiting for it."""
        self._ending = how, end
        self._ended.set()

    def join(self, within: float = CLOSES_WITHIN) -> None:
        """Wait for the close, at most `within` seconds; what is lost then is said."""
        self._thread.join(within)
        if self._thread.is_alive():
            self._failed(TimeoutError(f"did not take its last points within {within:g} s"))
        if not self.complete:
            say("tracking-lost", tracker=self._name, **self.trouble())

    def trouble(self) -> dict[str, object]:
        """Points that it has not got, how often it failed, and its last words."""
        with self._lock:
            return {"points": self._dropped + len(self._waiting), "failures": self.failures, "reason": self._reason}

    def _run(self) -> None:
        pause = self._every
        while not self._ended.wait(pause):
            pause = self._every if self._deliver() else min(2 * pause, LONGEST_PAUSE)
        self._closed = self._deliver() and self._try(lambda tracker: tracker.close(*self._ending))

    def _deliver(self) -> bool:
        """Everything that waits; False when it failed, and all of it waits on."""
        with self._lock:
            batch, dropped = list(self._waiting), self._dropped
        if not batch and self._tracker is not None:
            return True
        if not self._try(lambda tracker: tracker.log(batch)):
            return False
        with self._lock:
            for _ in range(len(batch) - (self._dropped - dropped)):  # what gave way meanwhile was delivered, too
                self._waiting.popleft()
            self._dropped = min(self._dropped, dropped)
        return True

    def _try(self, action: Callable[[Tracker], None]) -> bool:
        try:
            if self._tracker is None:
                self._tracker = self._opens()
            action(self._tracker)
        except Exception as error:  # noqa: BLE001 - see `start`
            self._failed(error)
            return False
        return True

    def _failed(self, error: Exception) -> None:
        self.failures += 1
        self._reason = without_secrets(f"{type(error).__name__}: {error}")[:TOLD]
        if self.failures == 1:
            say("tracking-failed", tracker=self._name, why=self._reason, then="the training goes on, points wait")
