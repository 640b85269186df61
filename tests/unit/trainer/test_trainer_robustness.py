"""Attacks, corruptions and subgroups: a linear model's margin is the oracle, scikit-learn counts the groups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.metrics import confusion_matrix

from espalier_trainer.evaluation import groups, metrics, robustness
from espalier_trainer.evaluation.robustness import Attack, Moments

if TYPE_CHECKING:
    from tests.conftest import Prove


class Linear:
    """Logits (0, w.x): the margin under an attack of size epsilon is |w.x| - epsilon ||w||, in the dual norm."""

    def __init__(self, w: np.ndarray, blind: float = 1.0) -> None:
        self.w, self.blind = w, blind

    def scores(self, x: np.ndarray) -> np.ndarray:
        z = x.astype(np.float64) @ self.w
        return np.stack([np.zeros_like(z), z], axis=1)

    def input_gradient(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        p = 1 / (1 + np.exp(-(x.astype(np.float64) @ self.w)))
        return self.blind * (p - y)[:, None] * self.w


def rows(n: int = 400, seed: int = 0) -> tuple[Linear, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    model = Linear(rng.normal(size=6))
    x = rng.normal(size=(n, 6)).astype(np.float32)
    return model, x, (model.scores(x)[:, 1] + 0.5 * rng.normal(size=n) > 0).astype(np.int64)


def margin(model: Linear, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (2 * y - 1) * (x.astype(np.float64) @ model.w)


@pytest.mark.parametrize("norm, dual", [("linf", 1), ("l2", 2)])
def test_the_attack_on_a_linear_model_takes_epsilon_times_the_dual_norm(norm: Any, dual: int, proof: Prove) -> None:
    model, x, y = rows()
    attack = Attack(0.25, norm, 10)
    expected = float((margin(model, x, y) - 0.25 * np.linalg.norm(model.w, dual) > 0).mean())
    found = robustness.attacked(model, model.scores, x, y, attack, 0)
    proof(
        "adversarial",
        f"closed form: accuracy at margin - eps |w|, {norm}",
        abs(found.accuracy.value - expected),
        at_most=1e-9,
    )
    assert found.fgsm == pytest.approx(expected)
    assert expected - 1e-9 <= found.pgd <= expected + 0.02  # ten steps from a random start
    assert not found.masked
    moved = robustness.fgsm(model, x, y, attack)
    assert_allclose(margin(model, x, y) - margin(model, moved, y), 0.25 * np.linalg.norm(model.w, dual), atol=1e-5)


@pytest.mark.parametrize("norm, order", [("linf", np.inf), ("l2", 2)])
def test_attacks_stay_in_their_ball_and_never_help(norm: Any, order: float) -> None:
    model, x, y = rows()
    attack = Attack(0.1, norm, 7)
    worst = robustness.pgd(model, model.scores, x, y, attack, 0)
    assert np.linalg.norm(worst - x, order, axis=1).max() <= 0.1 + 1e-6
    assert (metrics.row_losses(model.scores(worst), y) >= metrics.row_losses(model.scores(x), y)).all()
    assert_allclose(worst, robustness.pgd(model, model.scores, x, y, attack, 0))  # seeded


def test_gradients_that_lead_nowhere_are_noticed() -> None:
    """Scores that a quantizer flattens: the attack sees no slope, the loss does not rise with the room it gets."""
    model, x, y = rows()
    blind = Linear(model.w, blind=0.0)
    flat = robustness.attacked(
        blind, lambda v: model.scores(np.sign(v).astype(np.float32) * 9), np.sign(x) * 3, y, Attack(0.05), 0
    )
    assert flat.masked
    assert isinstance(model, robustness.Differentiable)
    assert not isinstance(object(), robustness.Differentiable)


def test_corruptions_are_what_they_are_called() -> None:
    x = np.random.default_rng(0).normal(size=(4000, 5)).astype(np.float32)
    made = {(kind, severity): inputs for kind, severity, inputs in robustness.corruptions(x, Moments.standard(5), 1)}
    assert len(made) == 6
    assert (made["gaussianNoise", 0.3] - x).std() == pytest.approx(0.3, rel=0.02)
    lost = made["featureDropout", 0.2]
    assert (lost == 0).mean() == pytest.approx(0.2, rel=0.05)
    assert_allclose(lost[lost != 0], x[lost != 0])


def test_noise_on_a_linear_model_flips_what_the_normal_law_says() -> None:
    """With noise of deviation s, w.x + s||w|| g changes its sign with probability Phi(-|w.x| / (s ||w||))."""
    from scipy.stats import norm as normal  # noqa: PLC0415 - one oracle of one test

    model, x, _ = rows(20_000)
    y = (model.scores(x)[:, 1] > 0).astype(np.int64)
    mean, told = robustness.corrupted(model.scores, x, y, Moments.standard(6), classes=2, seed=0)
    one = next(c for c in told if (c.kind, c.severity) == ("gaussianNoise", 0.5))
    flips = normal.cdf(-np.abs(margin(model, x, y)) / (0.5 * np.linalg.norm(model.w))).mean()
    assert one.drop.value == pytest.approx(flips, abs=0.006)
    assert one.drop.low < flips < one.drop.high
    assert mean.value == pytest.approx(np.mean([c.quality for c in told]))


def test_a_regression_is_told_by_its_error() -> None:
    x = np.random.default_rng(0).normal(size=(5000, 4)).astype(np.float32)
    w = np.array([1.0, -2.0, 0.5, 0.0])
    mean, told = robustness.corrupted(
        lambda v: (v.astype(float) @ w)[:, None], x, x.astype(float) @ w, Moments.standard(4), classes=0, seed=0
    )
    assert [-c.quality for c in told[:3]] == pytest.approx([s * np.linalg.norm(w) for s in robustness.NOISE], rel=0.05)
    assert told[0].drop.value == pytest.approx(0.1 * np.linalg.norm(w), rel=0.05)
    assert mean.value > 0


# --- groups -----------------------------------------------------------------------------------------------------------
def test_differences_between_groups_are_those_of_the_confusion_matrices() -> None:
    rng = np.random.default_rng(0)
    column = rng.choice(["a", "b", "c"], 900, p=[0.5, 0.3, 0.2]).astype(object)
    actual = rng.random(900) < 0.4
    called = np.where(column == "b", rng.random(900) < 0.6, actual & (rng.random(900) < 0.8))
    selected, tpr, fpr = [], [], []
    for name in "abc":
        inside = column == name
        tn, fp, fn, tp = confusion_matrix(actual[inside], called[inside], labels=[False, True]).ravel()
        selected.append((tp + fp) / inside.sum())
        tpr.append(tp / (tp + fn))
        fpr.append(fp / (fp + tn))
    told = groups.differences(called, actual, None, column, 0)
    assert told["demographicParityDifference"].value == pytest.approx(max(selected) - min(selected))
    assert told["equalizedOddsDifference"].value == pytest.approx(max(max(tpr) - min(tpr), max(fpr) - min(fpr)))
    for value in told.values():
        assert value.low < value.value < value.high
        assert value.n == 900


def test_a_small_group_decides_nothing() -> None:
    column = np.array(["a"] * 100 + ["b"] * 100 + ["few"] * 49, dtype=object)
    actual = np.tile([True, False], 125)[:249]
    called = actual.copy()
    called[200:] = ~called[200:]  # wrong about every one of the few
    told = groups.differences(called, actual, None, column, 0)
    assert told["equalizedOddsDifference"].value == 0.0
    assert groups.differences(called[:120], actual[:120], None, column[:120], 0) == {}  # one big group has no other


def test_the_largest_groups_come_by_name() -> None:
    column = np.array([f"g{i}" for i in range(60) for _ in range(60 - i)], dtype=object)
    told = groups.members(column)
    assert len(told) == 50
    assert {name for name, _ in told} == {f"g{i}" for i in range(50)}
    assert all((column[where] == name).all() for name, where in told)
