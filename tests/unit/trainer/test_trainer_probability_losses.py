"""Calibration losses and the bi-tempered loss against definitions, scipy's roots and finite differences."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name
from scipy.optimize import brentq
from scipy.stats import entropy
from sklearn.metrics import brier_score_loss

from espalier_trainer.engines.torch.architectures.mlp import Mlp
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.evaluation.calibration import ece
from espalier_trainer.regularizers.calibration_loss import brier, mmce, negative_entropy
from espalier_trainer.regularizers.robust_loss import bi_tempered, exp_t, tempered_softmax
from tests.unit.trainer.problems import Problem, classification, regression, solve

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Prove

SCORES = 2 * torch.randn(12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = torch.arange(12) % 4
HOT = F.one_hot(Y, 4).double()


def finite_difference(loss: Callable[[torch.Tensor], torch.Tensor], at: torch.Tensor) -> float:
    """Largest difference of autograd's gradient from central differences."""
    point = at.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(point), point)
    worst = 0.0
    for i in range(at.numel()):
        step = torch.zeros(at.numel(), dtype=at.dtype)
        step[i] = 1e-6
        slope = (loss(at + step.view_as(at)) - loss(at - step.view_as(at))) / 2e-6
        worst = max(worst, abs(float(slope - gradient.view(-1)[i])))
    return worst


@pytest.mark.parametrize("loss", [brier, mmce, lambda s, _: negative_entropy(s)], ids=["brier", "mmce", "entropy"])
def test_gradients_of_calibration_losses(proof: Prove, loss: Callable[..., torch.Tensor]) -> None:
    worst = finite_difference(lambda s: loss(s, HOT), SCORES)
    proof("calibrationLoss", "finite differences: gradient by scores", worst, at_most=1e-8)


def test_brier_is_sklearns_twice_for_two_classes(proof: Prove) -> None:
    """scikit-learn counts the positive class only, so the sum over both is twice its number."""
    p = F.softmax(SCORES[:, :2], -1)[:, 1].numpy()
    theirs = 2 * brier_score_loss(Y.numpy() % 2, p)
    ours = float(brier(SCORES[:, :2], F.one_hot(Y % 2, 2).double()))
    proof("calibrationLoss", "sklearn brier_score_loss", abs(ours - theirs), at_most=1e-15)


def test_mmce_is_its_double_sum(proof: Prove) -> None:
    """Kumar et al. 2018, equation 5, written out."""
    p = F.softmax(SCORES, -1).numpy()
    r, c = p.max(1), (p.argmax(1) == Y.numpy()).astype(float)
    total = sum((c[i] - r[i]) * (c[j] - r[j]) * math.exp(-abs(r[i] - r[j]) / 0.4) for i in range(12) for j in range(12))
    worst = abs(float(mmce(SCORES, HOT)) - math.sqrt(total / 144 + 1e-12))
    proof("calibrationLoss", "definition: double sum of MMCE", worst, at_most=1e-14)


def test_entropy_is_scipys() -> None:
    theirs = entropy(F.softmax(SCORES, -1).numpy(), axis=1).mean()
    assert float(negative_entropy(SCORES)) == pytest.approx(-theirs, abs=1e-15)


def noisy(seed: int) -> tuple[Problem, Problem]:
    whole = classification(460, seed=seed)
    rng = np.random.default_rng(seed)
    flip = rng.random(460) < 0.2
    y = np.where(flip, rng.integers(0, 3, 460), whole.y)
    return Problem(whole.x[:60], y[:60], 3), Problem(whole.x[60:], y[60:], 3)


def overfit(declared: dict[str, Any], seed: int) -> tuple[float, float]:
    """(ECE, mean entropy) on held-out rows of a network that could learn its 60 rows by heart."""
    train, held = noisy(seed)
    torch.manual_seed(seed)
    model = Mlp(5, [32], 3).double()
    solve(train, declared, kind="adam", rate=0.02, steps=120, model=model)
    p = F.softmax(model(torch.tensor(held.x)), -1).detach().numpy()
    return ece(p.max(1), (p.argmax(1) == held.y).astype(float)), float(entropy(p, axis=1).mean())


@pytest.mark.parametrize("kind, strength", [("brier", 5.0), ("mmce", 5.0), ("confidencePenalty", 0.5)])
def test_held_out_calibration_improves_over_seeds(proof: Prove, kind: str, strength: float) -> None:
    declared = {"calibrationLoss": {"kind": kind, "strength": strength}}
    pairs = [(overfit({}, seed), overfit(declared, seed)) for seed in range(3)]
    fall = float(np.mean([plain[0] - ours[0] for plain, ours in pairs]))
    proof("calibrationLoss", f"ECE on held-out rows, mean fall over 3 seeds: {kind}", fall, at_least=0.02)
    if kind == "confidencePenalty":
        assert all(ours[1] > plain[1] for plain, ours in pairs)


# --- bi-tempered --------------------------------------------------------------------------------------------------------
def test_the_tempered_softmax_is_normalized_by_scipys_root(proof: Prove) -> None:
    for classes, t in ((4, 1.2), (10, 1.5), (200, 1.2), (3, 2.0)):
        scores = 4 * torch.randn(3, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(classes))
        for row, p in zip(scores, tempered_softmax(scores, t), strict=True):
            norm = brentq(lambda n, row=row, t=t: float(exp_t(row - n, t).sum()) - 1, float(row.max()), 1e6, xtol=1e-13)
            worst = float((p - exp_t(row - norm, t)).abs().max())
            proof("robustLoss", "scipy brentq: tempered softmax", worst, at_most=1e-9)


def test_the_bi_tempered_loss_has_cross_entropy_as_its_limit(proof: Prove) -> None:
    plain = F.cross_entropy(SCORES, Y, reduction="none")
    exact = float((bi_tempered(SCORES, HOT, 1.0, 1.0) - plain).abs().max())
    near = float((bi_tempered(SCORES, HOT, 1 - 1e-7, 1 + 1e-7) - plain).abs().max())
    proof("robustLoss", "torch cross_entropy: biTempered with t1 = t2 = 1", exact, at_most=1e-12)
    proof("robustLoss", "torch cross_entropy: biTempered with t1, t2 near 1", near, at_most=1e-5)


def test_gradients_of_the_bi_tempered_loss(proof: Prove) -> None:
    """Hard and soft labels: the implicit gradient of the norm is the true one."""
    soft = F.softmax(torch.randn(12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), -1)
    for target in (HOT, soft):
        worst = finite_difference(lambda s, y=target: bi_tempered(s, y).sum(), SCORES)
        proof("robustLoss", "finite differences: gradient of biTempered", worst, at_most=1e-7)


def test_the_bi_tempered_loss_is_bounded_and_zero_at_the_label() -> None:
    """At most 1 / (1 - t1) + ... for one-hot labels: one mislabelled row cannot rule the mean."""
    far = torch.tensor([[1e6, 0.0, 0.0]], dtype=torch.float64)
    worst = float(bi_tempered(far, F.one_hot(torch.tensor([1]), 3).double()))
    assert worst <= 1 / 0.2 - 1 / 1.2 + 1 / 1.2 + 1e-9
    assert float(bi_tempered(far, F.one_hot(torch.tensor([0]), 3).double())) == pytest.approx(0, abs=1e-3)


def test_bi_tempered_trains_and_fits_its_task_only() -> None:
    fit = solve(classification(), {"robustLoss": {"kind": "biTempered"}}, rate=0.5, steps=100)
    accuracy = (fit.model(torch.tensor(classification().x)).argmax(-1).numpy() == classification().y).mean()
    assert accuracy > 0.6
    with pytest.raises(InvalidConfigError, match=r"biTempered does not fit task\.type regression"):
        solve(regression(), {"robustLoss": {"kind": "biTempered"}}, steps=1)
    with pytest.raises(InvalidConfigError, match="calibrationLoss: a regression has no probabilities"):
        solve(regression(), {"calibrationLoss": {}}, steps=1)
