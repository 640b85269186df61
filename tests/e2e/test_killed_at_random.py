"""The operator is killed fifty times at random moments; no invariant breaks."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

import pytest

from tests.e2e.harness import RESCALED, data_from
from tests.e2e.rollouts import first_champion, next_version, watched

if TYPE_CHECKING:
    from tests.e2e.harness import World

pytestmark = [pytest.mark.e2e, pytest.mark.alone]
KILLS = 50


def test_fifty_kills_break_no_invariant(world: World) -> None:
    """50 SIGKILLs at random moments over rollouts good and bad.

    Weights always sum to 100 on ready versions, good ones get through, bad ones never.
    """
    dice = random.Random(20261122)
    first_champion(world)
    kills = 0
    newest = 1
    with world.traffic(seconds=1500), watched(world):
        while kills < KILLS:
            newest += 1
            bad = newest % 2 == 1
            next_version(world, 0.01 + newest / 1000, **({"data": data_from(RESCALED)} if bad else {}))
            version = f"v{newest}"
            while not world.outcome(version):
                if kills < KILLS:
                    world.kill_operator()
                    kills += 1
                time.sleep(dice.uniform(2.0, 9.0))
            world.await_(f"{version} settled", lambda: world.status().get("phase") == "Idle", 180)
            assert world.outcome(version)["outcome"] == ("RolledBack" if bad else "Promoted")
    assert kills == KILLS
