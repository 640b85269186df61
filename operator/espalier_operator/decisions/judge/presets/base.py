"""What every source of counts has in common: PromQL texts, and what an increase of each series means.

Each counter contributes linearly: its increase times `Weight.total` are requests, times `Weight.bad` are bad ones. So a
preset is a text and a small table, and differences, resets, births and sums are written once (`read`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from espalier_operator.decisions.judge.queries import Arms
    from espalier_operator.decisions.judge.series import Sample

__all__ = ["IGNORED", "CountPreset", "Weight"]


class Weight(NamedTuple):
    """How much one step of a counter adds to the requests and to the bad ones."""

    total: float
    bad: float


IGNORED = Weight(0, 0)


class CountPreset(Protocol):
    """One SLI source that counts."""

    @property
    def fleet(self) -> bool:
        """True when one answer holds every model of the source (labels `namespace`, `model`, `version`)."""

    def texts(self, arms: Arms, matchers: Mapping[str, str]) -> tuple[str, ...]:
        """PromQL for raw counters. `matchers` narrow it (a namespace shard, one model's past); empty for the fleet."""

    def version(self, index: int, labels: Mapping[str, str], arms: Arms) -> str | None:
        """Whose series it is; None when it does not say."""

    def weigh(self, index: int, labels: Mapping[str, str]) -> Weight:
        """What an increase of this series of the text with this index means."""

    def problem(self, answers: Sequence[Sequence[Sample]]) -> str | None:
        """Why these series cannot be what the SLI asks for (one sequence per text), or None."""
