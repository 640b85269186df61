"""Traffic routers: one Protocol, one file per router.

A router writes who gets the traffic and tells what the cluster made of it. It never decides: the split comes from
`decisions.rollout`, and what a router cannot do is told by `capabilities` before a rollout relies on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from espalier_api.rollout import CanaryRolloutSpec
    from espalier_operator.decisions.rollout.plan import Split
    from espalier_operator.decisions.rollout.progress import Progress
    from espalier_operator.decisions.rollout.world import Capabilities, Traffic

__all__ = ["Router", "Target"]


@dataclass(frozen=True, slots=True)
class Target:
    """Whose traffic it is."""

    namespace: str
    model: str
    rollout: str
    spec: CanaryRolloutSpec
    progress: Progress
    """Which versions play which role: some routers only know roles."""


class Router(Protocol):
    """A way to divide traffic between two versions."""

    def capabilities(self, target: Target) -> Capabilities:
        """What it can do."""

    async def observed(self, target: Target) -> Traffic:
        """What is written, whether it was accepted, and whether traffic can be taken to follow it."""

    async def apply(self, target: Target, split: Split, seen: Traffic) -> None:
        """Write `split`. Based on `seen`: raises ConflictError when somebody wrote in between.

        Equal splits cost no request.
        """

    async def remove(self, target: Target) -> None:
        """Take away what this router made for the model. For `deletionPolicy: Delete` only."""

    def forget(self, target_key: tuple[str, str]) -> None:
        """The rollout (namespace, name) is gone: drop what was remembered of it."""


Manifest = Mapping[str, Any]
