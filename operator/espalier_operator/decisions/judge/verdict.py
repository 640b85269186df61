"""The words of the judge: what one look saw (five sample states), what follows (three verdicts), and one sentence.

Only ``Breach`` ever rolls back. ``NoData`` and ``SourceDown`` are told apart from it and from each other because a
person does different things about them, and because silence proves nothing about a canary.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from espalier_operator.decisions.judge.counts import ArmCounts

__all__ = ["DownReason", "SampleState", "Verdict", "VerdictKind", "describe_evidence", "describe_ratio"]

_PLENTY = 10_000.0
_FEW = 10.0


class SampleState(StrEnum):
    """What one look at one SLI saw."""

    PASS = "Pass"  # noqa: S105 - a state, no password
    BREACH = "Breach"
    INCONCLUSIVE = "Inconclusive"
    NO_DATA = "NoData"
    SOURCE_DOWN = "SourceDown"


class VerdictKind(StrEnum):
    """What the evidence so far allows. A Fail is final for its version."""

    CONTINUE = "Continue"
    FAIL = "Fail"
    PASS = "Pass"  # noqa: S105 - a verdict, no password


class DownReason(StrEnum):
    """Why a source gave no usable answer; the reason of condition AnalysisHealthy=False."""

    TIMEOUT = "Timeout"
    REFUSED = "Refused"
    SERVER_ERROR = "ServerError"
    REJECTED = "Rejected"
    """A 4xx: the query or the credentials are wrong, not the server."""
    PARTIAL = "PartialResponse"
    MALFORMED = "Malformed"
    NOT_A_NUMBER = "NotANumber"
    MISCONFIGURED = "Misconfigured"
    """The answer cannot be what the SLI asks for: no such bucket edge, several series where one is expected."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Where one SLI stands. `evidence` is E (1 = none), the canary fails at `abort_at`; `at_least` is a lower bound on
    the harm as a ratio to stable, None when nothing is proven; `sentence` is complete and fits an event.
    """

    kind: VerdictKind
    evidence: float
    abort_at: float
    at_least: float | None
    sentence: str


def describe_evidence(evidence: float) -> str:
    """`1.8`, `47`, `>10000`: as many digits as a person uses, rounded down: no threshold is claimed early."""
    if evidence > _PLENTY:
        return f">{_PLENTY:.0f}"
    return f"{int(evidence * 10) / 10:.1f}" if evidence < _FEW else f"{int(evidence)}"


def describe_ratio(name: str, canary: ArmCounts, stable: ArmCounts, baseline: float | None = None) -> str:
    """`errors: canary 11/300 (3.67 %) vs stable 12/2700 (0.44 %)`; after promotion against the champion's record."""
    other = f"stable {stable}" if baseline is None else f"the recorded {100 * baseline:.2f} %"
    return f"{name}: canary {canary} vs {other}"
