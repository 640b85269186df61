"""M4, M5 and M9 against closed forms, scipy, scikit-learn and resampling."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import stats
from sklearn import metrics as theirs

from espalier_trainer.evaluation import calibration, detection, intervals, selective, variance

if TYPE_CHECKING:
    from tests.conftest import Prove


def answers(n: int, seed: int, classes: int = 4, sharpness: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated probabilities and labels drawn from them."""
    rng = np.random.default_rng(seed)
    p = calibration.softmax(sharpness * rng.normal(size=(n, classes)))
    return p, (p.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)


# --- M5 ---------------------------------------------------------------------------------------------------------------
def test_the_risk_bound_is_clopper_pearsons() -> None:
    for errors, n in ((0, 50), (3, 50), (10, 1000)):
        theirs_high = stats.binomtest(errors, n, alternative="less").proportion_ci(0.95, "exact").high
        assert selective.risk_bound(errors, n, 0.95) == pytest.approx(theirs_high, abs=1e-12)
    assert selective.risk_bound(5, 5, 0.95) == 1.0


def test_the_guarantee_holds_on_fresh_rows(proof: Prove) -> None:
    """300 times: choose a threshold on 500 rows; the true risk above it may exceed the target in at most 5 % of the draws."""
    big, truth = answers(200_000, seed=10_000, sharpness=3.0)
    confidence, wrong = big.max(axis=1), big.argmax(axis=1) != truth
    broken, coverages = 0, []
    for seed in range(300):
        p, y = answers(500, seed, sharpness=3.0)
        found = selective.threshold_for(p.max(axis=1), p.argmax(axis=1) != y, max_risk=0.15)
        if found is None:
            continue
        broken += wrong[confidence >= found.value].mean() > 0.15
        coverages.append(found.coverage)
    assert len(coverages) > 250
    assert np.mean(coverages) > 0.1  # a guarantee that never answers would be cheap
    proof("abstention", "resampling: share of 300 thresholds that break the promised risk", broken / 300, at_most=0.05)


def test_no_threshold_is_promised_that_cannot_be_kept() -> None:
    rng = np.random.default_rng(0)
    assert selective.threshold_for(rng.random(200), np.ones(200)) is None
    assert (
        selective.threshold_for(rng.random(20), np.zeros(20)) is None
    )  # even without an error, 20 rows promise 5 % to nobody
    everything = selective.threshold_for(rng.random(150), np.zeros(150))  # half of them alone could not promise it
    assert everything is not None
    assert everything.coverage == 1.0
    sure = selective.threshold_for(rng.random(2000), np.zeros(2000))
    assert sure is not None
    assert sure.coverage > 0.9


def test_rows_of_equal_confidence_are_answered_together() -> None:
    confidence = np.repeat([0.9, 0.8], 200)
    wrong = np.r_[np.zeros(200), np.ones(200)]
    found = selective.threshold_for(confidence, wrong)
    assert found is not None
    assert (found.value, found.coverage) == (0.9, 0.5)


@given(st.integers(0, 10_000), st.integers(5, 60))
@settings(max_examples=40, deadline=None)
def test_aurc_is_the_sum_over_pairs(seed: int, n: int) -> None:
    """Each wrong row adds the sum of 1/k over the ranks k from its own on: the curve's area, counted per error, not per coverage."""
    rng = np.random.default_rng(seed)
    confidence, wrong = rng.permutation(n) / n, rng.random(n) < 0.3
    rank = stats.rankdata(-confidence)
    expected = sum(sum(1 / k for k in range(int(r), n + 1)) for r in rank[wrong]) / n
    assert selective.aurc(confidence, wrong) == pytest.approx(expected, abs=1e-12)


def test_ties_cost_the_mean_over_their_orders() -> None:
    rng = np.random.default_rng(1)
    confidence, wrong = np.repeat([0.9, 0.5, 0.2], 10), rng.random(30) < 0.4
    orders = []
    for _ in range(4000):
        jitter = confidence + 1e-6 * rng.random(30)
        orders.append(selective.aurc(jitter, wrong))
    assert selective.aurc(confidence, wrong) == pytest.approx(np.mean(orders), abs=0.003)


def test_coverage_and_risk_on_other_rows() -> None:
    p, y = answers(4000, 3)
    threshold = selective.Threshold(0.7, 0.1, 0.5)
    told = selective.measure(p, y, None, threshold, 0)
    kept = p.max(axis=1) >= 0.7
    assert told["rejectRate"].value == pytest.approx(1 - kept.mean())
    assert told["selectiveRisk"].value == pytest.approx(1 - theirs.accuracy_score(y[kept], p.argmax(axis=1)[kept]))
    assert told["selectiveRisk"].n == kept.sum()
    assert told["aurc"].low <= told["aurc"].value <= told["aurc"].high
    nobody = selective.measure(p, y, None, selective.Threshold(1.1, 0.0, 0.0), 0)
    assert nobody["rejectRate"].value == 1.0
    assert "selectiveRisk" not in nobody


# --- M4 ---------------------------------------------------------------------------------------------------------------
def test_the_spread_of_linear_members_is_the_closed_form(proof: Prove) -> None:
    """w ~ N(mu, S): the standard deviation of w.x is sqrt(x'Sx)."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(6, 6))
    x = rng.normal(size=(200, 6))
    w = rng.normal(size=6) + rng.normal(size=(400, 6)) @ root.T
    told = variance.measure((w @ x.T)[:, :, None], classification=False, seed=0)["predictionVariance"]
    exact = np.sqrt(np.einsum("ni,ij,nj->n", x, root @ root.T, x)).mean()
    proof(
        "ensemble",
        "closed form of linear members: |spread / sqrt(x'Sx) - 1|",
        abs(told.value / exact - 1),
        at_most=0.05,
    )
    assert told.low < told.value < told.high


def test_mutual_information_is_disagreement_only() -> None:
    certain = np.eye(2)[[0, 1]][:, None, :].repeat(5, axis=1)  # two members, each sure of another class
    assert_allclose(variance.mutual_information(certain), np.log(2))
    vague = np.full((3, 4, 2), 0.5)
    assert_allclose(variance.mutual_information(vague), 0.0, atol=1e-15)
    p = np.random.default_rng(0).dirichlet(np.ones(4), size=(7, 50))
    expected = stats.entropy(p.mean(axis=0), axis=1) - stats.entropy(p, axis=2).mean(axis=0)
    assert_allclose(variance.mutual_information(p), expected, atol=1e-12)


def test_spread_needs_two_members_and_follows_the_mean_class() -> None:
    with pytest.raises(ValueError, match="two members"):
        variance.spread(np.zeros((1, 3, 2)))
    p = np.array([[[0.9, 0.1]], [[0.7, 0.3]]])
    assert_allclose(variance.spread(p), np.std([0.9, 0.7], ddof=1))


def test_churn_is_the_share_of_changed_answers() -> None:
    told = variance.churn(np.array([0, 1, 2, 2, -1]), np.array([0, 1, 1, 2, 0]))
    assert (told.value, told.n) == (0.4, 5)
    assert (told.low, told.high) == pytest.approx(intervals.wilson(0.4, 5))


def test_few_numbers_ride_in_a_checkpoint() -> None:
    assert len(variance.kept_rows(100_000, 10)) == 512
    assert len(variance.kept_rows(100_000, 1000)) == 20
    assert variance.kept_rows(3, 2).tolist() == [0, 1, 2]


# --- M9 ---------------------------------------------------------------------------------------------------------------
@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_average_precision_is_sklearns_with_ties_and_weights(seed: int) -> None:
    rng = np.random.default_rng(seed)
    score, hit, w = rng.integers(0, 8, 80) / 8, rng.random(80) < 0.3, rng.uniform(0.1, 2, 80)
    hit[0] = True
    expected = theirs.average_precision_score(hit, score, sample_weight=w)
    assert detection.average_precision(score, hit, w) == pytest.approx(expected, abs=1e-12)


def test_rates_of_the_positive_class_are_sklearns() -> None:
    p, y = answers(600, 5, classes=3)
    weight = np.random.default_rng(0).uniform(0.5, 2, 600)
    told = detection.measure(p, y, weight, 2, 0)
    called, actual = p.argmax(axis=1) == 2, y == 2
    tn, fp, fn, tp = theirs.confusion_matrix(actual, called, sample_weight=weight).ravel()
    assert told["falsePositiveRate"].value == pytest.approx(fp / (fp + tn))
    assert told["recall"].value == pytest.approx(tp / (tp + fn))
    assert told["falsePositiveRate"].n == (~actual).sum()
    unweighted = detection.measure(p, y, None, 2, 0)["falsePositiveRate"]
    both = stats.binomtest(int((called & ~actual).sum()), int((~actual).sum())).proportion_ci(0.95, "wilson")
    assert (unweighted.low, unweighted.high) == pytest.approx((both.low, both.high), abs=1e-9)


def test_a_rate_without_rows_is_not_told() -> None:
    p, _ = answers(20, 0, classes=2)
    assert set(detection.measure(p, np.zeros(20, dtype=int), None, 1, 0)) == {"falsePositiveRate"}


# --- M3's other binnings ----------------------------------------------------------------------------------------------
def test_adaptive_bins_hold_equally_many_rows_and_classwise_is_the_mean_over_classes() -> None:
    p, y = answers(600, 0)
    confidence, correct = p.max(axis=1), (p.argmax(axis=1) == y).astype(float)
    order, total = np.argsort(confidence), 0.0
    for i in range(15):
        rows = order[i * 40 : (i + 1) * 40]
        total += 40 / 600 * abs(correct[rows].mean() - confidence[rows].mean())
    assert calibration.adaptive_ece(confidence, correct) == pytest.approx(total)
    binary = np.array([[0.8, 0.2]] * 10)
    labels = np.array([0] * 6 + [1] * 4)
    assert calibration.classwise_ece(binary, labels) == pytest.approx(
        0.2
    )  # 0.8 said where 0.6 is true, and 0.2 where 0.4 is
