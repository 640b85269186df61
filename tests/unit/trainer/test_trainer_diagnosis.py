"""F3 to F8 on numbers that trip them and on numbers that just do not. F1 and F2 stand in test_trainer_evaluation.py."""

from __future__ import annotations

from typing import Any

import pytest

from espalier_api.artifact import MetricValue
from espalier_trainer.diagnosis import Exported, Signals, blown_up, diagnose, mismatch
from espalier_trainer.engines import Contribution
from espalier_trainer.evaluation.robustness import Corrupted


def modes(**signals: Any) -> list[str]:
    return [d.mode for d in diagnose(Signals(**{"train_loss": 0.1, **signals}))]


def lost(kind: str, low: float, severity: float = 0.1) -> Corrupted:
    return Corrupted(kind, severity, 0.8, MetricValue(value=low + 0.02, low=low, high=low + 0.04))


# --- F3 ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "bad, good, words",
    [
        ({"parity": 1.01e-4}, {"parity": 1e-4}, "differs from the trained model by 1.01e-04"),
        ({"parity": float("nan")}, {"parity": 0.0}, "differs"),
        ({"other_labels": 1}, {"other_labels": 0}, "another class than the trained model on 1 of 64"),
        ({"repeated": 1e-9}, {"repeated": 0.0}, "dropout or batch statistics are active"),
        (
            {"judged_preprocessing": "sha256:a", "packaged_preprocessing": "sha256:b"},
            {"judged_preprocessing": "sha256:a", "packaged_preprocessing": "sha256:a"},
            "preprocessing changed",
        ),
    ],
)
def test_a_mismatch_between_training_and_serving(bad: dict[str, Any], good: dict[str, Any], words: str) -> None:
    found = mismatch(Exported(**bad))
    assert found is not None
    assert found.mode == "F3"
    assert words in found.evidence
    assert mismatch(Exported(**good)) is None


# --- F4 ---------------------------------------------------------------------------------------------------------------
def test_sensitivity_is_the_mildest_corruptions_loss() -> None:
    assert modes(corruptions=[lost("gaussianNoise", 0.051)]) == ["F4"]
    assert modes(corruptions=[lost("gaussianNoise", 0.05)]) == []
    assert (
        modes(corruptions=[lost("gaussianNoise", 0.0), lost("gaussianNoise", 0.5, 0.5)]) == []
    )  # strong noise may hurt
    assert modes(corruptions=[lost("featureDropout", 0.2)]) == ["F4"]


def test_sensitivity_names_the_worse_corruption_and_one_step() -> None:
    def suggested(*corruptions: Corrupted, **blocks: Contribution) -> str:
        (found,) = diagnose(Signals(0.1, corruptions=corruptions, contributions=blocks))
        return found.suggestion

    noise, gone = lost("gaussianNoise", 0.1), lost("featureDropout", 0.3)
    assert suggested(noise) == "add regularizers.noiseInjection: {std: 0.1}"
    assert suggested(noise, gone) == "add regularizers.weightDecay: {strength: 0.1}"
    assert suggested(noise, noiseInjection=Contribution(0.3)) == "raise regularizers.noiseInjection.std from 0.3 to 0.6"
    assert suggested(noise, noiseInjection=Contribution(0.8)).endswith("from 0.8 to 1")  # the API's bound


# --- F5 ---------------------------------------------------------------------------------------------------------------
def test_a_budget_counts_before_the_previous_version() -> None:
    size = {"artifactBytes": 2e6}
    found = blown_up(Exported(resources=size, budgets={"artifactBytes": 1.9e6}))
    assert found is not None
    assert (found.mode, found.suggestion) == ("F5", "add regularizers.quantization, or narrow the architecture")
    assert "artifactBytes is 2 MB, above 1.9 MB, its gate" in found.evidence
    assert blown_up(Exported(resources=size, budgets={"artifactBytes": 2e6}, previous={"artifactBytes": 1.0})) is None


def test_half_again_the_previous_version_is_too_much() -> None:
    seconds = {"latencyP95Seconds": 0.0031}
    found = blown_up(Exported(resources=seconds, previous={"latencyP95Seconds": 0.002}))
    assert found is not None
    assert "3.1 ms, above 3 ms, 1.5 times the previous version's" in found.evidence
    assert blown_up(Exported(resources={"latencyP95Seconds": 0.003}, previous={"latencyP95Seconds": 0.002})) is None
    assert blown_up(Exported(resources=seconds)) is None  # nothing to compare with


def test_zeros_that_are_stored_densely() -> None:
    sparse = Exported(resources={"artifactBytes": 2.0}, budgets={"artifactBytes": 1.0}, zeros=0.6)
    found = blown_up(sparse)
    assert found is not None
    assert "60% of the weights are 0" in found.evidence
    assert found.suggestion.startswith("add regularizers.structuredPruning")
    memory = blown_up(Exported(resources={"peakMemoryBytes": 2.0}, budgets={"peakMemoryBytes": 1.0}))
    assert memory is not None
    assert "batchSize" in memory.suggestion


# --- F6 ---------------------------------------------------------------------------------------------------------------
def test_a_policy_regression_needs_intervals_apart() -> None:
    def share(value: float, low: float, high: float) -> MetricValue:
        return MetricValue(value=value, low=low, high=high, n=500)

    before = share(0.02, 0.01, 0.04)
    (found,) = diagnose(
        Signals(0.1, safety=share(0.08, 0.05, 0.1), previous_safety=before, contributions={"safety": Contribution(0.5)})
    )
    assert found.mode == "F6"
    assert found.suggestion.endswith("raise regularizers.safety.strength from 0.5 to 1")
    assert modes(safety=share(0.06, 0.04, 0.09), previous_safety=before) == []  # touching
    assert modes(safety=share(0.9, 0.8, 1.0)) == []  # nothing to regress from: a gate on safetyViolation decides
    assert modes(previous_safety=before) == []


# --- F7, F8 -----------------------------------------------------------------------------------------------------------
def curve(late: float) -> list[dict[str, float]]:
    """Forty epochs of steps +-0.05 around 1, and +-late in the last ten."""
    return [{"train": 1.0 + (0.05 if i < 31 else late) * (-1) ** i} for i in range(41)]


def test_a_loss_that_jumps_about_ever_more() -> None:
    assert modes(history=curve(0.05)) == []
    assert modes(history=curve(0.08)) == []  # 1.6 times the size, 2.6 times the variance
    assert modes(history=curve(0.09)) == ["F7"]
    quiet = [{"train": 1.0 + (1e-6 if i < 31 else 1e-4) * (-1) ** i} for i in range(41)]
    assert modes(history=quiet) == []  # a hundred times as much of nothing


def test_a_drifting_temperature() -> None:
    calibrated = {"calibration": Contribution(1.0)}
    assert modes(temperature=1.21, previous_temperature=1.0, contributions=calibrated) == ["F8"]
    assert modes(temperature=1.2, previous_temperature=1.0, contributions=calibrated) == []
    assert modes(temperature=2.0, previous_temperature=1.0) == []  # nothing was calibrated


def test_each_mode_has_one_bounded_suggestion() -> None:
    everything = diagnose(
        Signals(
            1.0,
            1.1,
            0.3,
            0.4,
            corruptions=[lost("gaussianNoise", 0.3)],
            safety=MetricValue(value=0.9, low=0.8, high=1.0),
            previous_safety=MetricValue(value=0.1, low=0.0, high=0.2),
            history=curve(0.5),
        )
    )
    assert [d.mode for d in everything] == ["F1", "F4", "F6", "F7"]
    assert all(0 < len(d.suggestion) <= 1024 and 0 < len(d.evidence) <= 1024 for d in everything)
