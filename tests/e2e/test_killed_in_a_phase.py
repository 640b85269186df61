"""The operator is killed when a phase is seen; the next one goes on from what the cluster holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.harness import RESCALED, data_from
from tests.e2e.rollouts import first_champion, next_version, watched

if TYPE_CHECKING:
    from tests.e2e.harness import World

pytestmark = [pytest.mark.e2e, pytest.mark.kills]


@pytest.mark.parametrize("phase", ["Training", "Deploying", "Stepping", "Roll"])
def test_operator_killed_in_each_phase(world: World, phase: str) -> None:
    """SIGKILL when the phase is seen: the next operator goes on from what the cluster holds, to the right end."""
    bad = phase == "Roll"  # RollingBack lasts less than a look; RolledBack follows
    first_champion(world)
    with world.traffic(), watched(world):
        next_version(world, **({"data": data_from(RESCALED)} if bad else {}))
        world.await_(f"phase {phase}", lambda: _phase(world).startswith(phase), 240)
        world.kill_operator()
        world.await_operator()
        outcome = world.await_("an outcome", lambda: world.outcome("v2"), 240)
        world.await_("settled", lambda: world.status().get("phase") == "Idle", 120)
    assert outcome["outcome"] == ("RolledBack" if bad else "Promoted")
    assert world.weight("v1" if bad else "v2") == 100


def _phase(world: World) -> str:
    training = (world.model().get("status") or {}).get("training") or {}
    return "Training" if training.get("job") else str(world.status().get("phase"))
