"""Penalties against solvers that are not ours."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.linear_model import ElasticNet, HuberRegressor, Lasso, LogisticRegression, Ridge

from espalier_trainer.engines.torch.loop import Fit, Settings
from espalier_trainer.engines.torch.optimizers import OptimizerSpec
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.schedule import ConstantRate, CosineRate
from espalier_trainer.session import Alone
from tests.unit.trainer.problems import blocks, classification, linear, regression, solve, tensors, weights

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from tests.conftest import Prove


def gap(ours: ArrayLike, theirs: ArrayLike) -> float:
    """The largest difference of two arrays of the same shape."""
    return float(np.abs(np.asarray(ours) - np.asarray(theirs)).max())


@pytest.mark.parametrize("strength", [1e-4, 1e-2, 1.0])
def test_l2_equals_ridge(strength: float, proof: Prove) -> None:
    """Mean half-squared loss + strength/2 ||w||^2 has the same minimum as Ridge(alpha = n strength)."""
    problem = regression()
    ours = solve(problem, {"l2": {"strength": strength}}, options={"momentum": 0.9}, steps=800)
    theirs = Ridge(alpha=len(problem.y) * strength, tol=1e-12).fit(problem.x, problem.y)
    proof("l2", "sklearn Ridge: coefficients", gap(weights(ours)[0], theirs.coef_), at_most=8e-9)
    assert ours.parameters["head.bias"].item() == pytest.approx(theirs.intercept_, abs=8e-9)  # biases are not penalized


@pytest.mark.parametrize("strength", [1e-3, 1e-1])
def test_l2_equals_logistic_regression(strength: float, proof: Prove) -> None:
    problem = classification()
    ours = solve(problem, {"l2": {"strength": strength}}, rate=0.5, steps=2000, options={"momentum": 0.9})
    theirs = LogisticRegression(C=1 / (len(problem.y) * strength), solver="newton-cg", tol=1e-12, max_iter=10_000).fit(
        problem.x, problem.y
    )
    proof("l2", "sklearn LogisticRegression: coefficients", gap(weights(ours), theirs.coef_), at_most=3e-7)


def test_l1_with_sgd_equals_lasso(proof: Prove) -> None:
    problem = regression()
    ours = solve(problem, {"l1": {"strength": 0.1}}, rate=0.2, steps=1000)
    theirs = Lasso(alpha=0.1, tol=1e-14, max_iter=100_000).fit(problem.x, problem.y)
    proof("l1", "sklearn Lasso with SGD: coefficients", gap(weights(ours)[0], theirs.coef_), at_most=2e-13)
    assert np.array_equal(weights(ours)[0] == 0, theirs.coef_ == 0)
    assert (theirs.coef_ == 0).sum() >= 3


@pytest.mark.parametrize("options", [{"momentum": 0.9}, {"momentum": 0.8, "nesterov": True}])
def test_l1_with_momentum_equals_lasso(options: dict[str, float]) -> None:
    """Momentum lengthens the step in the long run; so must the threshold, or the effective strength shrinks tenfold."""
    problem = regression()
    ours = solve(problem, {"l1": {"strength": 0.1}}, rate=0.02, steps=3000, options=options)
    theirs = Lasso(alpha=0.1, tol=1e-14, max_iter=100_000).fit(problem.x, problem.y)
    assert_allclose(weights(ours)[0], theirs.coef_, atol=1e-9)


def test_l1_with_adam_equals_lasso(proof: Prove) -> None:
    """The threshold is in Adam's metric; lr * strength instead gives no zeros and an objective 30 % too high."""
    problem = regression()
    ours = solve(problem, {"l1": {"strength": 0.1}}, kind="adam", rate=CosineRate(0.05), steps=4000)
    theirs = Lasso(alpha=0.1, tol=1e-14, max_iter=100_000).fit(problem.x, problem.y)
    proof("l1", "sklearn Lasso with Adam: coefficients", gap(weights(ours)[0], theirs.coef_), at_most=3e-8)
    assert np.array_equal(weights(ours)[0] == 0, theirs.coef_ == 0)


def test_elastic_net_equals_elastic_net(proof: Prove) -> None:
    problem = regression()
    ours = solve(problem, {"elasticNet": {"strength": 0.2, "l1Ratio": 0.6}}, rate=0.2, steps=1000)
    theirs = ElasticNet(alpha=0.2, l1_ratio=0.6, tol=1e-14, max_iter=100_000).fit(problem.x, problem.y)
    proof("elasticNet", "sklearn ElasticNet: coefficients", gap(weights(ours)[0], theirs.coef_), at_most=2e-13)
    assert np.array_equal(weights(ours)[0] == 0, theirs.coef_ == 0)


def test_l1_and_l2_together_are_elastic_net() -> None:
    problem = regression()
    together = solve(problem, {"l1": {"strength": 0.12}, "l2": {"strength": 0.08}}, rate=0.2, steps=1000)
    one = solve(problem, {"elasticNet": {"strength": 0.2, "l1Ratio": 0.6}}, rate=0.2, steps=1000)
    assert_allclose(weights(together), weights(one), atol=1e-13)


def test_huber_equals_huber_regressor(proof: Prove) -> None:
    """HuberRegressor at its own scale s minimizes mean huber(r; eps s) + (alpha s / n) ||w||^2."""
    problem = regression(noise=1.0)
    y = problem.y.copy()
    y[::17] += 25.0
    theirs = HuberRegressor(epsilon=1.35, alpha=0.5, tol=1e-12, max_iter=10_000).fit(problem.x, y)
    strength = 2 * theirs.alpha * theirs.scale_ / (2 * len(y))
    outliers = type(problem)(problem.x, y)
    declared = {"robustLoss": {"kind": "huber", "delta": 1.35 * theirs.scale_}, "l2": {"strength": strength}}
    ours = solve(outliers, declared, rate=0.2, steps=2000, options={"momentum": 0.9})
    difference = gap(weights(ours)[0], theirs.coef_)  # their optimizer stops at about the bar
    proof("robustLoss", "sklearn HuberRegressor: coefficients", difference, at_most=2e-5)


def test_weight_decay_is_adamw(proof: Prove) -> None:
    """The weights of torch's AdamW, on the parameters that are decayed and on those that are not."""
    problem = classification()
    ours = solve(problem, {"weightDecay": {"strength": 0.3}}, kind="adamw", rate=0.01, steps=50)
    model = linear(problem)
    decayed, free = [model.head.weight], [model.head.bias]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.3}, {"params": free, "weight_decay": 0.0}], lr=0.01
    )
    data = tensors(problem.x, problem.y)
    for _ in range(50):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(data.x), data.y).backward()
        optimizer.step()
    ratio = np.asarray(weights(ours)) / model.head.weight.detach().numpy()
    proof("weightDecay", "torch AdamW: weights, relative", gap(ratio, 1.0), at_most=1e-13)
    assert_allclose(ours.parameters["head.bias"].detach(), model.head.bias.detach(), rtol=1e-13)


def test_norm_falls_monotonically_in_the_strength() -> None:
    problem = regression()
    norms = [
        np.linalg.norm(weights(solve(problem, {"l2": {"strength": s}}, steps=800))) for s in (1e-3, 1e-2, 1e-1, 1.0)
    ]
    assert all(later < earlier for earlier, later in itertools.pairwise(norms))


def test_integer_weights_equal_duplicated_rows(proof: Prove) -> None:
    problem = regression(60)
    counts = np.random.default_rng(3).integers(1, 4, 60)
    weighted = solve(problem, {"l2": {"strength": 0.1}}, weight=counts.astype(float), steps=500)
    repeated = type(problem)(np.repeat(problem.x, counts, axis=0), np.repeat(problem.y, counts))
    difference = gap(weights(weighted), weights(solve(repeated, {"l2": {"strength": 0.1}}, steps=500)))
    proof("sampleWeighting", "rows repeated as often as they weigh: weights", difference, at_most=1e-12)


def one_gradient(declared: dict[str, object], scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient that the optimizer sees in one SGD step of rate 1 from zero, and the one without blocks."""
    problem = regression()
    big = type(problem)(problem.x * scale, problem.y * scale)
    found = []
    for chosen in (declared, {}):
        settings = Settings(OptimizerSpec("sgd"), ConstantRate(1.0), 1, len(big.y), 0, regression=True)
        fit = Fit(linear(big), blocks(chosen), tensors(big.x, big.y), None, settings)
        fit.run(Alone())
        found.append(-torch.cat([p.detach().flatten() for p in fit.parameters.values()]))
    return found[0], found[1]


def test_clipping_bounds_the_norm_and_keeps_the_direction(proof: Prove) -> None:
    clipped, free = one_gradient({"gradientClipping": {"maxNorm": 1.0}}, 10.0)
    assert free.norm() > 30
    norm = clipped.norm().item()
    proof("gradientClipping", "definition: norm of a clipped gradient is maxNorm", abs(norm - 1.0), at_most=1e-6)
    cosine = torch.dot(clipped, free).item() / (norm * free.norm().item())
    proof("gradientClipping", "definition: cosine to the unclipped gradient", cosine, at_least=1 - 1e-6)


def test_clipping_leaves_small_gradients_alone() -> None:
    clipped, free = one_gradient({"gradientClipping": {"maxNorm": 1000.0}}, 1.0)
    assert torch.equal(clipped, free)


def test_clipping_by_value_cuts_each_element() -> None:
    clipped, free = one_gradient({"gradientClipping": {"maxNorm": 0.5, "kind": "value"}}, 1.0)
    assert torch.equal(clipped, free.clamp(-0.5, 0.5))


def test_target_picks_parameters_and_refuses_nothing() -> None:
    problem = regression()
    all_of_it = solve(problem, {"l2": {"strength": 1.0, "target": {"include": ["*"], "exclude": []}}}, steps=500)
    default = solve(problem, {"l2": {"strength": 1.0}}, steps=500)
    assert abs(all_of_it.parameters["head.bias"].item()) < abs(default.parameters["head.bias"].item())
    with pytest.raises(InvalidConfigError, match=r"l2\.target selects no parameter.*head\.weight"):
        solve(problem, {"l2": {"target": {"include": ["body.*"]}}}, steps=1)


@pytest.mark.parametrize("kind", ["linear", "cosine", "step"])
def test_the_logged_coefficient_follows_the_schedule(kind: str) -> None:
    declared = {"l2": {"strength": 0.5, "schedule": {"kind": kind, "from": 0, "to": 1, "start": 0.2, "end": 0.6}}}
    fit = solve(regression(), declared, steps=101)
    schedule = blocks(declared)[0].config.schedule
    assert schedule is not None
    for step in (0, 20, 33, 40, 60, 100):
        fit.coefficients["l2"].update(step / 100)
        assert fit.coefficients["l2"].value == 0.5 * schedule.factor(step / 100)
        assert fit.coefficients["l2"].tensor.item() == pytest.approx(fit.coefficients["l2"].value)
