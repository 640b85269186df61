"""What a router that the spec no longer names has left behind. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from espalier_operator.decisions.rollout.world import FULL

if TYPE_CHECKING:
    from espalier_operator.decisions.rollout.world import Traffic


def own_route_is_left(*, owns_routes: bool, adopted: str | None, route: str | None, traffic: Traffic) -> bool:
    """True when our own HTTPRoute `route` may go: another router has the traffic now, was seen to, and has it whole.

    `owns_routes`: the present router writes routes of its own. `adopted`: the route that it adopted, if it did; a person may
    have taken over ours, and then it is theirs. Until the new router has settled, both carry traffic and the old one stays.
    """
    if route is None or owns_routes or route == adopted:
        return False
    return traffic.settled and sum(traffic.weights.values()) == FULL
