"""Priors that switch weights off: the KL against numeric integration, gates against draws, features that do not matter."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from espalier_trainer.engines.torch.architectures.mlp import Mlp
from espalier_trainer.errors import InvalidConfigError, PreemptedError
from espalier_trainer.regularizers import sparsity_prior as sp
from tests.unit.trainer.problems import classification, regression, solve, weights
from tests.unit.trainer.test_trainer_resume import Interrupted

if TYPE_CHECKING:
    from tests.conftest import Prove

STRONG = {"ard": 0.02, "l0": 0.1}


def mlp() -> torch.nn.Module:
    torch.manual_seed(0)
    return Mlp(5, [12], 3).double()


def integrated(alpha: float) -> float:
    """KL(N(1, alpha) || log-uniform) + constant = E log|e| - log(alpha)/2 + (gamma + log 2)/2, which is 0 for alpha -> infinity."""
    density = stats.norm(1, math.sqrt(alpha)).pdf
    spread = 12 * math.sqrt(alpha)
    parts = [(1 - spread, 0.0), (0.0, 1.0), (1.0, 1 + spread)] if spread > 1 else [(1 - spread, 1.0), (1.0, 1 + spread)]
    mean = sum(integrate.quad(lambda e: density(e) * math.log(abs(e)), a, b, limit=400)[0] for a, b in parts)
    return mean - math.log(alpha) / 2 + (np.euler_gamma + math.log(2)) / 2


def test_kl_is_the_integral(proof: Prove) -> None:
    """Molchanov's approximation over twelve powers of e, by numeric integration."""
    log_alpha = np.linspace(-8, 8, 33)
    expected = np.array([integrated(math.exp(each)) for each in log_alpha])
    found = sp.kl(torch.tensor(log_alpha)).numpy()
    proof("sparsityPrior", "ard: numeric integral of the KL", float(np.abs(found - expected).max()), at_most=0.01)


def test_gates_open_as_often_as_told(proof: Prove) -> None:
    """200,000 draws per log odds, by numpy's own generator."""
    u = np.random.default_rng(0).random(200_000)
    worst = 0.0
    for odds in (-3.0, -1.0, 0.0, 1.0, 3.0):
        share = 1 / (1 + np.exp(-(np.log(u / (1 - u)) + odds) / (2 / 3)))
        drawn = (np.clip(1.2 * share - 0.1, 0, 1) > 0).mean()
        worst = max(worst, abs(float(sp.is_open(torch.tensor(odds))) - drawn))
    proof("sparsityPrior", "l0: share of open gates in 200,000 draws", worst, at_most=4 * 0.5 / math.sqrt(200_000))


def test_noise_per_output_has_the_moments_of_noise_per_weight(proof: Prove) -> None:
    """Local reparameterization: mean W x + b and variance sigma^2 x^2, without correlation between rows."""
    torch.manual_seed(0)
    layer = sp.ArdLinear(torch.nn.Linear(4, 2).double(), -1.0)
    x = torch.randn(1, 4).double()
    drawn = layer(x.expand(100_000, 4)).detach()
    mean, variance = layer.weight @ x[0] + layer.bias, math.exp(-1.0) * x.square().sum()
    proof(
        "sparsityPrior",
        "ard: variance of an output, relative",
        float((drawn.var(0) / variance - 1).detach().abs().max()),
        at_most=0.03,
    )
    assert float((drawn.mean(0) - mean).detach().abs().max()) < 4 * math.sqrt(float(variance) / 100_000)


@pytest.mark.parametrize("kind", ["ard", "l0"])
def test_features_that_do_not_matter_are_pruned(kind: str, proof: Prove) -> None:
    """Exactly zero for the six irrelevant of ten features, and no other; the others as least squares on those four has them."""
    problem = regression(n=300)
    blocks = {"sparsityPrior": {"kind": kind, "strength": STRONG[kind]}}
    fit = solve(problem, blocks, kind="adam", rate=0.03, steps=2000)
    found = weights(fit)[0]
    assert (found != 0).tolist() == [True] * 4 + [False] * 6
    assert type(fit.model.get_submodule("head")) is torch.nn.Linear
    expected = np.linalg.lstsq(np.c_[problem.x[:, :4], np.ones(300)], problem.y, rcond=None)[0][:4]
    proof(
        "sparsityPrior",
        f"{kind}: least squares on the relevant features",
        float(np.abs(found[:4] - expected).max()),
        at_most=0.1,
    )
    (notes,) = (b.notes() for b in fit.blocks)
    assert notes == {"zeros": 6, "weights": 10}
    share = fit.contributions()["sparsityPrior"]
    assert share.value is not None
    assert share.value > 0


@pytest.mark.parametrize("kind", ["ard", "l0"])
def test_what_is_validated_is_what_is_shipped(kind: str) -> None:
    problem = classification()
    blocks: dict[str, Any] = {"sparsityPrior": {"kind": kind, "strength": 1e-2}, "earlyStopping": {"patience": 100}}
    options: dict[str, Any] = {"kind": "adam", "rate": 0.02, "steps": 60, "batch": 50}
    fit = solve(problem, blocks, model=mlp(), validation=problem, **options)
    scores = fit.scores(torch.tensor(problem.x))
    loss = float(torch.nn.functional.cross_entropy(scores, torch.tensor(problem.y)))
    assert loss == pytest.approx(min(entry["validation"] for entry in fit.report.history), abs=1e-12)
    assert not [name for name in fit.parameters if "sparsity" in name]


def test_other_penalties_leave_its_numbers_alone() -> None:
    fit = solve(classification(), {"sparsityPrior": {}, "l2": {}, "weightDecay": {}}, model=mlp(), steps=1)
    assert fit.params["l2"].names == fit.params["weightDecay"].names == ["hidden.0.linear.weight", "head.weight"]


def test_layers_that_are_not_linear_are_refused() -> None:
    model = torch.nn.Sequential(torch.nn.Conv1d(1, 1, 1), torch.nn.Flatten()).double()
    with pytest.raises(InvalidConfigError, match=r"sparsityPrior\.target.*0\.weight"):
        solve(classification(), {"sparsityPrior": {}}, steps=1, model=model)


@pytest.mark.parametrize("kind", ["ard", "l0"])
def test_resuming_anywhere_ends_in_the_same_bits(kind: str) -> None:
    problem = classification(60)

    def run(session: Interrupted) -> Any:
        options: dict[str, Any] = {"kind": "adam", "rate": 0.02, "steps": 20, "batch": 20, "session": session}
        return solve(problem, {"sparsityPrior": {"kind": kind, "strength": 1e-2}}, model=mlp(), **options).parameters

    straight = run(Interrupted(None))
    for after in (1, 7, 18):
        session = Interrupted(after)
        with pytest.raises(PreemptedError):
            run(session)
        resumed = run(Interrupted(None, session.saved))
        assert all(torch.equal(value, resumed[name]) for name, value in straight.items())
