"""Which runs belong to a version: `.tracking/<version>/runs.json`, so that the next attempt goes on with them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from espalier_trainer.storage import ObjectStore

FILE: Final = "runs.json"


@dataclass(frozen=True, slots=True)
class Remembered:
    """A tracker's run, as earlier attempts and later ones know it."""

    runs: Runs
    tracker: str

    @property
    def id(self) -> str | None:
        """Of an earlier attempt; None for the first one."""
        return self.runs.known.get(self.tracker)

    def keep(self, run: str) -> None:
        """For later attempts."""
        self.runs.keep(self.tracker, run)


class Runs:
    """Tracker -> id of its run; written when one is opened."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        found = json.loads(store.read(FILE) or b"{}")
        self.known: dict[str, str] = {str(name): str(run) for name, run in found.items()}

    def of(self, tracker: str) -> Remembered:
        """One tracker's."""
        return Remembered(self, tracker)

    def keep(self, tracker: str, run: str) -> None:
        """Write through, unless it is known."""
        if self.known.get(tracker) == run:
            return
        self.known = {**self.known, tracker: run}
        self._store.write(FILE, json.dumps(self.known, sort_keys=True).encode())
