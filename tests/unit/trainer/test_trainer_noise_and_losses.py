"""Noise, labels, losses and averages against closed forms and torch's own."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name
from numpy.testing import assert_allclose
from torch import nn

from espalier_trainer.engines.torch.architectures.mlp import Mlp
from espalier_trainer.engines.torch.layers import Layer
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.protocol import Batch, Step
from espalier_trainer.regularizers.dropout import dropped
from espalier_trainer.regularizers.robust_loss import gce, symmetric_ce
from espalier_trainer.schedule import Coefficient
from tests.unit.trainer.problems import blocks, classification, context, linear, regression, solve, tensors, weights

if TYPE_CHECKING:
    from collections.abc import Callable

    from espalier_trainer.session import Progress
    from tests.conftest import Prove
    from tests.unit.trainer.problems import Floats

REPLICATES, CHUNKS = 500, 60
STEP = Step(0, 0, 100, 0)


def coefficient(value: float) -> Coefficient:
    return Coefficient(value, None, torch.zeros((), dtype=torch.float64))


def least_squares(disturb: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> Floats:
    """Least squares on many disturbed copies of the rows, from the normal equations of each chunk."""
    width = x.shape[1]
    gram, moment = torch.zeros(width, width, dtype=x.dtype), torch.zeros(width, dtype=x.dtype)
    for _ in range(CHUNKS):
        disturbed = disturb(x.repeat(REPLICATES, 1))
        gram += disturbed.T @ disturbed
        moment += disturbed.T @ y.repeat(REPLICATES)
    return np.asarray(torch.linalg.solve(gram, moment))


def test_input_dropout_is_a_scaled_ridge(proof: Prove) -> None:
    """Least squares on inputs under dropout p is ridge with penalty p/(1-p) diag(X'X) (Wager et al. 2013)."""
    problem, p = regression(200), 0.3
    layer = nn.Sequential(OrderedDict[str, nn.Module](hidden=Layer(OrderedDict(linear=nn.Identity()))))
    (block,) = blocks({"dropout": {"p": p}})
    block.surgery(layer, coefficient(p))
    torch.manual_seed(0)
    x, y = torch.tensor(problem.x), torch.tensor(problem.y)
    ours = least_squares(layer.train(), x, y)
    gram = problem.x.T @ problem.x
    closed = np.linalg.solve(gram + p / (1 - p) * np.diag(np.diag(gram)), problem.x.T @ problem.y)
    proof("dropout", "ridge with p/(1-p) diag(X'X), closed form", float(abs(ours - closed).max()), at_most=4e-3)
    assert torch.equal(layer.eval()(x), x)


def test_dropout_keeps_the_mean_and_is_silent_when_evaluated() -> None:
    model = Mlp(4, [2000], 3)
    (block,) = blocks({"dropout": {"p": 0.4}})
    block.surgery(model, coefficient(0.4))
    x = torch.rand(3, 4) + 1
    torch.manual_seed(1)
    inner = model.hidden
    mean = torch.stack([inner.train()(x) for _ in range(200)]).mean(0)
    assert (mean - inner.eval()(x)).abs().mean() < 0.03
    assert torch.equal(model.eval()(x), model.eval()(x))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_drops_its_share_independently(p: float) -> None:
    torch.manual_seed(0)
    mask = dropped(torch.ones(1000, 401), p) > 0
    assert mask.float().mean().item() == pytest.approx(1 - p, abs=0.003)
    assert dropped(torch.ones(50), p).unique().tolist() == pytest.approx([0.0, 1 / (1 - p)])
    columns = np.corrcoef(mask[:, :8].numpy().T.astype(float))
    assert np.abs(columns - np.eye(8)).max() < 0.15


def test_dropout_probability_is_annealed() -> None:
    model = Mlp(4, [8], 3)
    declared = {"dropout": {"p": 0.5, "schedule": {"kind": "linear", "from": 0, "to": 1}}}
    fit = solve(classification(64), declared, kind="adam", rate=0.01, steps=11, model=_sized(5, [8], 3))
    assert fit.coefficients["dropout"].value == pytest.approx(0.5)
    fit.coefficients["dropout"].update(0.5)
    assert fit.model.hidden[0].dropout.coefficient.value == pytest.approx(0.25)
    assert model is not fit.model


def _sized(features: int, hidden: list[int], outputs: int) -> Mlp:
    torch.manual_seed(0)
    return Mlp(features, hidden, outputs).double()


@pytest.mark.parametrize("kind", ["element", "alpha"])
def test_dropout_targets_layers(kind: str) -> None:
    model = _sized(5, [8, 8, 8], 3)
    (block,) = blocks({"dropout": {"kind": kind, "target": {"include": ["hidden.1"]}}})
    block.surgery(model, coefficient(0.1))
    assert [n for n, _ in model.named_modules() if n.endswith("dropout")] == ["hidden.1.dropout"]


def test_gaussian_input_noise_is_tikhonov(proof: Prove) -> None:
    """Least squares on inputs with noise of variance s^2 is ridge with alpha = n s^2 (Bishop 1995)."""
    problem, std = regression(200), 0.3
    (block,) = blocks({"noiseInjection": {"std": std}})
    block.plan(context(problem))
    torch.manual_seed(0)
    x, y = torch.tensor(problem.x), torch.tensor(problem.y)
    ours = least_squares(lambda rows: block.batch(Batch(rows, rows), STEP, coefficient(std)).x, x, y)
    closed = np.linalg.solve(problem.x.T @ problem.x + len(problem.y) * std**2 * np.eye(10), problem.x.T @ problem.y)
    proof("noiseInjection", "ridge with alpha = n s^2, closed form", float(abs(ours - closed).max()), at_most=2e-3)


def test_input_noise_can_be_kept_to_features() -> None:
    problem = regression(50)
    (block,) = blocks({"noiseInjection": {"target": {"include": ["f1", "f3"]}}})
    block.plan(context(problem))
    x = torch.tensor(problem.x)
    moved = (block.batch(Batch(x, x), STEP, coefficient(0.1)).x != x).any(dim=0)
    assert moved.tolist() == [i in {1, 3} for i in range(10)]


@pytest.mark.parametrize("site", ["weight", "activation", "gradient"])
def test_noise_at_other_sites_trains_and_evaluates_without_noise(site: str) -> None:
    problem = classification(128)
    declared = {"noiseInjection": {"site": site, "std": 0.3}}
    fit = solve(problem, declared, kind="adam", rate=0.01, steps=60, model=_sized(5, [16], 3))
    plain = solve(problem, {}, kind="adam", rate=0.01, steps=60, model=_sized(5, [16], 3))
    x = torch.tensor(problem.x)
    assert torch.equal(fit.model(x), fit.model(x))
    assert not torch.equal(fit.model(x), plain.model(x))
    assert set(fit.parameters) == set(plain.parameters)


def test_weight_noise_has_the_declared_size() -> None:
    model = _sized(5, [400], 3)
    (block,) = blocks({"noiseInjection": {"site": "weight", "std": 0.2}})
    block.surgery(model, coefficient(0.2))
    layer = model.hidden[0].linear
    x = torch.eye(5, dtype=torch.float64)
    torch.manual_seed(0)
    spread = torch.stack([layer.train()(x) - layer.eval()(x) for _ in range(50)]).std()
    assert spread.item() == pytest.approx(0.2 * layer.weight.square().mean().sqrt().item(), rel=0.02)


@pytest.mark.parametrize("epsilon", [0.0, 0.05, 0.3])
def test_label_smoothing_is_torchs_and_the_closed_form(epsilon: float, proof: Prove) -> None:
    (block,) = blocks({"labelSmoothing": {"epsilon": epsilon}})
    scores = torch.randn(40, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.arange(40) % 5
    ours = block.data_loss(scores, Batch(scores, y), coefficient(epsilon))
    theirs = F.cross_entropy(scores, y, reduction="none", label_smoothing=epsilon)
    proof("labelSmoothing", "torch cross_entropy(label_smoothing)", float((ours - theirs).abs().max()), at_most=2e-15)
    log_p = F.log_softmax(scores, -1)
    closed = -(1 - epsilon) * log_p[range(40), y] - epsilon * log_p.mean(-1)
    proof("labelSmoothing", "closed form of the loss", float((ours - closed).abs().max()), at_most=2e-15)


def test_label_smoothing_has_its_optimal_logit_gap(proof: Prove) -> None:
    """At the optimum the true logit is ln((K - (K-1) e) / e) above the others."""
    classes, epsilon = 4, 0.2
    x = np.eye(classes).repeat(5, axis=0)
    problem = type(classification())(x, np.arange(classes).repeat(5), classes)
    fit = solve(problem, {"labelSmoothing": {"epsilon": epsilon}}, rate=2.0, steps=3000, options={"momentum": 0.9})
    logits = weights(fit) + fit.parameters["head.bias"].detach().numpy()[:, None]
    gap = np.diag(logits) - (logits.sum(axis=0) - np.diag(logits)) / (classes - 1)
    closed = math.log((classes - (classes - 1) * epsilon) / epsilon)
    proof(
        "labelSmoothing",
        "ln((K - (K-1) e) / e): logit gap at the optimum",
        float(abs(gap - closed).max()),
        at_most=1e-9,
    )


def test_generalized_cross_entropy_has_its_limits(proof: Prove) -> None:
    scores = torch.randn(30, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y = torch.arange(30) % 6
    hot = F.one_hot(y, 6).double()
    p = F.softmax(scores, -1)[range(30), y]
    apart = gce(scores, hot, 1e-9) / F.cross_entropy(scores, y, reduction="none") - 1
    proof("robustLoss", "gce at q = 1e-9 is torch's cross_entropy, relative", float(apart.abs().max()), at_most=1e-7)
    assert_allclose(gce(scores, hot, 1.0), 1 - p, atol=1e-15)
    assert_allclose(gce(scores, hot, 0.7), (1 - p**0.7) / 0.7, atol=1e-15)
    mae = (F.softmax(scores, -1) - hot).abs().sum(-1)
    apart = gce(scores, hot, 1.0) - mae / 2
    proof("robustLoss", "gce at q = 1 is half the mean absolute error", float(apart.abs().max()), at_most=1e-15)


def test_symmetric_cross_entropy_is_its_formula() -> None:
    scores = torch.randn(30, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    y = torch.arange(30) % 6
    hot = F.one_hot(y, 6).double()
    p = F.softmax(scores, -1)
    reverse = -(p * torch.where(hot > 0, 0.0, -4.0)).sum(-1)
    assert_allclose(symmetric_ce(scores, hot), 0.1 * F.cross_entropy(scores, y, reduction="none") + reverse, atol=1e-14)


def test_losses_fit_their_task() -> None:
    with pytest.raises(InvalidConfigError, match=r"gce does not fit task\.type regression; use huber"):
        solve(regression(), {"robustLoss": {}}, steps=1)
    with pytest.raises(InvalidConfigError, match=r"huber does not fit task\.type classification"):
        solve(classification(), {"robustLoss": {"kind": "huber"}}, steps=1)
    with pytest.raises(InvalidConfigError, match="labelSmoothing: a regression has no labels"):
        solve(regression(), {"labelSmoothing": {}}, steps=1)


def test_moving_average_is_torchs_recursion(proof: Prove) -> None:
    """Bit by bit torch's AveragedModel with get_ema_multi_avg_fn, over the steps of a plain fit."""
    problem = classification()
    ours = solve(problem, {"weightAveraging": {"decay": 0.97}}, kind="adam", rate=0.01, steps=40)
    model = linear(problem)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, fused=True)
    averaged = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.97))
    data = tensors(problem.x, problem.y)
    for _ in range(40):
        optimizer.zero_grad()
        F.cross_entropy(model(data.x), data.y).backward()
        optimizer.step()
        averaged.update_parameters(model)
    apart = (ours.parameters["head.weight"] - averaged.module.head.weight).detach()
    proof("weightAveraging", "torch AveragedModel with EMA: weights", float(apart.abs().max()), at_most=0.0)
    assert not torch.equal(ours.parameters["head.weight"], model.head.weight)


def test_stochastic_weight_average_is_the_mean_of_the_last_quarter(proof: Prove) -> None:
    problem = classification()
    ours = solve(problem, {"weightAveraging": {"kind": "swa"}}, rate=0.1, steps=40)
    model = linear(problem)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = tensors(problem.x, problem.y)
    seen = []
    for _ in range(40):
        optimizer.zero_grad()
        F.cross_entropy(model(data.x), data.y).backward()
        optimizer.step()
        seen.append(model.head.weight.detach().clone())
    apart = weights(ours) - torch.stack(seen[30:]).mean(0).numpy()
    proof("weightAveraging", "mean of the last quarter's weights of torch SGD", float(abs(apart).max()), at_most=1e-14)


class Remembering:
    """A session that saves every epoch's weights through the fit's own eyes."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def restore(self) -> None:
        return

    def wants_checkpoint(self) -> bool:
        return False

    def save(self, state: object) -> None:
        raise AssertionError("nobody asked")

    def stop_if_preempted(self) -> None:
        return

    def progress(self, now: Progress) -> None:
        self.losses.append(now.losses["validation"])


def overfitting(declared: dict[str, object], steps: int) -> tuple[object, list[float]]:
    train, held = classification(60, seed=1), classification(200, seed=2)
    held = type(held)(classification(400, seed=1).x[60:260], classification(400, seed=1).y[60:260], 3)
    session = Remembering()
    fit = solve(
        train, declared, kind="adam", rate=0.02, steps=steps, model=_sized(5, [64], 3), validation=held, session=session
    )
    return fit, session.losses


@pytest.mark.parametrize("monitor", ["valLoss", "refinement", "metric"])
def test_early_stopping_stops_at_best_plus_patience_and_restores_its_bits(monitor: str, proof: Prove) -> None:
    declared = {"earlyStopping": {"monitor": monitor, "patience": 7, "minDelta": 0.0}}
    fit, _ = overfitting(declared, 400)
    (block,) = fit.blocks
    assert fit.report.epochs == block.best_epoch + 1 + 7 < 400
    again, _ = overfitting({}, block.best_epoch + 1)
    apart = max((parameter - again.parameters[name]).abs().max().item() for name, parameter in fit.parameters.items())
    proof("earlyStopping", "a fit that ends at the best epoch: weights", apart, at_most=0.0)


def test_early_stopping_monitors_the_validation_loss() -> None:
    fit, losses = overfitting({"earlyStopping": {"patience": 5, "minDelta": 0.0}}, 400)
    assert int(np.argmin(losses)) == fit.blocks[0].best_epoch


def test_early_stopping_can_keep_the_last_weights() -> None:
    declared = {"earlyStopping": {"patience": 5, "restoreBest": False}}
    fit, losses = overfitting(declared, 400)
    last, _ = overfitting({}, len(losses))
    assert torch.equal(fit.parameters["head.weight"], last.parameters["head.weight"])


def test_validation_sees_the_averaged_weights() -> None:
    fit, losses = overfitting({"weightAveraging": {"decay": 0.99}, "earlyStopping": {"patience": 400}}, 30)
    _, plain = overfitting({}, 30)
    assert losses != plain
    assert fit.report.notes == {}


def test_told_losses_are_plain_and_in_evaluation_mode() -> None:
    """Under a robust loss with dropout the told training loss is cross-entropy without either, like the validation loss beside it."""
    fit, _ = overfitting({"robustLoss": {"q": 0.9}, "dropout": {"p": 0.5}}, 20)
    rows = np.linspace(0, 59, 60).astype(int)
    data = classification(60, seed=1)
    scores = fit.model(torch.tensor(data.x[rows]))
    last = fit.report.history[-1]
    assert last["train"] == pytest.approx(F.cross_entropy(scores, torch.tensor(data.y[rows])).item())
    assert last["objective"] < last["train"]
