"""Trials that ended, one object each in the store: what a killed trainer, another attempt or another worker need not repeat.

An object is written once, whole, and names the configuration and the data that it belongs to: one of another job is not used and is
written over. A trial that was killed leaves nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from espalier_trainer.errors import InfrastructureError
from espalier_trainer.log import say
from espalier_trainer.storage import AlreadyExistsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from espalier_trainer.storage import ObjectStore

FOLDER: Final = "trials/"
"""Below the checkpoint's prefix."""
_FORMAT: Final = "espalier-trial/1"

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Owner:
    """What a record belongs to. The machine is not part of it: another worker's trial counts."""

    config: str  # digest of the job without its attempt
    data: str  # snapshot digest


class Records:
    """Records by number, as far as they were looked at; keys are `<number>.json`."""

    def __init__(self, store: ObjectStore, owner: Owner) -> None:
        self._store, self._owner = store, owner
        self._known: dict[int, Record] = {}
        self._foreign: set[str] = set()

    def __contains__(self, number: int) -> bool:
        return number in self._known

    def __len__(self) -> int:
        return len(self._known)

    def sorted(self) -> list[Record]:
        """Those that are known, by number."""
        return [self._known[number] for number in sorted(self._known)]

    def refresh(self) -> int:
        """Look for new ones; returns how many there were."""
        before = len(self._known)
        for entry in self._store.entries():
            number = entry.key.removesuffix(".json")
            if number.isdigit() and int(number) not in self._known and entry.key not in self._foreign:
                self._read(int(number))
        return len(self._known) - before

    def _read(self, number: int) -> Record | None:
        data = self._store.read(_key(number))
        try:
            record = None if data is None else self._decoded(data, number)
        except ValueError as error:
            say("trial-record-ignored", key=f"{FOLDER}{_key(number)}", why=str(error))
            self._foreign.add(_key(number))
            return None
        if record is not None:
            self._known[number] = record
        return record

    def _decoded(self, data: bytes, number: int) -> Record:
        """ValueError for what is torn or of another job."""
        found = json.loads(data)
        if not isinstance(found, dict) or found.get("format") != _FORMAT:
            raise ValueError("it is no record of a trial")
        differing = [name for name in ("config", "data") if found.get(name) != getattr(self._owner, name)]
        if differing:
            raise ValueError(f"it belongs to another {' and '.join(differing)}")
        record: Record = found["trial"]
        if record["number"] != number:
            raise ValueError(f"it tells of trial {record['number']}")
        return record

    def keep(self, record: Mapping[str, Any]) -> Record:
        """Write a trial that ended; returns what counts, which is the other one when somebody was faster."""
        number = int(record["number"])
        told = {"format": _FORMAT, "config": self._owner.config, "data": self._owner.data, "trial": dict(record)}
        content = (json.dumps(told, sort_keys=True, allow_nan=False) + "\n").encode()
        try:
            self._store.write_new(_key(number), content)
        except AlreadyExistsError:
            if (won := self._read(number)) is not None:
                return won
            self._store.write(_key(number), content)
        if (kept := self._read(number)) is None:
            raise InfrastructureError(
                f"S3: {FOLDER}{_key(number)} was written and cannot be read; does something else write below the checkpoint's prefix?"
            )
        return kept

    def clear(self) -> None:
        """Remove all: the version is published."""
        for entry in self._store.entries():
            self._store.delete(entry.key)


def _key(number: int) -> str:
    return f"{number:05d}.json"
