"""What every SLI can do, whatever it is judged by: restore a state, ask for a block's queries, take their answers.

The caller does the asking; nothing here waits or knows the time. A state is the SLI's own (`EvidenceState`,
`ThresholdState`) and is only ever given back to the SLI that made it, hence `Any`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from espalier_operator.decisions.judge.look import Look
from espalier_operator.decisions.judge.sequential_sli import SequentialSli
from espalier_operator.decisions.judge.threshold_sli import ThresholdSli

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from espalier_operator.decisions.judge.blocks import Block, Schedule
    from espalier_operator.decisions.judge.queries import Arms, Query, RangeQuery
    from espalier_operator.decisions.judge.read import Answer
    from espalier_operator.decisions.judge.readings import NoData, SourceDown
    from espalier_operator.decisions.judge.series import Matrix

__all__ = ["Look", "SequentialSli", "Sli", "ThresholdSli"]


class Sli(Protocol):
    """One SLI of a rollout."""

    @property
    def name(self) -> str:
        """Its name in the spec."""

    @property
    def dry_run(self) -> bool:
        """Judged and shown, never acted on."""

    @property
    def schedule(self) -> Schedule:
        """When its blocks are."""

    def restore(self, status: Mapping[str, Any]) -> Any:  # noqa: ANN401 - see the module's docstring
        """State from the SLI's status entry."""

    def history_queries(self, arms: Arms, started: datetime) -> tuple[RangeQuery, ...]:
        """What must be known of stable's past, once per canary."""

    def begin(self, arms: Arms, history: Sequence[Matrix]) -> Any:  # noqa: ANN401
        """State before the first block."""

    def queries(self, block: Block, arms: Arms, *, sharded: bool = False) -> tuple[Query, ...]:
        """Everything a block needs."""

    def take(
        self,
        state: Any,  # noqa: ANN401
        block: Block,
        arms: Arms,
        answers: Mapping[Query, Answer],
        pods: Mapping[str, datetime],
        *,
        sharded: bool = False,
    ) -> tuple[Any, Look]:
        """State and look after a block."""

    def look(self, state: Any, trouble: NoData | SourceDown | None = None) -> Look:  # noqa: ANN401
        """What to tell about a state."""

    def wait(self, why: str | SourceDown) -> Look:
        """What to tell before the first block."""
