"""Invariant 2 against the simulated counters: nothing is called done while the last block that could be read refutes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from espalier_operator.decisions.rollout.progress import Progress, State
from tests.unit.operator.rollout.simulated_parts import INTERVAL, LAG, PATIENCE, REQUESTS_PER_SECOND, START

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.unit.operator.rollout.simulation import World

MOST = REQUESTS_PER_SECOND * INTERVAL.total_seconds() / 4
"""Requests of a block that may still reach a version that lost its role to a promotion."""


def unproven(world: World, before: Progress, after: Progress) -> Iterator[str]:
    """What is wrong with calling a rollback or a promotion done now; the source must be up and the router count requests."""
    if not world.source_up or world.spec.capabilities.by_pods:
        return
    if before.stable is None or before.canary is None or after.observation is None:
        return
    done = before.state is State.ROLLING_BACK and after.state is State.ROLLED_BACK
    crowned = before.state is State.PROMOTING and after.state is State.IDLE and after.stable == before.canary
    if not (done or crowned) or after.observation.route != str(world.route.version):
        return
    loser = before.canary.name if done else before.stable.name
    end = START + (world.now - LAG - START) // INTERVAL * INTERVAL
    if end - INTERVAL >= after.observation.since:
        wrong = world.plane.requests(loser, end - INTERVAL, end)
        if wrong > (0 if done else MOST):
            yield f"{after.state}, but {loser} had {wrong} requests until {end:%H:%M:%S}: {after.observation}"
        return
    ready = any(pod.ready for pod in world.pods if pod.version == loser)
    leaks = world.plane.carried.get(loser, 0) > 0 and ready and world.traffic_flows
    if leaks and world.now < after.observation.since + PATIENCE:
        yield f"{after.state} before anything could be counted, and {loser} still has traffic"
