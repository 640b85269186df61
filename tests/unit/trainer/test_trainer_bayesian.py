"""Priors and posteriors: scikit-learn's BayesianRidge, exact Hessians, sampled predictions, torch's running means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.numpy import load
from sklearn.linear_model import BayesianRidge

from espalier_trainer.engines.torch import posterior
from espalier_trainer.engines.torch.architectures.mlp import Mlp
from espalier_trainer.engines.torch.convert import append
from espalier_trainer.errors import InvalidConfigError, PreemptedError
from espalier_trainer.export.graph import Graph
from espalier_trainer.regularizers.bayesian import Bayesian
from tests.unit.trainer.problems import Problem, classification, regression, solve, weights
from tests.unit.trainer.test_trainer_resume import Interrupted

if TYPE_CHECKING:
    from tests.conftest import Prove

EVERYTHING = {"include": ["*"], "exclude": ["*norm.*"]}


def mlp(outputs: int = 3, features: int = 5) -> torch.nn.Module:
    torch.manual_seed(0)
    return Mlp(features, [12], outputs).double()


def block_of(fit: Any) -> Bayesian:
    (found,) = (b for b in fit.blocks if isinstance(b, Bayesian))
    return found


def test_the_mode_is_l2(proof: Prove) -> None:
    """priorPrecision / n beside a mean loss, bit for bit."""
    problem = classification(150)
    options: dict[str, Any] = {"kind": "adam", "rate": 0.02, "steps": 100, "batch": 50}
    one = solve(problem, {"bayesian": {"method": "map", "priorPrecision": 3.0}}, model=mlp(), **options)
    two = solve(problem, {"l2": {"strength": 3.0 / 150, "target": EVERYTHING}}, model=mlp(), **options)
    worst = max(float((p - two.parameters[n]).detach().abs().max()) for n, p in one.parameters.items())
    proof("bayesian", "map: l2 of strength priorPrecision / n, weights", worst, at_most=0.0)


def centred() -> tuple[Problem, BayesianRidge]:
    problem = regression()
    problem = Problem(problem.x - problem.x.mean(0), problem.y - problem.y.mean())
    return problem, BayesianRidge(fit_intercept=False, tol=1e-12, max_iter=10_000).fit(problem.x, problem.y)


def test_a_linear_posterior_is_bayesian_ridges(proof: Prove) -> None:
    """Mean, covariance and predictive deviation at scikit-learn's own precisions; our likelihood has unit variance."""
    problem, ridge = centred()
    precision = float(ridge.lambda_ / ridge.alpha_)
    x = torch.tensor(problem.x)
    sigma = posterior.covariance(x, None, precision) / ridge.alpha_
    proof("bayesian", "BayesianRidge: covariance", float(np.abs(sigma.numpy() - ridge.sigma_).max()), at_most=6e-13)
    mean = ridge.alpha_ * sigma @ x.T @ torch.tensor(problem.y)
    proof("bayesian", "BayesianRidge: mean", float(np.abs(mean.numpy() - ridge.coef_).max()), at_most=6e-13)
    deviation = ((x @ sigma * x).sum(1) + 1 / ridge.alpha_).sqrt().numpy()
    expected = ridge.predict(problem.x, return_std=True)[1]
    proof("bayesian", "BayesianRidge: predictive deviation", float(np.abs(deviation - expected).max()), at_most=6e-13)


def test_a_fit_of_values_leaves_that_posterior(proof: Prove) -> None:
    """By our loop: the mode, and in the file the covariance at the residual variance."""
    problem, ridge = centred()
    precision = float(ridge.lambda_ / ridge.alpha_)
    fit = solve(problem, {"bayesian": {"priorPrecision": precision}}, rate=0.2)
    proof(
        "bayesian",
        "BayesianRidge: coefficients of a fit",
        float(np.abs(weights(fit)[0] - ridge.coef_).max()),
        at_most=1e-9,
    )
    told = load(block_of(fit).package()["posterior.safetensors"])
    np.testing.assert_allclose(told["noise"][0], np.square(problem.y - problem.x @ ridge.coef_).mean(), rtol=1e-6)
    ours = told["covariance"][:10, :10] / told["noise"][0] / ridge.sigma_ / ridge.alpha_
    np.testing.assert_allclose(ours, 1, rtol=1e-4)
    np.testing.assert_allclose(told["mean"][:10], ridge.coef_, atol=1e-6)


def test_the_covariance_of_classes_is_the_inverse_hessian(proof: Prove) -> None:
    """Of the negative log posterior, by torch's autograd; exact for a layer that is linear in its weights."""
    torch.manual_seed(0)
    phi, w = torch.randn(80, 4).double(), torch.randn(3, 4).double()
    y = torch.randint(0, 3, (80,))

    def objective(flat: torch.Tensor) -> torch.Tensor:
        loss = torch.nn.functional.cross_entropy(phi @ flat.reshape(3, 4).T, y, reduction="sum")
        return loss + 0.7 / 2 * flat.square().sum()

    hessian = torch.autograd.functional.hessian(objective, w.flatten())
    sigma = posterior.covariance(phi, torch.softmax(phi @ w.T, -1), 0.7)
    worst = float((sigma @ hessian - torch.eye(12)).abs().max())
    proof("bayesian", "lastLayerLaplace: covariance times autograd's Hessian, off identity", worst, at_most=1e-11)


@pytest.mark.parametrize("classes", [2, 4])
def test_the_head_predicts_what_sampled_weights_do(classes: int, proof: Prove) -> None:
    """Mean softmax over 20,000 draws from the full Gaussian, beside the point's own softmax; few rows, so the posterior is wide."""
    problem = classification(24, classes=classes, seed=5)
    fit = solve(problem, {"bayesian": {"priorPrecision": 0.5}}, rate=0.3, steps=2000)
    head = fit.model.get_submodule("head")
    assert isinstance(head, posterior.ProbitHead)
    x = torch.tensor(classification(200, classes=classes, seed=5).x)
    phi, train = posterior.with_one(x), posterior.with_one(torch.tensor(problem.x))
    point = torch.cat([head.weight, head.bias.unsqueeze(1)], 1).detach()
    sigma = posterior.covariance(train, torch.softmax(train @ point.T, -1), 0.5)
    torch.manual_seed(0)
    draws = torch.distributions.MultivariateNormal(point.flatten(), sigma).sample((20_000,)).reshape(-1, classes, 6)
    sampled = torch.stack([torch.softmax(part @ phi.T, 1).mean(0).T for part in draws.split(1000)]).mean(0)
    ours, mode = torch.softmax(fit.scores(x), -1), torch.softmax(phi @ point.T, -1)
    proof(
        "bayesian",
        "lastLayerLaplace: mean softmax of 20,000 draws, mean difference",
        float((ours - sampled).abs().mean()),
        at_most=0.03,
    )
    share = float((ours - sampled).abs().mean() / (mode - sampled).abs().mean())
    proof("bayesian", "lastLayerLaplace: that difference over the point prediction's", share, at_most=0.6)


@pytest.mark.parametrize("method", ["lastLayerLaplace", "swag"])
def test_the_graph_answers_like_the_head(method: str, proof: Prove) -> None:
    problem = classification(60)
    fit = solve(problem, {"bayesian": {"method": method}}, kind="adam", rate=0.02, steps=120, batch=20, model=mlp())
    x = classification(40, seed=9).x.astype(np.float32)
    expected = fit.scores(torch.tensor(x).double()).numpy()
    graph = Graph()
    output = append(graph, fit.model, "input")
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", k]) for n, k in (("input", 5), (output, 3))]
    made = helper.make_graph(graph.nodes, "g", ends[:1], ends[1:], graph.constants)
    proto = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {"input": x})[0]
    proof("bayesian", f"{method}: onnxruntime and torch, scores", float(np.abs(found - expected).max()), at_most=1e-4)
    plain = x.astype(np.float64)
    inner = fit.model.get_submodule("hidden")(torch.tensor(plain))
    head = fit.model.get_submodule("head")
    logits = torch.nn.functional.linear(inner, head.weight, head.bias).detach().numpy()
    assert np.abs(logits - expected).max() > 1e-3  # the head does shrink


def test_doubt_grows_away_from_the_data() -> None:
    """A point prediction is sure far away; the expected softmax is not."""
    problem = classification(60, classes=2)
    fit = solve(problem, {"bayesian": {"priorPrecision": 0.1}}, rate=0.3, steps=1000)
    x = torch.tensor(problem.x)
    far = 100 * x
    point = solve(problem, {"bayesian": {"priorPrecision": 0.1, "method": "map"}}, rate=0.3, steps=1000)
    sure = [float(torch.softmax(f.scores(far), -1).max(-1).values.mean()) for f in (fit, point)]
    assert sure[1] > 0.99
    assert sure[0] < sure[1] - 0.01


def test_swag_is_the_mean_and_spread_of_the_path(proof: Prove) -> None:
    """The path is seen from outside by running the same fit for fewer steps; numpy's mean, variance and outer products."""
    problem = classification(60)

    def run(steps: int, **more: Any) -> Any:
        blocks = {"bayesian": {"method": "swag"}} if more else {"bayesian": {"method": "map"}}
        return solve(problem, blocks, rate=0.5, steps=steps)

    fit = run(40, swag=True)
    path = []
    for steps in range(31, 41):  # the last quarter, a snapshot each step
        one = run(steps).parameters
        path.append(torch.cat([one["head.weight"], one["head.bias"].unsqueeze(1)], 1).detach().numpy())
    kept, block = np.stack(path), block_of(fit)
    mean = np.concatenate([weights(fit), fit.parameters["head.bias"].detach().numpy()[:, None]], 1)
    proof("bayesian", "swag: mean of the path", float(np.abs(mean - kept.mean(0)).max()), at_most=1e-14)
    running = kept - np.cumsum(kept, 0) / np.arange(1, 11)[:, None, None]
    head = fit.model.get_submodule("head")
    phi = np.random.default_rng(0).normal(size=(30, 6))
    low = np.einsum("kcd,nd->nkc", running, phi)
    expected = (phi**2) @ kept.var(0).T / 2 + (low**2).sum(1) / (2 * 9)
    found = head.variance(torch.tensor(phi[:, :5]) / torch.tensor(phi[:, 5:])).numpy() * phi[:, 5:] ** 2
    proof("bayesian", "swag: variance of logits, relative", float(np.abs(found / expected - 1).max()), at_most=1e-6)
    assert block.notes()["snapshots"] == 10


@pytest.mark.parametrize("method", ["lastLayerLaplace", "swag", "map"])
def test_resuming_anywhere_ends_in_the_same_bits(method: str) -> None:
    problem = classification(60)

    def run(session: Interrupted) -> Any:
        options: dict[str, Any] = {"kind": "adam", "rate": 0.02, "steps": 40, "batch": 30, "session": session}
        return solve(problem, {"bayesian": {"method": method}}, model=mlp(), **options).model.state_dict()

    straight = run(Interrupted(None))
    for after in (1, 33, 40):
        session = Interrupted(after)
        with pytest.raises(PreemptedError):
            run(session)
        resumed = run(Interrupted(None, session.saved))
        assert all(torch.equal(value, resumed[name]) for name, value in straight.items())


def test_what_would_not_be_a_posterior_is_refused() -> None:
    problem = classification()
    with pytest.raises(InvalidConfigError, match="earlyStopping"):
        solve(problem, {"bayesian": {"method": "swag"}, "earlyStopping": {}}, steps=1)
    with pytest.raises(InvalidConfigError, match="called head"):
        solve(problem, {"bayesian": {}}, steps=1, model=torch.nn.Sequential(torch.nn.Linear(5, 3)).double())
    with pytest.raises(InvalidConfigError, match="6003 numbers"):
        solve(problem, {"bayesian": {}}, steps=1, model=Mlp(5, [2000], 3).double())
