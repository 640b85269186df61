"""Knowledge of another model: distillation and functional regularization against closed forms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from espalier_trainer.engines.torch import transfer
from espalier_trainer.engines.torch.architectures.mlp import Mlp
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.protocol import Reference
from tests.unit.trainer.others import told
from tests.unit.trainer.problems import Problem, classification, regression, solve, weights

if TYPE_CHECKING:
    from tests.conftest import Prove


def mlp(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return Mlp(5, [12], 3).double()


# --- the divergence ---------------------------------------------------------------------------------------------------
def test_divergence_is_torchs_kl(proof: Prove) -> None:
    """torch.nn.functional.kl_div at several temperatures."""
    torch.manual_seed(0)
    teacher, student = torch.randn(50, 4).double(), torch.randn(50, 4).double()
    worst = 0.0
    for t in (1.0, 2.0, 4.0, 20.0):
        ours = transfer.divergence(transfer.softened(teacher, t), student, t)
        theirs = torch.nn.functional.kl_div(
            torch.log_softmax(student / t, -1), torch.log_softmax(teacher / t, -1), log_target=True, reduction="none"
        )
        worst = max(worst, float((ours - t**2 * theirs.sum(-1)).abs().max()))
    proof("distillation", "torch kl_div: T^2 KL per row", worst, at_most=1e-12)


def test_hot_distillation_is_matching_of_logits(proof: Prove) -> None:
    """Hinton et al. 2015, 2.1: for T -> infinity the gradient is (z - t) / classes, both centred."""
    torch.manual_seed(0)
    teacher, student = torch.randn(50, 4).double(), torch.randn(50, 4).double().requires_grad_()
    transfer.divergence(transfer.softened(teacher, 1e4), student, 1e4).sum().backward()
    expected = (transfer.centred(student) - transfer.centred(teacher)).detach() / 4
    worst = float((student.grad - expected).abs().max() / expected.abs().max())  # type: ignore[operator]
    proof("distillation", "gradient of logit MSE at T = 10,000, relative", worst, at_most=6e-4)


# --- distillation -----------------------------------------------------------------------------------------------------
def test_no_share_is_plain_training_bit_for_bit(proof: Prove) -> None:
    problem = classification()
    reference = told(solve(problem, {}, steps=100), problem)
    fits = [
        solve(problem, blocks, steps=60, batch=30, model=mlp(), references={"big": reference})
        for blocks in (
            {},
            {"distillation": {"teacher": "big", "alpha": 0}},
            {"distillation": {"teacher": "big", "schedule": {"kind": "constant", "to": 0}}},  # in force, with share 0
        )
    ]
    differences = [
        float((a - b).detach().abs().max())
        for fit in fits[1:]
        for a, b in zip(fits[0].parameters.values(), fit.parameters.values(), strict=True)
    ]
    proof("distillation", "plain training at alpha 0: weights", max(differences), at_most=0.0)


def test_a_pure_student_of_a_linear_teacher_becomes_it(proof: Prove) -> None:
    """alpha 1 at T = 1: the unique optimum of KL to a softmax-linear teacher is the teacher, up to the constant per feature."""
    problem = classification()
    teacher = solve(problem, {"l2": {"strength": 0.05}}, rate=0.5)
    blocks = {"distillation": {"teacher": "big", "alpha": 1.0, "temperature": 1}}
    student = solve(problem, blocks, rate=1.0, steps=2000, references={"big": told(teacher, problem)})
    a, b = weights(teacher), weights(student)
    worst = float(np.abs((a - a.mean(0)) - (b - b.mean(0))).max())
    proof("distillation", "a linear teacher recovered: coefficients", worst, at_most=1e-6)


def test_a_clean_teacher_makes_up_for_noisy_labels(proof: Prove) -> None:
    """40 % of the labels are random; the teacher saw clean ones. The long form on digits is bench/transfer.py."""
    clean, fresh = classification(400, seed=3), classification(400, seed=3)
    rng = np.random.default_rng(0)
    y = np.where(rng.random(400) < 0.4, rng.integers(0, 3, 400), clean.y)
    half, rest = slice(0, 200), slice(200, 400)
    noisy = Problem(clean.x[half], y[half], 3)
    teacher = solve(Problem(clean.x[rest], clean.y[rest], 3), {"l2": {"strength": 0.01}}, steps=300, rate=0.5)
    reference = told(teacher, noisy)
    options: dict[str, Any] = {"kind": "adam", "rate": 0.02, "steps": 400, "references": {"big": reference}}
    hard = solve(noisy, {}, model=mlp(), **options)
    soft = solve(noisy, {"distillation": {"teacher": "big", "alpha": 1.0}}, model=mlp(), **options)
    x, truth = torch.tensor(fresh.x[rest]), fresh.y[rest]
    accuracy = [float((f.scores(x).argmax(-1).numpy() == truth).mean()) for f in (hard, soft)]
    proof(
        "distillation",
        "points of accuracy above training on 40 % random labels",
        100 * (accuracy[1] - accuracy[0]),
        at_least=5,
    )


def test_soft_labels_are_blended_with_their_rows() -> None:
    """A mixed row's soft label is the same mixture: its target can be told from the batch that the loss saw."""
    problem = classification(60)
    reference = told(solve(problem, {}, steps=50), problem)
    fit = solve(
        problem,
        {"distillation": {"teacher": "big", "temperature": 1}, "batchMixing": {}},
        steps=4,
        batch=20,
        references={"big": reference},
    )
    batch = fit.fit_view.batch
    assert batch is not None
    soft = batch.extra["distillation"]
    torch.testing.assert_close(soft.sum(-1), torch.ones(len(soft), dtype=soft.dtype))
    known = torch.tensor(np.exp(reference.scores["train"]))
    assert (torch.cdist(soft, known).min(dim=1).values > 1e-9).any()  # no row's own


# --- functional -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["kl", "mse", "l2sp"])
@pytest.mark.parametrize("task", [classification, regression])
def test_agreeing_with_oneself_costs_nothing(kind: str, task: Any, proof: Prove) -> None:
    """At the prior itself both the term and what it adds to the gradient are zero."""
    problem = task()
    prior = solve(problem, {}, steps=50)
    blocks = {"functional": {"prior": "old", "kind": kind, "strength": 10.0}}
    model = solve(problem, {}, steps=50).model
    fit = solve(problem, blocks, steps=1, rate=1e-12, model=model, references={"old": told(prior, problem)})
    one = fit.contributions()["functional"]
    assert one.value is not None
    assert one.gradient_ratio is not None
    proof(
        "functional",
        "prior = self: value and share of the gradient",
        max(abs(one.value), one.gradient_ratio),
        at_most=1e-7,
    )


def test_l2sp_is_ridge_around_the_prior(proof: Prove) -> None:
    """(X'X/n + lambda I) (w - w0) = X'(y - X w0)/n, with the bias drawn to its place like every weight."""
    problem = regression()
    rng = np.random.default_rng(1)
    w0, b0 = rng.normal(size=(1, 10)).astype(np.float32), np.asarray([0.4], dtype=np.float32)
    reference = Reference("s3://m/v1/", "sha256:1", True, weights={"head.weight": w0, "head.bias": b0})
    fit = solve(
        problem, {"functional": {"prior": "old", "kind": "l2sp", "strength": 0.5}}, references={"old": reference}
    )
    x = np.c_[problem.x, np.ones(len(problem.y))]
    centre = np.r_[w0[0], b0].astype(np.float64)
    hessian = x.T @ x / len(x) + 0.5 * np.eye(11)
    expected = centre + np.linalg.solve(hessian, x.T @ (problem.y - x @ centre) / len(x))
    found = np.r_[weights(fit)[0], fit.parameters["head.bias"].detach().numpy()]
    proof("functional", "l2sp: closed form of ridge around w0", float(np.abs(found - expected).max()), at_most=1e-9)


def test_mse_of_values_is_least_squares_to_a_mixed_target(proof: Prove) -> None:
    """(y - f)^2/2 + s (g - f)^2/2 has the minimum of least squares to (y + s g) / (1 + s)."""
    problem = regression()
    prior = np.random.default_rng(2).normal(size=len(problem.y))
    reference = Reference("s3://m/v1/", "sha256:1", False, {"train": prior[:, None]})
    fit = solve(
        problem, {"functional": {"prior": "old", "kind": "mse", "strength": 2.0}}, references={"old": reference}
    )
    x = np.c_[problem.x, np.ones(len(problem.y))]
    expected = np.linalg.lstsq(x, (problem.y + 2 * prior) / 3, rcond=None)[0][:-1]
    proof(
        "functional",
        "mse: least squares to the mixed target",
        float(np.abs(weights(fit)[0] - expected).max()),
        at_most=1e-9,
    )


def test_disagreement_falls_with_strength(proof: Prove) -> None:
    """Fresh labels against a prior of other labels: mean KL to the prior for growing strengths."""
    problem = classification()
    other = Problem(problem.x, np.roll(problem.y, 1), 3)
    reference = told(solve(other, {"l2": {"strength": 0.1}}, rate=0.5), problem)
    shares = torch.tensor(np.exp(reference.scores["train"]))
    apart = []
    for strength in (0.01, 0.1, 1.0, 10.0):
        blocks = {"functional": {"prior": "old", "strength": strength, "temperature": 1}}
        fit = solve(problem, blocks, rate=0.5 / (1 + strength), steps=1500, references={"old": reference})
        apart.append(float(transfer.divergence(shares, fit.scores(torch.tensor(problem.x)), 1.0).mean()))
    assert apart == sorted(apart, reverse=True)
    proof("functional", "KL to the prior at strength 10 over that at 0.01", apart[-1] / apart[0], at_most=0.05)


def test_weights_of_another_network_are_refused() -> None:
    reference = Reference("s3://m/v1/", "sha256:1", True, weights={"head.weight": np.zeros((1, 3), dtype=np.float32)})
    with pytest.raises(InvalidConfigError, match=r"R33.*functional.*head\.weight.*\(1, 3\)"):
        solve(regression(), {"functional": {"prior": "old", "kind": "l2sp"}}, steps=1, references={"old": reference})


@pytest.mark.parametrize("block", [{"functional": {"prior": "old"}}, {"distillation": {"teacher": "old"}}])
def test_values_have_no_temperature(block: dict[str, dict[str, Any]]) -> None:
    problem = regression()
    reference = {"old": told(solve(problem, {}, steps=5), problem)}
    assert solve(problem, block, steps=2, references=reference).report.steps == 2
    hot = {name: {**fields, "temperature": 3} for name, fields in block.items()}
    with pytest.raises(InvalidConfigError, match=r"temperature: values have no temperature"):
        solve(problem, hot, steps=1, references=reference)
