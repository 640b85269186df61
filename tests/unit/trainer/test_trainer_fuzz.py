"""Random regularizer maps are refused by name or trained; `python -m bench.fuzz` hunts through many more."""

from __future__ import annotations

import warnings

import pytest

from bench.fuzz import hunt, one


@pytest.mark.filterwarnings("ignore")  # random fits warn about what they are: unconverged, undefined on tiny batches
def test_random_maps_are_refused_by_name_or_trained() -> None:
    counts, broken = hunt(0, 250)
    assert not [(seed, outcome.why, told["regularizers"]) for seed, told, outcome in broken]
    assert counts["trained"] >= 60
    assert counts["refused"] >= 60


@pytest.mark.parametrize("seed", [345, 524])
def test_what_the_hunt_found_stays_found(seed: int) -> None:
    """345: factors after another parametrization. 524: a schedule that takes a chance above 1 (R42)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert one(seed)[1].kind != "broken"
