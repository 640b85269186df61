"""What the sequential judge remembers of one SLI: the whole state, nothing else, so that a restart changes no verdict.

Evidence is kept on a grid of 1e-9 (the bound's on 1e-4), rounded down after every block: what is in memory is then
exactly what stands in the status, a JSON number with at most nine decimals survives every encoder between us and etcd,
and rounding can only make the judge slower, never wrong.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from espalier_api.durations import format_time
from espalier_operator.decisions.judge.counts import NO_COUNTS, ArmCounts

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["HARMS", "LADDER", "RELIEFS", "EvidenceState", "floor_to"]

HARMS: Final = (1.2, 1.4, 1.7, 2.0, 2.5, 3.0, 4.0, 6.0, 10.0, 20.0, 50.0)
"""Hypothesised harms g: how many times worse than allowed the canary might be."""
RELIEFS: Final = (1 / 1.2, 1 / 1.5, 1 / 2, 1 / 3, 1 / 5)
"""The same for evidence that a canary is good: how far below the allowance it might be."""
LADDER: Final = (1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0)
"""Ratios to stable that the lower bound on the harm climbs."""

EVIDENCE_UNITS: Final = 10**9
BOUND_UNITS: Final = 10**4
"""Multiples of these parts of 1 are kept: nine decimals of evidence, four of the bound's."""

_RELIEF_KEYS: Final = tuple(f"passLogE{index}" for index in range(len(RELIEFS)))

Row = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class EvidenceState:
    """Everything seen of one SLI since the canary's first block.

    `log_e` has one ln E per harm of HARMS, `before` is the ln of their mean as it was one block ago; `pass_log_e` has one
    per RELIEFS, `ladder` one row of HARMS per ratio of LADDER; `at_least` is the highest ratio proven so far. `dispersion`
    is phi, fixed before the first block. `idle_blocks` counts the latest blocks without a canary request.
    """

    log_e: Row = (0.0,) * len(HARMS)
    before: float = 0.0
    canary: ArmCounts = NO_COUNTS
    stable: ArmCounts = NO_COUNTS
    blocks: int = 0
    last_block_end: datetime | None = None
    dispersion: float = 1.0
    dispersion_note: str = ""
    at_least: float | None = None
    served: tuple[float, float] | None = None
    idle_blocks: int = 0
    pass_log_e: Row = (0.0,) * len(RELIEFS)
    ladder: tuple[Row, ...] = ((0.0,) * len(HARMS),) * len(LADDER)

    def to_status(self) -> dict[str, Any]:
        """The part of an SLI's status that a restart needs, as JSON; `from_status` gives back an equal state."""
        status: dict[str, Any] = {
            "blocks": self.blocks,
            "dispersion": self.dispersion,
            "logE": list(self.log_e),
            "sums": self._sums(),
            "extra": self._extra(),
            "bounds": ";".join(",".join(f"{value:.4f}" for value in row) for row in self.ladder),
        }
        if self.dispersion_note:
            status["dispersionNote"] = self.dispersion_note
        if self.at_least is not None:
            status["atLeast"] = self.at_least
        if self.last_block_end is not None:
            status["lastBlockEnd"] = format_time(self.last_block_end)
        return status

    @classmethod
    def from_status(cls, status: Mapping[str, Any]) -> EvidenceState:
        """The state that `to_status` wrote. Raises ValueError when the evidence is not whole."""
        sums, extra, fresh = status.get("sums") or {}, status.get("extra") or {}, cls()
        served = (sums.get("canaryServed"), sums.get("stableServed"))
        reliefs = [extra.get(key, 0.0) for key in _RELIEF_KEYS]
        at_least = status.get("atLeast")
        return cls(
            log_e=_row(status.get("logE"), fresh.log_e, "logE"),
            before=float(extra.get("before", 0.0)),
            canary=ArmCounts(float(sums.get("canaryTotal", 0)), float(sums.get("canaryBad", 0))),
            stable=ArmCounts(float(sums.get("stableTotal", 0)), float(sums.get("stableBad", 0))),
            blocks=int(status.get("blocks", 0)),
            last_block_end=read_time(status.get("lastBlockEnd")),
            dispersion=float(status.get("dispersion", 1.0)),
            dispersion_note=str(status.get("dispersionNote", "")),
            at_least=None if at_least is None else float(at_least),
            served=None if served[0] is None or served[1] is None else (float(served[0]), float(served[1])),
            idle_blocks=int(extra.get("idleBlocks", 0)),
            pass_log_e=_row(reliefs, fresh.pass_log_e, "extra.passLogE"),
            ladder=_ladder(status.get("bounds"), fresh.ladder),
        )

    def _extra(self) -> dict[str, float]:
        reliefs = dict(zip(_RELIEF_KEYS, self.pass_log_e, strict=True))
        return {"before": self.before, "idleBlocks": float(self.idle_blocks), **reliefs}

    def _sums(self) -> dict[str, float]:
        sums = {
            "canaryTotal": self.canary.total,
            "canaryBad": self.canary.bad,
            "stableTotal": self.stable.total,
            "stableBad": self.stable.bad,
        }
        if self.served is not None:
            sums |= {"canaryServed": self.served[0], "stableServed": self.served[1]}
        return sums


def floor_to(value: float, units: int) -> float:
    """The largest multiple of 1/units that is not above `value`."""
    return math.floor(value * units) / units


def _row(values: Any, default: Row, field: str) -> Row:  # noqa: ANN401 - comes from JSON
    if values is None:
        return default
    row = tuple(float(value) for value in values)
    if len(row) != len(default) or not all(map(math.isfinite, row)):
        raise ValueError(f"{field} needs {len(default)} finite numbers, got {values!r}")
    return row


def _ladder(text: str | None, default: tuple[Row, ...]) -> tuple[Row, ...]:
    if text is None:
        return default
    rows = tuple(_row(line.split(","), default[0], "bounds") for line in text.split(";"))
    if len(rows) != len(default):
        raise ValueError(f"bounds needs {len(default)} rows, got {len(rows)}")
    return rows


def read_time(value: Any) -> datetime | None:  # noqa: ANN401 - comes from JSON
    """A time of the status, aware; None stays None."""
    return value if value is None or isinstance(value, datetime) else datetime.fromisoformat(str(value))
