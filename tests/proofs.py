"""Proofs of techniques: what a test measured against an oracle that is not ours, and the bar that it had to meet.

A test asks for the fixture `proof` (tests/conftest.py) and calls it with its figure, which asserts the bar:

    proof("l2", "sklearn Ridge, largest difference of a coefficient", worst, at_most=8e-9)

`pytest --record-proofs` writes the figures of passed tests to docs/proofs.json, from which `python -m tools.techniques` makes a page.
"""

from __future__ import annotations

import fcntl
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from espalier_api.regularizers import BLOCKS
from espalier_api.rules import RULES

SUBJECTS = {*BLOCKS, *(rule.id for rule in RULES if rule.keeps)}
"""What can be proven: blocks, and what the engine does by itself for a rule (`proof("R26", ...)`)."""
FILE = Path(__file__).parents[1] / "docs" / "proofs.json"
Records = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Proof:
    """One figure: of which block (or automatic rule), against which oracle, within which bar, by which test (without parameters)."""

    block: str
    oracle: str
    measured: float
    at_most: float | None
    at_least: float | None
    test: str

    def check(self) -> None:
        """AssertionError when the figure misses its bar, ValueError when the call says nothing that can fail."""
        if self.block not in SUBJECTS:
            raise ValueError(f"proof: there is no regularizer {self.block!r}; use a name of espalier_api.regularizers")
        if self.at_most is None and self.at_least is None:
            raise ValueError(f"proof of {self.block}: no bar; give at_most or at_least")
        told = f"{self.block} against {self.oracle}: measured {self.measured:.4g}"
        assert math.isfinite(self.measured), told
        assert self.at_most is None or self.measured <= self.at_most, f"{told}, at most {self.at_most:g} is allowed"
        assert self.at_least is None or self.measured >= self.at_least, f"{told}, at least {self.at_least:g} is due"

    @property
    def margin(self) -> float:
        """How far the figure is from the nearest bar; the least one of a parametrized test is what is recorded."""
        above = math.inf if self.at_least is None else self.measured - self.at_least
        below = math.inf if self.at_most is None else self.at_most - self.measured
        return min(above, below)


def worst(proofs: list[Proof]) -> list[Proof]:
    """One proof of each (block, oracle, test): the one closest to its bar."""
    chosen: dict[tuple[str, str, str], Proof] = {}
    for proof in proofs:
        key = (proof.block, proof.oracle, proof.test)
        chosen[key] = min(chosen.get(key, proof), proof, key=lambda each: each.margin)
    return list(chosen.values())


def merged(known: Records, proofs: list[Proof]) -> Records:
    """The records with those of the same (block, test) replaced; blocks and tests in alphabetical order."""
    fresh = {(proof.block, proof.test) for proof in proofs}
    records = {
        block: [record for record in listed if (block, record["test"]) not in fresh] for block, listed in known.items()
    }
    for proof in worst(proofs):
        told = {key: value for key, value in asdict(proof).items() if key != "block" and value is not None}
        records.setdefault(proof.block, []).append(told | {"measured": float(f"{proof.measured:.3g}")})
    return {
        block: sorted(records[block], key=lambda record: (record["test"], record["oracle"]))
        for block in sorted(records)
        if records[block]
    }


def record(proofs: list[Proof], file: Path = FILE) -> None:
    """Merge into the file, under a lock: two test runs may end at the same time."""
    if not proofs:
        return
    with file.open("a+") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.seek(0)
        known = json.loads(stream.read() or "{}")
        stream.truncate(0)
        stream.write(json.dumps(merged(known, proofs), indent=1, ensure_ascii=False) + "\n")
