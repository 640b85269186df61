"""What a person sees while a cluster comes up."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


TICK_SECONDS = 60


@dataclass(frozen=True)
class Step:
    """One finished step: its title and how long it took, in seconds."""

    title: str
    seconds: float


@dataclass
class Progress:
    """Prints each step with its elapsed time; safe to use from several threads.

    Lines go to standard error, so that standard output stays free for what a
    command answers (``kubeconfig``, ``status --json``).
    """

    stream: TextIO = field(default_factory=lambda: sys.stderr)
    clock: Callable[[], float] = time.monotonic
    steps: list[Step] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _began: float = field(init=False)

    def __post_init__(self) -> None:
        """Start counting now."""
        self._began = self.clock()

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Announce ``title``, run the body, print the time that it took.

        A failing body is reported as such and its exception passed on.
        """
        began = self.clock()
        self.say(f"{title} ...")
        done = threading.Event()
        ticker = threading.Thread(target=self._tick, args=(title, began, done), daemon=True)
        ticker.start()
        try:
            yield
        except BaseException:
            self.say(f"{title}: FAILED after {self.clock() - began:.1f} s")
            raise
        finally:
            done.set()
            ticker.join()
        took = self.clock() - began
        with self._lock:
            self.steps.append(Step(title, took))
        self.say(f"{title}: {took:.1f} s")

    def _tick(self, title: str, began: float, done: threading.Event) -> None:
        """Say now and then that a long step still runs: a silent build looks like a hang."""
        while not done.wait(TICK_SECONDS):
            self.say(f"{title}: {self.clock() - began:.0f} s so far")

    def say(self, line: str) -> None:
        """Print one line, stamped with the time since the command began."""
        elapsed = int(self.clock() - self._began)
        with self._lock:
            print(f"[{elapsed // 60:3d}:{elapsed % 60:02d}] {line}", file=self.stream, flush=True)

    @property
    def elapsed(self) -> float:
        """Seconds since this object was made."""
        return self.clock() - self._began
