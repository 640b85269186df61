"""The parts of the simulated world: pods, a route, stored objects."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from espalier_operator.decisions.judge.verdict import SampleState, VerdictKind
from espalier_operator.decisions.rollout.progress import Progress

if TYPE_CHECKING:
    from espalier_operator.decisions.rollout.world import Crash, Mark

START = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


class ConflictError(Exception):
    """Somebody wrote in between."""


@dataclass
class SimPod:
    """One pod; `slow` never becomes ready."""

    name: str
    version: str
    created: datetime
    ready: bool = False
    changed: datetime = START
    was_ready: bool = False
    restarts: int = 0
    crash: Crash | None = None
    unschedulable: bool = False
    digest: str = ""


@dataclass
class SimRoute:
    """The route object, and what the data plane made of it."""

    weights: dict[str, int] = field(default_factory=dict)
    mark: Mark | None = None
    version: int = 0
    accepted_at: datetime | None = None


@dataclass
class Stored:
    """What survives the operator: status."""

    progress: Progress = field(default_factory=Progress)
    version: int = 0
    attempt: str = ""
    blocks: tuple[datetime, ...] = ()
    data_blocks: tuple[datetime, ...] = ()
    verdict: VerdictKind = VerdictKind.CONTINUE
    state: SampleState = SampleState.INCONCLUSIVE
