from __future__ import annotations

import numpy as np
import pytest

from espalier_operator.decisions.judge import ArmCounts
from espalier_operator.decisions.judge.dispersion import HISTORY_BLOCKS, MAX_PHI, measure_dispersion, variance_ratio


def history(bad: list[int], total: int = 900) -> list[ArmCounts]:
    return [ArmCounts(total, each) for each in bad]


def test_worked_example() -> None:
    """Design, section 1.3."""
    assert variance_ratio(history([4, 5, 3, 12, 4, 5])) == pytest.approx(2.745455, abs=5e-7)


def test_independent_events_hardly_cost_anything() -> None:
    rng = np.random.default_rng(7)
    phis = [measure_dispersion(history(list(rng.binomial(5400, 0.005, HISTORY_BLOCKS)), 5400)).phi for _ in range(200)]
    assert np.mean(phis) == pytest.approx(1.09, abs=0.03)


def test_bursts_are_seen() -> None:
    rng = np.random.default_rng(7)
    bursts = [int(rng.geometric(1 / 3, size=rng.binomial(5400, 0.005 / 3)).sum()) for _ in range(HISTORY_BLOCKS)]
    assert measure_dispersion(history(bursts, 5400)).phi > 3


def test_a_slow_drift_is_no_burst() -> None:
    drifting = [10 + index for index in range(HISTORY_BLOCKS)]
    assert measure_dispersion(history(drifting)).phi == 1


def test_never_below_one_and_never_above_ten() -> None:
    assert measure_dispersion(history([5] * 20)).phi == 1
    assert measure_dispersion(history([0, 900] * 20)).phi == MAX_PHI


@pytest.mark.parametrize(
    "blocks,note",
    [
        ([], "no history"),
        (history([3] * 9), "no history: 8 usable"),
        ([ArmCounts(900, 3), ArmCounts(0, 0)] * 20, "no history: 0 usable"),
        (history([0] * 30), "no bad event"),
    ],
)
def test_what_cannot_be_measured_is_one_and_said(blocks: list[ArmCounts], note: str) -> None:
    measured = measure_dispersion(blocks)
    assert measured.phi == 1
    assert note in measured.note
