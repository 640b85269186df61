"""What a pass of a rollout wants done. Data only; `effects` puts it in the order in which it may be interrupted anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from espalier_operator.decisions.rollout.world import FULL

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import timedelta

    from espalier_operator.decisions.rollout.progress import Progress
    from espalier_operator.decisions.rollout.world import Mark, Seen, VersionRef


@dataclass(frozen=True, slots=True)
class Split:
    """Who gets the traffic. `stable` and `canary` sum to 100 by construction; with no stable, the canary is all there is."""

    stable: str | None
    canary: str | None = None
    weight: int = 0
    """The canary's percent."""
    mark: Mark | None = None
    mirror: int = 0
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def weights(self) -> dict[str, int]:
        """Percent by version, sums to 100."""
        if self.stable is None or self.stable == self.canary:
            return {self.canary: FULL} if self.canary else {}
        if self.canary is None:
            return {self.stable: FULL}
        return {self.stable: FULL - self.weight, self.canary: self.weight}


@dataclass(frozen=True, slots=True)
class Serve:
    """A version that must run: its digest and how many pods."""

    version: VersionRef
    replicas: int


@dataclass(frozen=True, slots=True)
class Note:
    """An event: only ever about a transition."""

    reason: str
    message: str
    warning: bool = False


@dataclass(frozen=True, slots=True)
class RolloutPlan:
    """The answer of `decide`: total, level-triggered, and safe to apply twice."""

    progress: Progress
    """What to write to status."""
    split: Split | None
    """None: leave the route as it is (there is none yet, and nobody is ready for traffic)."""
    serve: tuple[Serve, ...] = ()
    remove: tuple[str, ...] = ()
    """Versions whose workload and Service may go: no traffic was observed to reach them."""
    notes: tuple[Note, ...] = ()
    requeue_after: timedelta | None = None
    release: bool = False
    """The finalizer may go."""
    remove_all: bool = False
    """deletionPolicy: Delete: route, stable Service and every version go too."""


class Effect(StrEnum):
    """The kinds of effects, in the words of the controller that has them."""

    ROUTE = "route"
    SERVE = "serve"
    STATUS = "status"
    EVENTS = "events"
    REMOVE = "remove"
    RELEASE = "release"


def effects(plan: RolloutPlan, seen: Seen) -> Iterator[Effect]:
    """The order in which a plan may be interrupted after any effect without breaking an invariant.

    Traffic that returns to stable is written before anything else (the verdict rides along as a mark on the route). Traffic
    given to another version is written after the status that claims it, because a stale operator's status write is
    refused. Pods go last.
    """
    giving = gives(plan, seen)
    if plan.split is not None and not giving:
        yield Effect.ROUTE
    yield Effect.SERVE
    yield Effect.STATUS
    if giving:
        yield Effect.ROUTE
    yield Effect.EVENTS
    yield Effect.REMOVE
    if plan.release:
        yield Effect.RELEASE


def gives(plan: RolloutPlan, seen: Seen) -> bool:
    """True when the plan raises the weight of a version that is not stable."""
    if plan.split is None:
        return False
    present = seen.traffic.weights
    return any(
        weight > present.get(version, 0)
        for version, weight in plan.split.weights.items()
        if version != plan.split.stable
    )
