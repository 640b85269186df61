"""The parts of the simulated world: pods, a route, stored objects."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from espalier_operator.decisions.judge.verdict import SampleState, VerdictKind
from espalier_operator.decisions.rollout.progress import Progress

if TYPE_CHECKING:
    from espalier_operator.decisions.rollout.world import Crash, Mark

START = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
INTERVAL = timedelta(seconds=30)
LAG = timedelta(seconds=15)
PATIENCE = 3 * INTERVAL + LAG
REQUESTS_PER_SECOND = 40
CHUNK = timedelta(seconds=5)


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


@dataclass
class DataPlane:
    """The proxies, and the versions' own counters: what really happened, whatever a route says."""

    carried: dict[str, int] = field(default_factory=dict)
    """Percent by version."""
    ledger: list[tuple[datetime, dict[str, int]]] = field(default_factory=list)
    """Requests that were counted, by time."""
    owed: dict[str, float] = field(default_factory=dict)

    def serve(self, now: datetime, by: timedelta, up: set[str]) -> None:
        """Requests of the time after `now`, interleaved; only versions in `up` answer and count."""
        chunk = timedelta(seconds=1) if by < CHUNK else CHUNK
        for index in range(1, int(by / chunk) + 1):
            seen: dict[str, int] = {}
            for version, weight in self.carried.items():
                owed = self.owed.get(version, 0.0) + REQUESTS_PER_SECOND * chunk.total_seconds() * weight / 100
                seen[version], self.owed[version] = int(owed), owed - int(owed)
            self.ledger.append((now + index * chunk, {v: n for v, n in seen.items() if n and v in up}))

    def requests(self, version: str, start: datetime, end: datetime) -> int:
        """What a version's counter grew by in (start, end]."""
        return sum(seen.get(version, 0) for at, seen in self.ledger if start < at <= end)
