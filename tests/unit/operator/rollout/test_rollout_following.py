"""What the machine does when counted traffic follows the route, late or not at all."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from espalier_operator.decisions.rollout.machine import decide
from espalier_operator.decisions.rollout.progress import Failure, Hold, Observation, Outcome, State
from espalier_operator.decisions.rollout.report import Picture, status_of
from espalier_operator.decisions.rollout.world import BlockCount, Capabilities, Counted, Seen, Traffic
from tests.unit.operator.rollout.test_rollout_rules import EARLIER, MINUTE, NOW, SPEC, STEPPING, step, world

PATIENCE = timedelta(minutes=2)
PROMOTING = replace(
    STEPPING,
    state=State.PROMOTING,
    observation=Observation("1/50", 50, EARLIER, before=20, baseline=0.2, reach=0.95, how="counters", share=0.5),
)


def all_traffic(*blocks: tuple[int, int]) -> Seen:
    counts = tuple(BlockCount(NOW, *block) for block in blocks)
    traffic = Traffic(weights={"v1": 0, "v2": 100}, settled=True, resource_version="1", route="1/100")
    return world(traffic=traffic, counted=Counted(counts, patience=PATIENCE))


@pytest.mark.parametrize(
    "blocks, state",
    [
        ([(600, 600)], State.IDLE),
        ([(300, 600)], State.PROMOTING),
        ([(480, 600)], State.PROMOTING),
        ([], State.PROMOTING),
    ],
)
def test_a_promotion_is_done_when_the_counters_say_so(blocks: list[tuple[int, int]], state: State) -> None:
    assert step(PROMOTING, all_traffic(*blocks)).progress.state is state


def test_a_disagreement_that_lasts_is_told_once_and_so_is_its_end() -> None:
    now, progress, told = NOW, PROMOTING, []
    for blocks in [[(300, 600)]] * 4 + [[(600, 600)]]:
        plan = decide(SPEC, all_traffic(*blocks), progress, now)
        progress, now = plan.progress, now + SPEC.interval
        told += [note.reason for note in plan.notes]
    assert told == ["TrafficDisagrees", "TrafficFollows", "Promoted"]


def test_traffic_astray_stops_the_clock_and_is_held_time() -> None:
    seen = replace(world(), traffic=replace(world().traffic, route="1/20"), counted=Counted((BlockCount(NOW, 0, 600),)))
    astray = Observation("1/20", 20, EARLIER, before=0, baseline=0.0, disagrees_since=NOW - 2 * MINUTE)
    held = step(replace(STEPPING, observation=astray), seen)
    assert held.progress.observed_at is None
    assert held.progress.clock.counts_from is None
    back = step(held.progress, replace(seen, counted=Counted((BlockCount(NOW, 120, 600),))))
    assert back.progress.clock.held == 2 * MINUTE
    assert back.progress.observed_at == NOW


def test_a_hold_that_ends_is_written_down() -> None:
    hold = Hold("SourceDown", NOW - MINUTE, "errors", "Refused")
    after = step(replace(STEPPING, hold=hold))
    assert after.progress.hold is None
    status = status_of(Picture(SPEC, world(), after.progress, {}, model_found=True, now=NOW), {})
    assert status["step"]["heldSeconds"] == 60


def test_connections_that_outlive_the_switch_end_with_their_pods() -> None:
    failure = Failure(Outcome.ROLLED_BACK, "SLIBreach", "errors", EARLIER, weight=50)
    astray = Observation("1/0", 0, EARLIER, before=50, baseline=0.5, disagrees_since=NOW - 2 * MINUTE)
    rolling = replace(STEPPING, state=State.ROLLING_BACK, failure=failure, observation=astray)
    traffic = Traffic(weights={"v1": 100, "v2": 0}, settled=True, resource_version="1", route="1/0")
    spec = replace(SPEC, capabilities=Capabilities(by_pods=True, max_weight=50, per_request=False))
    plan = step(rolling, world(traffic=traffic, counted=Counted((BlockCount(NOW, 5, 600),))), spec)
    assert plan.progress.state is State.ROLLING_BACK
    assert {serve.version.name: serve.replicas for serve in plan.serve} == {"v1": 1, "v2": 0}
