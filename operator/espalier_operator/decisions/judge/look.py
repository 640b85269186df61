"""One look at one SLI, as a rollout decides on it and as a person reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from espalier_operator.decisions.judge.readings import SourceDown
from espalier_operator.decisions.judge.verdict import DownReason, SampleState, Verdict, VerdictKind

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

__all__ = ["Look", "waiting"]


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at one SLI gave.

    `status` is the SLI's whole entry in the rollout's status; `reason` says why there is no usable answer, and `down`
    classifies it when the source is to blame.
    """

    name: str
    state: SampleState
    verdict: Verdict
    requests: float
    min_requests: float
    dry_run: bool
    last_block_end: datetime | None
    status: Mapping[str, Any]
    reason: str = ""
    down: DownReason | None = None


def waiting(name: str, abort_at: float, why: str | SourceDown, *, min_requests: float, dry_run: bool) -> Look:
    """The look before the first block: nothing was judged, and nothing in its status claims so."""
    down = why.reason if isinstance(why, SourceDown) else None
    sample = SampleState.INCONCLUSIVE if down is None else SampleState.SOURCE_DOWN
    reason = f"{why.reason.value}: {why.message}" if isinstance(why, SourceDown) else why
    verdict = Verdict(VerdictKind.CONTINUE, 1.0, abort_at, None, f"{name}: {reason}")
    status = {"name": name, "state": sample.value, "verdict": verdict.kind.value, "message": reason}
    return Look(name, sample, verdict, 0.0, min_requests, dry_run, None, status, reason, down)
