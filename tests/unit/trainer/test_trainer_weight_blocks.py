"""Blocks on weights against closed forms, scikit-learn and torch: structuredSparsity, reparameterization, spectralNorm, maxMargin,
dropConnect and l1's factors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.linear_model import Lasso, MultiTaskLasso
from sklearn.svm import LinearSVC
from torch import nn

from espalier_trainer.engines.torch.architectures.mlp import Mlp
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.regularizers.max_margin import margin_loss
from espalier_trainer.regularizers.structured_sparsity import as_groups, shrink_groups
from espalier_trainer.schedule import Coefficient
from tests.unit.trainer.problems import Problem, blocks, classification, context, regression, solve, weights

if TYPE_CHECKING:
    from tests.conftest import Prove


def sized(*widths: int) -> Mlp:
    torch.manual_seed(3)
    return Mlp(widths[0], widths[1:-1], widths[-1], "tanh").double()


def coefficient(value: float) -> Coefficient:
    return Coefficient(value, None, torch.zeros((), dtype=torch.float64))


def multi_task(n: int = 120) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(n, 8))
    w = np.zeros((3, 8))
    w[:, :3] = rng.normal(size=(3, 3))
    return x, x @ w.T + 0.3 * rng.normal(size=(n, 3))


def proximal_descent(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any], strength: float, steps: int) -> torch.Tensor:
    """min 1/(2n) ||y - x w'||^2 + strength * sum_j ||w_:j||_2 by gradient steps and the block's own prox."""
    inputs, targets, w = torch.tensor(x), torch.tensor(y), torch.zeros(y.shape[1], x.shape[1], dtype=torch.float64)
    rate = 0.9 * len(x) / float(torch.linalg.matrix_norm(inputs, 2) ** 2)
    for _ in range(steps):
        w = w - rate * (inputs @ w.T - targets).T @ inputs / len(x)
        groups = as_groups(w, "input")
        w = shrink_groups(groups, torch.full((len(groups),), rate * strength, dtype=torch.float64)).T.clone()
    return w


def test_group_lasso_is_multi_task_lasso(proof: Prove) -> None:
    x, y = multi_task()
    ours = proximal_descent(x, y, 0.2, 20_000).numpy()
    theirs = MultiTaskLasso(alpha=0.2, fit_intercept=False, tol=1e-15, max_iter=100_000).fit(x, y).coef_
    assert ((ours == 0).all(axis=0) == (theirs == 0).all(axis=0)).all()
    assert (theirs == 0).all(axis=0).sum() == 5
    proof("structuredSparsity", "sklearn MultiTaskLasso", float(abs(ours - theirs).max()), at_most=1e-9)


@pytest.mark.parametrize("kind, rate", [("sgd", 0.05), ("adam", 0.01)])
def test_whole_inputs_are_removed_by_the_loop(kind: str, rate: float) -> None:
    """One output: groups of inputs are single weights, so group lasso is Lasso, zeros included."""
    problem = regression()
    declared = {"structuredSparsity": {"strength": 0.3, "group": "input"}}
    ours = weights(solve(problem, declared, kind=kind, rate=rate, steps=3000))[0]
    theirs = Lasso(alpha=0.3, tol=1e-14, max_iter=100_000).fit(problem.x, problem.y).coef_
    assert ((ours == 0) == (theirs == 0)).all()
    assert_allclose(ours, theirs, atol=1e-6)


def test_protecting_everything_is_refused() -> None:
    """A linear model has its head and nothing else; found by the hunt, seed 3442."""
    declared = {"structuredSparsity": {"strength": 0.02, "protect": ["head.*"]}}
    with pytest.raises(InvalidConfigError, match=r"no channel is left to act on.*protect keeps \['head\.\*'\]"):
        solve(classification(), declared, steps=1)


def test_channels_vanish_whole_and_protected_ones_stay() -> None:
    problem = classification(120)
    declared = {"structuredSparsity": {"strength": 0.02, "protect": ["head.*"]}}
    fit = solve(problem, declared, kind="adam", rate=0.01, steps=800, model=sized(5, 24, 3))
    inner = fit.parameters["hidden.0.linear.weight"].detach()
    empty = (inner == 0).all(dim=1)
    assert 0 < empty.sum() < 24
    assert ((inner == 0).any(dim=1) == empty).all()
    assert (fit.parameters["head.weight"] != 0).all()
    assert fit.blocks[0].notes()["zeroGroups"] == {"hidden.0.linear.weight": int(empty.sum())}


def test_heads_need_attention() -> None:
    (block,) = blocks({"structuredSparsity": {"group": "head"}})
    with pytest.raises(InvalidConfigError, match="head needs attention"):
        block.surgery(sized(5, 8, 3), coefficient(0.1))


def test_head_groups_are_columns_of_the_output_projection() -> None:
    weight = torch.arange(24.0).reshape(4, 6)
    groups = as_groups(weight, "head", heads=3)
    assert sorted(groups[1].tolist()) == sorted(weight[:, 2:4].flatten().tolist())


@pytest.mark.parametrize(
    "declared",
    [
        {"l1": {"strength": 0.1, "method": "hadamard"}},
        {"reparameterization": {"kind": "hadamard"}, "l2": {"strength": 0.1}},
    ],
    ids=["l1", "l2 on factors"],
)
def test_balanced_factors_with_l2_are_lasso(declared: dict[str, Any], proof: Prove) -> None:
    problem = regression()
    ours = weights(solve(problem, declared, rate=0.02, steps=10_000, options={"momentum": 0.9}))[0]
    theirs = Lasso(alpha=0.1, tol=1e-15, max_iter=100_000).fit(problem.x, problem.y).coef_
    worst = float(abs(ours - theirs).max())
    proof("l1" if "l1" in declared else "reparameterization", "sklearn Lasso, by factors", worst, at_most=4e-8)


@pytest.mark.parametrize("kind", ["hadamard", "weightNorm", "orthogonal"])
def test_reparameterizations_are_baked_in(kind: str) -> None:
    problem = classification()
    fit = solve(problem, {"reparameterization": {"kind": kind}}, rate=0.05, steps=50, model=sized(5, 8, 8, 3))
    assert set(fit.parameters) == set(dict(sized(5, 8, 8, 3).named_parameters()))
    if kind == "orthogonal":
        w = fit.parameters["hidden.0.linear.weight"].detach()
        assert_allclose(w.T @ w, np.eye(5), atol=1e-12)


def test_a_reparameterized_model_begins_where_the_plain_one_does() -> None:
    for kind in ("hadamard", "weightNorm"):
        model, x = sized(5, 8, 3), torch.randn(7, 5, dtype=torch.float64)
        before = model(x)
        (block,) = blocks({"reparameterization": {"kind": kind}})
        block.surgery(model, coefficient(1.0))
        assert_allclose(model(x).detach(), before.detach(), atol=1e-12)


def test_the_spectral_bound_holds_exactly_in_what_is_shipped(proof: Prove) -> None:
    problem = classification()
    declared = {"spectralNorm": {"mode": "bound", "bound": 0.7}}
    fit = solve(problem, declared, kind="adam", rate=0.02, steps=400, model=sized(5, 16, 3))
    sigmas = [float(np.linalg.svd(p.detach().numpy())[1][0]) for n, p in fit.parameters.items() if n.endswith("weight")]
    proof("spectralNorm", "numpy SVD over the bound 0.7", max(sigmas) / 0.7, at_most=1 + 1e-12)
    assert max(sigmas) > 0.69  # it was reached: the bound is what stopped them


def test_power_iteration_follows_sigma_in_training() -> None:
    problem = classification()
    declared = {"spectralNorm": {"mode": "penalty", "strength": 0.05, "powerIterations": 3}}
    fit = solve(problem, declared, kind="adam", rate=0.01, steps=500, model=sized(5, 16, 3))
    told = fit.blocks[0].notes()["sigma"]
    for name in ("hidden.0.linear.weight", "head.weight"):
        exact = float(np.linalg.svd(fit.parameters[name].detach().numpy())[1][0])
        assert told[name] == pytest.approx(exact, rel=1e-2)


def test_the_spectral_penalty_has_the_gradient_of_half_sigma_squared() -> None:
    """For one output sigma is the norm of the row, so the penalty is ridge."""
    problem = regression()
    spectral = weights(solve(problem, {"spectralNorm": {"strength": 0.3}}, rate=0.05, steps=1500))
    ridge = weights(solve(problem, {"l2": {"strength": 0.3}}, rate=0.05, steps=1500))
    assert_allclose(spectral, ridge, atol=1e-10)


def centred_pair() -> Problem:
    problem = classification(classes=2)
    return Problem(problem.x - problem.x.mean(axis=0), problem.y, 2)


def test_squared_hinge_is_linear_svc(proof: Prove) -> None:
    """Two scores of opposite sign: d = w1 - w0 has the penalty strength/4 |d|^2, so C = 2 / (n strength)."""
    problem, strength = centred_pair(), 0.2
    model = nn.Sequential()
    layer = nn.Linear(5, 2, bias=False).double()
    nn.init.zeros_(layer.weight)
    model.add_module("head", layer)
    declared = {"maxMargin": {}, "l2": {"strength": strength}}
    ours = weights(solve(problem, declared, rate=0.1, steps=4000, model=model, options={"momentum": 0.9}))
    c = 2.0 / (len(problem.y) * strength)
    svc = LinearSVC(C=c, loss="squared_hinge", dual=False, fit_intercept=False, tol=1e-14, max_iter=100_000)
    theirs = svc.fit(problem.x, problem.y).coef_[0]
    proof("maxMargin", "sklearn LinearSVC", float(abs(ours[1] - ours[0] - theirs).max()), at_most=1e-8)


def test_hinge_is_torchs_for_two_classes() -> None:
    scores, y = torch.randn(40, 2, dtype=torch.float64), torch.randint(0, 2, (40,))
    theirs = nn.MultiMarginLoss(margin=0.8, reduction="none")(scores, y) * 2  # it divides by the number of classes
    assert_allclose(margin_loss(scores, y, 0.8, squared=False), theirs, atol=1e-12)


def test_margins_are_of_classes() -> None:
    (block,) = blocks({"maxMargin": {}})
    with pytest.raises(InvalidConfigError, match="no classes"):
        block.plan(context(regression()))


def test_drop_connect_has_its_variance(proof: Prove) -> None:
    """Var of a linear output is p/(1-p) sum w^2 x^2 (Wan et al. 2013)."""
    model, p = sized(6, 4), 0.3
    (block,) = blocks({"dropConnect": {"p": p}})
    block.surgery(model, coefficient(p))
    x = torch.randn(1, 6, dtype=torch.float64)
    torch.manual_seed(0)
    drawn = torch.stack([model.train()(x)[0].detach() for _ in range(20_000)])
    model.eval()
    closed = p / (1 - p) * (model.head.weight.detach().square() @ x[0].square())
    worst = float((drawn.var(0) / closed - 1).abs().max())
    proof("dropConnect", "variance p/(1-p) sum w^2 x^2, relative", worst, at_most=0.03)
    assert torch.equal(model(x), model(x))


def test_drop_connect_is_gone_after_training() -> None:
    problem = classification()
    fit = solve(problem, {"dropConnect": {"p": 0.4}}, kind="adam", rate=0.01, steps=60, model=sized(5, 8, 3))
    assert set(fit.parameters) == set(dict(sized(5, 8, 3).named_parameters()))
    assert not list(fit.model.buffers())


def test_factors_are_innermost_whatever_else_is_done_to_a_weight() -> None:
    declared = {"dropConnect": {"p": 0.2}, "l1": {"method": "hadamard"}, "noiseInjection": {"site": "weight"}}
    fit = solve(classification(), declared, kind="adam", rate=0.01, steps=20, model=sized(5, 8, 3))
    assert set(fit.parameters) == set(dict(sized(5, 8, 3).named_parameters()))
    (block,) = blocks({"l1": {"method": "hadamard"}})
    with pytest.raises(InvalidConfigError, match="both put something in place"):
        block.plan(context(classification(), declared=frozenset({"l1", "reparameterization"})))
