"""What a source gave for one block: counts, nothing, or no usable answer. The last two are never evidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from espalier_operator.decisions.judge.counts import BlockCounts

if TYPE_CHECKING:
    from espalier_operator.decisions.judge.verdict import DownReason

__all__ = ["NoData", "Reading", "SourceDown"]


@dataclass(frozen=True, slots=True)
class NoData:
    """The source answers; what was asked for is not there. `message` says what is missing."""

    message: str


@dataclass(frozen=True, slots=True)
class SourceDown:
    """The source does not answer, or not in a way that can be judged."""

    reason: DownReason
    message: str


Reading = BlockCounts | NoData | SourceDown
