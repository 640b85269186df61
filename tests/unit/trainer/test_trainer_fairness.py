"""Fairness: gaps against numpy, and the worst group against scipy's minimax."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.regularizers.fairness import Fairness, spread
from tests.unit.trainer.problems import Problem, blocks, context, regression, solve

if TYPE_CHECKING:
    from espalier_trainer.engines.torch.loop import Fit
    from tests.conftest import Prove

RNG = np.random.default_rng(0)


def biased(n: int = 400, seed: int = 0) -> tuple[Problem, np.ndarray[Any, Any]]:
    """A group with 30 % of the rows whose features and labels are shifted down."""
    rng = np.random.default_rng(seed)
    group = (rng.random(n) < 0.3).astype(np.int64)
    x = rng.normal(size=(n, 3)) - 1.2 * group[:, None] * [1.0, 0.5, 0.0]
    y = (rng.random(n) < 1 / (1 + np.exp(-(x @ [1.5, 0.5, -0.5] + 0.5)))).astype(np.int64)
    return Problem(x, y, 2), group


def fitted(declared: dict[str, Any], problem: Problem, group: np.ndarray[Any, Any], **options: Any) -> Fit:
    return solve(problem, declared, groups={"g": group}, **{"rate": 0.5, "steps": 200, **options})


def called(fit: Fit, problem: Problem) -> np.ndarray[Any, Any]:
    p = torch.softmax(fit.model(torch.tensor(problem.x)), -1)[:, 1].detach().numpy()
    return np.asarray(p)


def difference(values: np.ndarray[Any, Any], group: np.ndarray[Any, Any]) -> float:
    """fairlearn's demographic_parity_difference: largest minus smallest mean over groups."""
    means = [values[group == g].mean() for g in np.unique(group)]
    return float(max(means) - min(means))


def odds(values: np.ndarray[Any, Any], problem: Problem, group: np.ndarray[Any, Any]) -> float:
    """fairlearn's equalized_odds_difference: the larger of the differences of true and of false positive rates."""
    return max(difference(values[problem.y == k], group[problem.y == k]) for k in (0, 1))


@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_gap_is_the_mean_over_pairs(proof: Prove, count: int) -> None:
    p, groups = RNG.dirichlet(np.ones(3), 60), RNG.integers(0, count, 60)
    means = [p[groups == g].mean(0) for g in range(count)]
    pairs = [(i, j) for i in range(count) for j in range(i)]
    expected = np.mean([((means[i] - means[j]) ** 2).sum() / 2 for i, j in pairs])
    ours = float(spread(torch.tensor(p), torch.tensor(groups), count + 1))  # one more group has no row
    proof("fairness", "numpy: mean over pairs of groups", abs(ours - float(expected)), at_most=1e-15)


def test_with_two_classes_and_two_groups_it_is_the_squared_difference() -> None:
    p, groups = RNG.random(40), RNG.integers(0, 2, 40)
    ours = float(spread(torch.tensor(np.stack([1 - p, p], 1)), torch.tensor(groups), 2))
    assert ours == pytest.approx(difference(p, groups) ** 2, abs=1e-15)
    assert float(spread(torch.rand(5, 2), torch.zeros(5, dtype=torch.int64), 2)) == 0.0


@pytest.mark.parametrize("kind", ["demographicParity", "equalizedOdds"])
def test_the_gap_falls_as_strength_grows(proof: Prove, kind: str) -> None:
    """Measured on hard and soft decisions by differences of rates as fairlearn defines them."""
    problem, group = biased()
    measure = (lambda v: difference(v, group)) if kind == "demographicParity" else (lambda v: odds(v, problem, group))
    found = [called(fitted({}, problem, group), problem)]
    found += [
        called(fitted({"fairness": {"kind": kind, "column": "g", "strength": s}}, problem, group), problem)
        for s in (1.0, 10.0)
    ]
    soft, hard = [measure(p) for p in found], [measure((p > 0.5).astype(float)) for p in found]
    assert soft[0] > soft[1] > soft[2]
    proof(
        "fairness", f"fairlearn's definition: {kind} difference, strength 10 over none", soft[2] / soft[0], at_most=0.5
    )
    assert hard[2] < hard[0]


@pytest.mark.parametrize("kind", ["demographicParity", "equalizedOdds", "groupDRO"])
def test_strength_zero_is_the_plain_fit_bit_for_bit(kind: str) -> None:
    problem, group = biased(100)
    off = {"fairness": {"kind": kind, "column": "g", "schedule": {"kind": "constant", "to": 0.0}}}
    one, other = (fitted(d, problem, group, steps=20).parameters["head.weight"] for d in (off, {}))
    assert torch.equal(one, other)


def group_losses(theta: np.ndarray[Any, Any], problem: Problem, group: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    sign = 2.0 * problem.y - 1
    rows = np.logaddexp(0, -sign * (problem.x @ theta[:-1] + theta[-1]))
    return np.array([rows[group == g].mean() for g in (0, 1)])


def test_group_dro_is_the_minimax_of_scipy(proof: Prove) -> None:
    """min (mean + s max_g L_g) / (1 + s) in epigraph form by SLSQP. The groups disagree: what is right for one is wrong for the other."""
    rng = np.random.default_rng(3)
    group = (rng.random(300) < 0.2).astype(np.int64)
    x = rng.normal(size=(300, 2))
    slope = np.where(group == 1, -0.5, 2.0)
    problem = Problem(x, (rng.random(300) < 1 / (1 + np.exp(-(slope * x[:, 0] + x[:, 1])))).astype(np.int64), 2)
    strength, share = 20.0, np.array([(group == 0).mean(), (group == 1).mean()])

    def objective(v: np.ndarray[Any, Any]) -> float:
        return float((share @ group_losses(v[:3], problem, group) + strength * v[3]) / (1 + strength))

    above = {"type": "ineq", "fun": lambda v: v[3] - group_losses(v[:3], problem, group)}
    best = minimize(objective, np.array([0.0, 0.0, 0.0, 1.0]), method="SLSQP", constraints=[above], tol=1e-12)
    fit = fitted({"fairness": {"kind": "groupDRO", "column": "g", "strength": strength}}, problem, group, steps=1500)
    weight, bias = fit.model.head.weight.detach().numpy(), fit.model.head.bias.detach().numpy()
    losses = group_losses(np.append(weight[1] - weight[0], bias[1] - bias[0]), problem, group)
    proof(
        "fairness", "scipy SLSQP: worst group's loss under groupDRO", abs(losses.max() - float(best.x[3])), at_most=5e-3
    )
    plain = fitted({}, problem, group).model.head
    w, b = plain.weight.detach().numpy(), plain.bias.detach().numpy()
    assert group_losses(np.append(w[1] - w[0], b[1] - b[0]), problem, group).max() > losses.max() + 0.05
    assert fit.blocks[0].notes()["groupWeights"][1] > 0.5


def test_group_weights_follow_their_recursion_and_ignore_absent_groups() -> None:
    problem, group = biased(60)
    fit = fitted({"fairness": {"kind": "groupDRO", "column": "g"}}, problem, group * 2, steps=3)  # code 1 has no rows
    block = fit.blocks[0]
    assert isinstance(block, Fairness)
    before = torch.tensor(block.notes()["groupWeights"], dtype=torch.float64)
    assert before[1] == 0
    rows = torch.rand(60, dtype=torch.float64)
    scale = block.mix_loss(torch.ones_like(rows) * rows, rows, fit.train.all(), fit.coefficients["fairness"])
    losses = torch.stack([rows[torch.tensor(group * 2) == g].mean() for g in (0, 2)])
    q = before[[0, 2]] * torch.exp(0.01 * losses)
    q = q / q.sum()
    torch.testing.assert_close(torch.tensor(block.notes()["groupWeights"], dtype=torch.float64)[[0, 2]], q)
    torch.testing.assert_close(scale.mean(), (rows.mean() + (q * losses).sum()) / 2)


def test_values_of_a_regression_are_levelled() -> None:
    problem = regression(120)
    group = (problem.x[:, 0] > 0).astype(np.int64)

    def gap(declared: dict[str, Any]) -> float:
        fit = fitted(declared, problem, group, rate=0.02, steps=150)
        return difference(fit.model(torch.tensor(problem.x)).squeeze(-1).detach().numpy(), group)

    fair = {"fairness": {"column": "g", "strength": 1.0}}
    assert gap(fair) < 0.8 * gap({})


def test_what_has_no_gap_is_refused() -> None:
    problem, group = biased(60)
    with pytest.raises(InvalidConfigError, match="training rows carry no groups of 'h'"):
        fitted({"fairness": {"column": "h"}}, problem, group, steps=1)
    with pytest.raises(InvalidConfigError, match="all training rows are of one group"):
        fitted({"fairness": {"column": "g"}}, problem, group * 0, steps=1)
    with pytest.raises(InvalidConfigError, match="equalizedOdds compares rates of classes"):
        fitted({"fairness": {"column": "g", "kind": "equalizedOdds"}}, regression(60), group, steps=1)
    (block,) = blocks({"fairness": {"column": "g"}})
    with pytest.raises(InvalidConfigError, match="batchMixing blends rows of different groups"):
        block.plan(context(problem, groups=frozenset({"g"}), declared=frozenset({"fairness", "batchMixing"})))
