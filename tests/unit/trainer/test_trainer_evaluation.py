"""Metrics against scikit-learn, closed forms and numbers that the references measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from sklearn import metrics as theirs

from espalier_api.artifact import MetricValue
from espalier_trainer.diagnosis import Signals, diagnose
from espalier_trainer.engines import Contribution, Part
from espalier_trainer.evaluation import baseline, calibration, intervals, metrics

if TYPE_CHECKING:
    from tests.conftest import Prove


def logits(n: int = 4000, classes: int = 4, seed: int = 0, temperature: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Scores whose softmax at `temperature` is the truth."""
    rng = np.random.default_rng(seed)
    z = 2.0 * rng.normal(size=(n, classes))
    p = calibration.softmax(z)
    y = (p.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
    return temperature * z, y


def test_temperature_three_is_recovered_and_decisions_stay(proof: Prove) -> None:
    z, y = logits(100_000, temperature=3.0)
    found = calibration.fit_temperature(z, y)
    proof("calibration", "labels drawn at temperature 3: distance of the fitted one", abs(found - 3.0), at_most=0.03)
    assert np.array_equal((z / found).argmax(axis=1), z.argmax(axis=1))
    assert calibration.log_loss(z, y, found) < calibration.log_loss(z, y)


@given(st.integers(0, 10_000), st.floats(0.2, 5.0))
@settings(max_examples=40, deadline=None)
def test_temperature_is_the_minimum(seed: int, true: float) -> None:
    z, y = logits(300, seed=seed, temperature=true)
    best = calibration.fit_temperature(z, y)
    loss = calibration.log_loss(z, y, best)
    assert loss <= min(calibration.log_loss(z, y, best * f) for f in (0.9, 0.99, 1.0, 1.01, 1.1)) + 1e-9


def test_temperature_stays_bounded_where_the_loss_has_no_minimum() -> None:
    z = np.eye(3)[np.arange(30) % 3] * 2.0
    assert 0.05 <= calibration.fit_temperature(z, np.arange(30) % 3) <= 0.06
    assert 19 <= calibration.fit_temperature(z, (np.arange(30) + 1) % 3) <= 20


def test_ece_closes_bins_on_the_right_like_guo() -> None:
    """A confidence on an edge belongs to the bin below (torchmetrics puts it into the one above)."""
    confidence = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    correct = np.array([1.0, 0.0, 1.0, 0.0, 1.0, 0.0])
    right = calibration.bin_of(confidence, 10)
    assert right.tolist() == [0, 1, 2, 3, 4, 5]
    assert calibration.ece(confidence, correct, 10) == pytest.approx(np.abs(confidence - correct).mean())


def test_ece_is_the_textbook_sum() -> None:
    z, y = logits(500, temperature=2.0)
    p = calibration.softmax(z)
    confidence, correct = p.max(axis=1), (p.argmax(axis=1) == y).astype(float)
    total = 0.0
    for i in range(15):
        inside = (confidence > i / 15) & (confidence <= (i + 1) / 15)
        if inside.any():
            total += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    assert calibration.ece(confidence, correct) == pytest.approx(total)


@pytest.mark.parametrize("n, expected", [(100, 0.098), (300, 0.054), (1000, 0.032), (3000, 0.018), (10_000, 0.010)])
def test_a_calibrated_model_shows_the_null_of_its_size(n: int, expected: float) -> None:
    """Reference, fact 5: mean ECE15 of a perfectly calibrated ten-class model."""
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.3, 1.0, size=(60, n))
    values = [calibration.ece(c, (rng.random(n) < c).astype(float)) for c in confidence]
    assert np.mean(values) == pytest.approx(expected, rel=0.25)


def test_excess_is_zero_for_calibrated_and_large_for_overconfident_models() -> None:
    honest = [
        calibration.excess_ece(calibration.softmax(z), y, s)
        for s, (z, y) in ((s, logits(600, seed=s)) for s in range(20))
    ]
    assert abs(np.mean([e.excess for e in honest])) < 0.006
    assert sum(e.p_value < 0.05 for e in honest) <= 4
    z, y = logits(600, temperature=3.0)
    bad = calibration.excess_ece(calibration.softmax(z), y, 0)
    assert bad.p_value < 0.01
    assert bad.excess > 0.08


def test_classification_metrics_are_sklearns() -> None:
    z, y = logits(400, 2)
    p = calibration.softmax(z)
    weight = np.random.default_rng(1).uniform(0.5, 2, 400)
    ours, _ = metrics.classification(p, y, weight, 0, positive=1)
    predicted = p.argmax(axis=1)
    expected = {
        "accuracy": theirs.accuracy_score(y, predicted, sample_weight=weight),
        "balancedAccuracy": theirs.balanced_accuracy_score(y, predicted, sample_weight=weight),
        "f1": theirs.f1_score(y, predicted, sample_weight=weight),
        "precision": theirs.precision_score(y, predicted, sample_weight=weight),
        "recall": theirs.recall_score(y, predicted, sample_weight=weight),
        "auroc": theirs.roc_auc_score(y, p[:, 1], sample_weight=weight),
        "logLoss": theirs.log_loss(y, p, sample_weight=weight),
        "brier": 2 * theirs.brier_score_loss(y, p[:, 1], sample_weight=weight),
    }
    for name, value in expected.items():
        assert ours[name].value == pytest.approx(value), name
        assert ours[name].low <= value <= ours[name].high, name


def test_macro_metrics_without_a_positive_class() -> None:
    z, y = logits(400, 4)
    p = calibration.softmax(z)
    ours, _ = metrics.classification(p, y, None, 0)
    assert ours["f1"].value == pytest.approx(theirs.f1_score(y, p.argmax(axis=1), average="macro"))
    assert ours["balancedAccuracy"].value == pytest.approx(theirs.balanced_accuracy_score(y, p.argmax(axis=1)))
    assert "auroc" not in ours


def test_auroc_counts_ties_half() -> None:
    score, positive = np.array([0.1, 0.5, 0.5, 0.9]), np.array([False, True, False, True])
    assert metrics.auroc(score, positive, np.ones(4)) == theirs.roc_auc_score(positive, score)


def test_regression_metrics_are_sklearns() -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(size=300)
    predicted = y + rng.normal(size=300)
    ours = metrics.regression(predicted, y, None, 0)
    assert ours["rmse"].value == pytest.approx(theirs.root_mean_squared_error(y, predicted))
    assert ours["mae"].value == pytest.approx(theirs.mean_absolute_error(y, predicted))
    assert ours["r2"].value == pytest.approx(theirs.r2_score(y, predicted))


def test_wilson_is_the_published_interval() -> None:
    assert_allclose(intervals.wilson(0.8, 100), (0.7112, 0.8666), atol=1e-4)
    assert intervals.wilson(1.0, 10)[1] == pytest.approx(1.0)


def test_seeds_give_students_interval() -> None:
    values = [MetricValue(value=v, n=10) for v in (0.90, 0.92, 0.94)]
    told = intervals.mean_of_seeds(values)
    assert told.value == pytest.approx(0.92)
    assert told.high - told.value == pytest.approx(4.303 * 0.02 / 3**0.5)


def test_gap_has_equal_counts_and_an_interval_that_covers_it() -> None:
    rng = np.random.default_rng(0)
    told = metrics.gap(rng.exponential(1.0, 5000), rng.exponential(1.5, 400), 0)
    assert told.n == 400
    assert told.low < 0.5 < told.high


def test_baseline_is_a_logistic_regression() -> None:
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - one oracle of one test

    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 5)).astype(np.float32)
    y = (x @ rng.normal(size=(5, 3)) + rng.normal(size=(300, 3))).argmax(axis=1)
    found = baseline.fit(Part(x, y), None, 3)
    model = LogisticRegression(C=1 / (300 * 1e-3), tol=1e-10, max_iter=10_000).fit(x, y)
    assert found.train == pytest.approx(theirs.log_loss(y, model.predict_proba(x)), abs=1e-3)


# --- diagnosis ----------------------------------------------------------------------------------------------------
FLAT = tuple({"train": 1.0, "validation": 1.1} for _ in range(20))


def modes(**signals: object) -> list[str]:
    return [d.mode for d in diagnose(Signals(**{"train_loss": 0.1, **signals}))]


def test_a_healthy_fit_has_no_diagnosis() -> None:
    assert modes(validation_loss=0.12, baseline_train=0.3, baseline_validation=0.4, history=FLAT) == []


def test_underfitting_is_both_losses_above_a_linear_model() -> None:
    told = diagnose(
        Signals(
            1.0,
            1.1,
            0.3,
            0.4,
            history=FLAT,
            contributions={"l2": Contribution(1.0, 2.0, 2.0, 0.8, 3.0), "dropout": Contribution(0.1)},
        )
    )
    assert [d.mode for d in told] == ["F1"]
    assert told[0].suggestion == "halve regularizers.l2, the strongest block"
    assert (
        modes(train_loss=1.0, validation_loss=0.35, baseline_train=0.3, baseline_validation=0.4) == []
    )  # robust under label noise


def test_overfitting_needs_a_gap_and_a_rising_loss() -> None:
    rising = tuple({"train": 0.1, "validation": 0.5 + 0.05 * max(0, i - 5)} for i in range(20))
    gap = MetricValue(value=0.5, low=0.3, high=0.7)
    assert modes(gap=gap, history=rising) == ["F2"]
    assert modes(gap=gap, history=rising, restored=True) == []
    assert modes(gap=MetricValue(value=0.1, low=-0.1, high=0.3), history=rising) == []


def test_instability_is_a_late_spike_or_a_conflict() -> None:
    assert modes(gradient_norms=[5.0, 1.0, 1.0, 1.0, 1.0, 1.0, 40.0, 1.0]) == ["F7"]
    assert modes(gradient_norms=[50.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]) == []  # the first steps are steep
    assert modes(contributions={"l2": Contribution(1.0, gradient_ratio=2.0, cosine=-0.8)}) == ["F7"]
    assert (
        modes(contributions={"l2": Contribution(1.0, gradient_ratio=0.9, cosine=-0.9)}) == []
    )  # balance at the optimum


def test_miscalibration_is_judged_against_the_null() -> None:
    assert modes(excess=calibration.Excess(0.09, 0.05, 0.03, 0.07, 0.005)) == ["F8"]
    assert modes(excess=calibration.Excess(0.09, 0.08, 0.06, 0.11, 0.3)) == []
