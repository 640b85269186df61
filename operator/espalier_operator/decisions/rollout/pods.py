"""How many pods a weight needs. With a real router every version has all its pods; without one, pods are the weight."""

from __future__ import annotations

from typing import TYPE_CHECKING

from espalier_operator.decisions.rollout.world import FULL

if TYPE_CHECKING:
    from espalier_operator.decisions.rollout.world import RolloutSpec

HALF = 50
"""Percent: the largest share that as many canary pods as stable pods can have."""


def pods_for(spec: RolloutSpec, weight: int) -> int:
    """Canary pods for `weight` percent.

    Sharing by pods keeps stable at its full size, because it may have to take everything back at once; the canary's share is then
    c / (stable + c), rounded to the nearest possible, never 0 and never more pods than stable has (50 %). 100 % is a switch.
    """
    if not spec.capabilities.by_pods or weight >= FULL:
        return spec.replicas
    wished = round(spec.replicas * weight / (FULL - weight))
    return max(1, min(spec.replicas, wished))
