"""The benchmark's bars on few canaries, every time: a change that makes the judge nervous or slow does not get far."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from bench import judge as bench
from bench.judge_rules import DEFAULT, STRICT, log_evidence

if TYPE_CHECKING:
    from bench.judge_traffic import Scenario

RUNS = 400


def ours(scenario: Scenario) -> bench.Cell:
    return bench.judge_all(scenario, RUNS)[bench.OURS]


@pytest.mark.parametrize("name", bench.DETECTION)
def test_good_canaries_are_left_alone(name: str) -> None:
    scenario, _ = bench.DETECTION[name]
    assert ours(scenario).aborted <= DEFAULT.alpha


@pytest.mark.parametrize("name", bench.BARS_X3)
def test_three_times_worse_is_found_in_time(name: str) -> None:
    scenario, _ = bench.DETECTION[name]
    cell = ours(replace(scenario, harm=3))
    assert cell.aborted == 1
    assert cell.median_minutes is not None
    assert cell.median_minutes <= bench.BARS_X3[name]


@pytest.mark.parametrize("name", [name for name in bench.NUISANCES if "incident" in name])
def test_shared_incidents_abort_next_to_nobody(name: str) -> None:
    assert ours(bench.NUISANCES[name]).aborted <= bench.FALSE_ABORTS_IN_INCIDENTS


def test_the_benchmark_can_lose() -> None:
    """Without its guards the same judge misses the same bar by far."""
    rng = np.random.default_rng(bench.SEED)
    traffic = bench.NUISANCES["incident x40 from minute 1, canary 15 s ahead"].draw(rng, RUNS)
    from_strict = (log_evidence(traffic, STRICT) >= np.log(20)).any(axis=1).mean()
    assert from_strict > 0.9


def test_wilson() -> None:
    """Agresti & Coull 1998: 0 of 10 gives (0, 0.2775)."""
    assert bench.wilson(0, 10) == pytest.approx((0, 0.2775), abs=1e-4)
    assert bench.wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
