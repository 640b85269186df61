"""Adversarial training against closed forms of linear models, and attacks that stay in their ball."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name
from scipy.optimize import minimize
from torch import nn

from espalier_trainer.engines.torch.architectures.mlp import Mlp
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.regularizers.adversarial import Adversarial, Ball, ascend, divergence
from espalier_trainer.schedule import CosineRate
from tests.unit.trainer.problems import Problem, classification, regression, solve, tensors

if TYPE_CHECKING:
    from tests.conftest import Prove

DUAL = {"linf": 1, "l2": 2}


def binary(n: int = 80, seed: int = 0) -> Problem:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    return Problem(0.8 * (2 * y[:, None] - 1) * [1.0, 0.3, 0.0] + rng.normal(size=(n, 3)), y, 2)


def attached(declared: dict[str, Any], problem: Problem, model: nn.Module | None = None) -> Adversarial:
    """The block of a fit that took one tiny step."""
    fit = solve(problem, {"adversarial": declared}, steps=1, rate=1e-3, model=model)
    (block,) = fit.blocks
    assert isinstance(block, Adversarial)
    return block


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
def test_a_linear_models_margin_falls_by_epsilon_times_the_dual_norm(proof: Prove, attack: str, norm: str) -> None:
    """The worst point of the ball around x has margin y w.x - epsilon |w|_*, and both attacks find it."""
    problem, epsilon = binary(), 0.3
    torch.manual_seed(3)
    model = nn.Linear(3, 2).double()
    block = attached({"attack": attack, "epsilon": epsilon, "norm": norm, "steps": 40}, problem, model)
    data = tensors(problem.x, problem.y)
    found = block.worst(data.all())
    w = (model.weight[1] - model.weight[0]).detach()
    sign = 2.0 * data.y - 1
    fall = sign * ((found - data.x) @ w)
    closed = -epsilon * w.norm(p=DUAL[norm])
    proof(
        "adversarial",
        "closed form: the margin of a linear model falls by epsilon |w|_*",
        float((fall - closed).abs().max()),
        at_most=1e-6,
    )


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_training_is_the_closed_robust_objective(proof: Prove, norm: str) -> None:
    """With mix 1 the objective of a linear model is mean log(1 + exp(-(y w.x - epsilon |w|_*))), which scipy minimizes."""
    problem, epsilon = binary(), 0.2
    sign = 2.0 * problem.y - 1

    def robust(theta: np.ndarray[Any, Any]) -> float:
        margin = sign * (problem.x @ theta[:3] + theta[3]) - epsilon * np.linalg.norm(theta[:3], DUAL[norm])
        return float(np.logaddexp(0, -margin).mean())

    starts = (
        minimize(robust, s, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-13, "maxiter": 10000})
        for s in np.eye(4)
    )
    best = min(found.fun for found in starts)
    declared = {"attack": "fgsm", "epsilon": epsilon, "norm": norm, "mix": 1.0}
    fit = solve(problem, {"adversarial": declared}, rate=CosineRate(0.5), steps=300)
    weight, bias = fit.model.head.weight.detach().numpy(), fit.model.head.bias.detach().numpy()
    ours = robust(np.append(weight[1] - weight[0], bias[1] - bias[0]))
    proof("adversarial", "scipy: minimum of the closed robust loss", ours - best, at_most=2e-4)
    plain = solve(problem, {}, rate=0.5, steps=300).model.head
    w, b = plain.weight.detach().numpy(), plain.bias.detach().numpy()
    assert robust(np.append(w[1] - w[0], b[1] - b[0])) > ours


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("attack", ["fgsm", "pgd", "trades"])
def test_attacks_stay_in_the_ball_and_raise_the_loss(proof: Prove, attack: str, norm: str) -> None:
    problem, epsilon = classification(), 0.25
    torch.manual_seed(0)
    model = Mlp(5, [32], 3).double()
    block = attached({"attack": attack, "epsilon": epsilon, "norm": norm, "stepSize": 0.2}, problem, model)
    data = tensors(problem.x, problem.y)
    found = block.worst(data.all())
    length = (found - data.x).norm(p=float("inf") if norm == "linf" else 2, dim=1)
    proof(
        "adversarial",
        "definition: distance of the attack over epsilon",
        float(length.max()) / epsilon,
        at_most=1 + 1e-12,
    )
    loss = [F.cross_entropy(model(x), data.y, reduction="none") for x in (data.x, found)]
    assert loss[1].mean() > loss[0].mean()
    if attack == "trades":
        assert divergence(model(data.x), model(found)).mean() > 1e-4


def test_the_starting_points_fill_the_ball_evenly() -> None:
    """Of the l2 ball in d dimensions a share r^d lies within r; of the linf ball every coordinate is uniform."""
    torch.manual_seed(0)
    x = torch.zeros(20000, 4, dtype=torch.float64)
    l2 = Ball(2.0, "l2").anywhere(x).norm(dim=1)
    assert float((l2 < 1.6).double().mean()) == pytest.approx(0.8**4, abs=0.012)
    linf = Ball(2.0, "linf").anywhere(x)
    assert float(linf.abs().max()) <= 2.0
    assert linf.std(0).numpy() == pytest.approx(2 / 3**0.5, abs=0.02)


def test_silenced_features_are_not_attacked() -> None:
    problem = classification()
    problem.x[:, 2] = 0.0
    block = attached({"epsilon": 0.5}, problem)
    block._view.model.head.weight.data.normal_()  # type: ignore[union-attr]
    found = block.worst(tensors(problem.x, problem.y).all())
    assert (found[:, 2] == 0).all()
    assert (found[:, 0] != torch.tensor(problem.x[:, 0])).double().mean() > 0.9


def test_the_search_leaves_modes_statistics_and_gradients_alone() -> None:
    """Batch norm's running moments and the generator-driven masks of dropout belong to training, not to the search."""
    problem = classification()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)).double()
    block = attached({"attack": "pgd", "epsilon": 0.2}, problem, model)
    model.train()
    model[2].eval()
    model.zero_grad()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    block.worst(tensors(problem.x, problem.y).all())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [m.training for m in model] == [True, True, False, True]
    assert all(p.grad is None for p in model.parameters())


def test_trades_is_its_formula() -> None:
    """(Zhang et al. 2019): CE + beta KL(p(x) || p(x')), by torch's own kl_div."""
    problem = classification()
    block = attached({"attack": "trades", "mix": 0.8, "epsilon": 0.3}, problem)
    view = block._view
    assert view is not None
    data = tensors(problem.x, problem.y)
    torch.manual_seed(5)
    worst = block.worst(data.all())
    scores = view.forward(data.x)
    coefficient = type("C", (), {"value": 0.8, "tensor": torch.tensor(0.8, dtype=torch.float64)})()
    torch.manual_seed(5)
    ours = block.mix_loss(F.cross_entropy(scores, data.y, reduction="none"), scores, data.all(), coefficient)
    kl = F.kl_div(F.log_softmax(view.forward(worst), -1), F.softmax(scores, -1), reduction="none").sum(-1)
    torch.testing.assert_close(ours, F.cross_entropy(scores, data.y, reduction="none") + 0.8 * kl)


def test_mix_zero_is_the_plain_fit_bit_for_bit() -> None:
    problem = classification()
    torch.manual_seed(0)
    start = Mlp(5, [16], 3).double().state_dict()

    def fitted(declared: dict[str, Any]) -> torch.Tensor:
        model = Mlp(5, [16], 3).double()
        model.load_state_dict(start)
        fit = solve(problem, {"dropout": {"p": 0.3}, **declared}, steps=10, model=model)
        return fit.parameters["head.weight"]

    assert torch.equal(fitted({}), fitted({"adversarial": {"mix": 0.0, "epsilon": 1.0}}))
    assert not torch.equal(fitted({}), fitted({"adversarial": {"mix": 0.5, "epsilon": 1.0}}))


def test_robust_accuracy_rises(proof: Prove) -> None:
    """An independent attack, written here on torch alone, breaks the plain model far more often than the trained one."""
    problem, epsilon = classification(300, seed=4), 0.4

    def right(declared: dict[str, Any]) -> float:
        torch.manual_seed(1)
        model = Mlp(5, [32], 3).double()
        solve(problem, declared, kind="adam", rate=0.02, steps=100, model=model)
        data = tensors(problem.x, problem.y)
        x = data.x.clone().requires_grad_()
        F.cross_entropy(model(x), data.y, reduction="sum").backward()
        return float((model(data.x + epsilon * x.grad.sign()).argmax(-1) == data.y).double().mean())

    gained = right({"adversarial": {"epsilon": epsilon, "mix": 1.0}}) - right({})
    proof("adversarial", "accuracy under an independent FGSM, gained over the plain fit", gained, at_least=0.05)


def test_a_regression_is_attacked_through_its_squared_error() -> None:
    """|r| grows by epsilon |w|_1 for a linear model."""
    problem = regression(60)
    torch.manual_seed(0)
    model = nn.Linear(10, 1).double()
    block = attached({"attack": "fgsm", "epsilon": 0.1}, problem, model)
    data = tensors(problem.x, problem.y)
    residual = [(model(x).squeeze(-1) - data.y).abs() for x in (data.x, block.worst(data.all()))]
    torch.testing.assert_close(residual[1] - residual[0], (0.1 * model.weight.abs().sum()).expand(60))
    with pytest.raises(InvalidConfigError, match="trades compares class probabilities"):
        solve(problem, {"adversarial": {"attack": "trades"}}, steps=1)


def test_the_search_is_projected_gradient_ascent_step_by_step() -> None:
    """Against the recursion written out with torch.autograd."""
    torch.manual_seed(0)
    model, x = Mlp(4, [8], 2).double(), torch.randn(6, 4, dtype=torch.float64)
    y = torch.tensor([0, 1] * 3)

    def loss(moved: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model(moved), y, reduction="none")

    ours = ascend(loss, x, torch.zeros_like(x), Ball(0.3, "linf"), 5, 0.1)
    moved = x.clone()
    for _ in range(5):
        moved.requires_grad_()
        (gradient,) = torch.autograd.grad(loss(moved).sum(), moved)
        moved = torch.clamp(moved.detach() + 0.1 * gradient.sign(), x - 0.3, x + 0.3)
    torch.testing.assert_close(ours, moved, rtol=0, atol=1e-15)
