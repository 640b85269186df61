"""batchMixing, augmentation, informationBottleneck, latent and mcDropout against closed forms, torch.distributions and scipy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name
from numpy.testing import assert_allclose
from scipy import stats
from torch.distributions import Normal, kl_divergence

from espalier_trainer.engines.torch.architectures.mlp import Mlp
from espalier_trainer.engines.torch.losses import mean, per_row
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.protocol import Batch, Step
from espalier_trainer.regularizers import augmentation, latent
from espalier_trainer.regularizers.batch_mixing import blend, rectangle
from espalier_trainer.regularizers.information_bottleneck import divergence
from espalier_trainer.regularizers.mc_dropout import samples
from espalier_trainer.schedule import Coefficient
from tests.unit.trainer.problems import blocks, classification, context, regression, solve

if TYPE_CHECKING:
    from tests.conftest import Prove

STEP = Step(0, 0, 100, 0)


def sized(*widths: int) -> Mlp:
    torch.manual_seed(3)
    return Mlp(widths[0], widths[1:-1], widths[-1], "tanh").double()


def coefficient(value: float) -> Coefficient:
    return Coefficient(value, None, torch.zeros((), dtype=torch.float64))


def batch(rows: int = 30, weight: bool = False) -> Batch:
    torch.manual_seed(1)
    w = torch.rand(rows, dtype=torch.float64) + 0.5 if weight else None
    return Batch(torch.randn(rows, 5, dtype=torch.float64), torch.randint(0, 3, (rows,)), w, torch.arange(rows))


# --- batchMixing ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("weighted", [False, True])
def test_a_blend_has_the_blended_loss(weighted: bool, proof: Prove) -> None:
    """lambda w_a CE(a) + (1 - lambda) w_b CE(b), exactly, for any scores."""
    rows, share = batch(weight=weighted), torch.tensor(0.3, dtype=torch.float64)
    order = torch.randperm(30)
    mixed = blend(rows, order, share, rows.x, 3)
    scores = torch.randn(30, 3, dtype=torch.float64)
    ours = mean(per_row(scores, mixed, regression=False), mixed.weight)
    ce = F.cross_entropy(scores, rows.y, reduction="none"), F.cross_entropy(scores, rows.y[order], reduction="none")
    a, b = (0.3, 0.7) if rows.weight is None else (0.3 * rows.weight, 0.7 * rows.weight[order])
    total = 30 if rows.weight is None else (a + b).sum()
    closed = (a * ce[0] + b * ce[1]).sum() / total
    proof("batchMixing", "share * CE(a) + (1 - share) * CE(b) by torch", float((ours - closed).abs()), at_most=1e-12)
    assert mixed.index is None


def test_shares_are_drawn_from_beta() -> None:
    (block,) = blocks({"batchMixing": {"alpha": 0.4}})
    block.plan(context(classification()))
    block._classes = 3  # what attach tells
    torch.manual_seed(0)
    rows = Batch(torch.tensor([[1.0], [0.0]], dtype=torch.float64), torch.tensor([0, 1]))
    drawn = []
    for _ in range(4000):
        x = block.batch(rows, STEP, coefficient(1.0)).x.flatten()
        if 1e-9 < x[0] < 1 - 1e-9:  # otherwise the partner was the row itself
            drawn.append(float(x[0]))
    assert stats.kstest(drawn, stats.beta(0.4, 0.4).cdf).pvalue > 1e-3


def test_cutmix_needs_pixels_and_cuts_its_share() -> None:
    (block,) = blocks({"batchMixing": {"kind": "cutmix"}})
    with pytest.raises(InvalidConfigError, match="cutmix needs an image"):
        block.plan(context(classification()))
    torch.manual_seed(0)
    for share in (0.1, 0.5, 0.9):
        cut = rectangle(32, 32, torch.tensor(share)).float().mean().item()
        assert cut == pytest.approx(1 - share, abs=0.07)


def test_mixed_regressions_blend_their_values() -> None:
    rows = Batch(torch.randn(6, 2, dtype=torch.float64), torch.randn(6, dtype=torch.float64))
    order, share = torch.randperm(6), torch.tensor(0.25, dtype=torch.float64)
    mixed = blend(rows, order, share, rows.x, 0)
    assert_allclose(mixed.y, 0.25 * rows.y + 0.75 * rows.y[order])


# --- augmentation -----------------------------------------------------------------------------------------------------
def golden() -> torch.Tensor:
    torch.manual_seed(2)
    return torch.rand(4, 1, 8, 8, dtype=torch.float64)


def test_a_shift_is_a_shift(proof: Prove) -> None:
    """Two pixels to the right, one down, edges repeated: numpy's padding is the oracle."""
    images = golden()
    n = len(images)
    ours = augmentation.moved(images, torch.full((n,), 2.0).double(), torch.full((n,), 1.0).double())
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (1, 0), (2, 0)), mode="edge")[:, :, :8, :8]
    proof("augmentation", "numpy edge padding, image.shift", float(abs(ours.numpy() - padded).max()), at_most=1e-12)


@pytest.mark.parametrize("policy", sorted(augmentation.IMAGES))
def test_policies_change_rows_each_in_its_own_way_and_only_by_their_magnitude(policy: str) -> None:
    image = golden()[:1].expand(64, -1, -1, -1)
    torch.manual_seed(0)
    changed = augmentation.IMAGES[policy](image, 10)
    assert changed.shape == image.shape
    assert len(torch.unique(changed.flatten(1), dim=0)) > 8  # rows of one batch differ
    assert torch.isfinite(changed).all()
    still = augmentation.IMAGES[policy](image, 0)
    assert_allclose(still, image, atol=1e-12) if policy != "image.cropFlip" else assert_allclose(
        torch.minimum((still - image).abs().amax((1, 2, 3)), (still - image.flip(-1)).abs().amax((1, 2, 3))),
        0.0,
        atol=1e-12,
    )


def test_pixels_are_shifted_before_standardization() -> None:
    problem = classification()
    images = golden().flatten(1)
    location, scale = images.mean(0), images.std(0)
    (block,) = blocks({"augmentation": {"policy": "image.shift", "magnitude": 1, "probability": 1.0}})
    facts = {"location": location.float().numpy(), "scale": scale.float().numpy(), "image": (1, 8, 8)}
    block.plan(context(problem, **facts))
    torch.manual_seed(0)
    standardized = block.batch(Batch((images - location) / scale, torch.zeros(4)), STEP, coefficient(1.0)).x
    torch.manual_seed(0)
    raw = augmentation.shift(images.view(4, 1, 8, 8), 1).flatten(1)
    assert_allclose(standardized * scale + location, raw, atol=1e-6)


def test_image_policies_need_an_image() -> None:
    (block,) = blocks({"augmentation": {"policy": "image.erase"}})
    with pytest.raises(InvalidConfigError, match="R34"):
        block.plan(context(classification()))


def test_swap_noise_keeps_every_features_distribution() -> None:
    torch.manual_seed(0)
    x = torch.randn(5000, 3, dtype=torch.float64) * torch.tensor([1.0, 5.0, 0.1])
    swapped = augmentation.swap_noise(x, 0.3)
    assert (swapped != x).double().mean().item() == pytest.approx(0.3, abs=0.01)
    for column in range(3):
        assert set(swapped[:, column].tolist()) <= set(x[:, column].tolist())
        assert stats.ks_2samp(swapped[:, column], x[:, column]).pvalue > 0.05


def test_augmentation_acts_in_training_only_and_none_does_nothing() -> None:
    problem = classification()
    declared: dict[str, Any] = {"augmentation": {"policy": "tabular.gaussian", "magnitude": 15}}
    model = solve(problem, declared, kind="adam", rate=0.01, steps=40, model=sized(5, 8, 3)).model
    x = torch.tensor(problem.x)
    assert torch.equal(model(x), model(x))
    (silent,) = blocks({"augmentation": {"policy": "none"}})
    assert not silent.acts("batch")


# --- informationBottleneck --------------------------------------------------------------------------------------------
def test_the_price_of_a_code_is_torchs_kl(proof: Prove) -> None:
    m, s = torch.randn(20, 4, dtype=torch.float64), torch.rand(20, 4, dtype=torch.float64) + 0.1
    theirs = kl_divergence(Normal(m, s), Normal(torch.zeros_like(m), torch.ones_like(s))).sum(-1).mean()
    proof("informationBottleneck", "torch.distributions KL", float((divergence(m, s) - theirs).abs()), at_most=1e-12)


def test_a_code_says_less_when_it_costs_more() -> None:
    problem = classification(200)
    spent = []
    for beta in (1e-4, 1e-2, 0.5):
        declared = {"informationBottleneck": {"beta": beta, "dim": 4}}
        fit = solve(problem, declared, kind="adam", rate=0.01, steps=400, model=sized(5, 16, 3))
        value = fit.contributions()["informationBottleneck"].value
        assert value is not None
        spent.append(value)
    assert spent[0] > spent[1] > spent[2]


# --- latent -----------------------------------------------------------------------------------------------------------
def test_latent_terms_are_their_formulas(proof: Prove) -> None:
    a = torch.randn(50, 6, dtype=torch.float64) * 2 + 1
    y = torch.randint(0, 3, (50,))
    told = a.numpy()
    m, v = told.mean(0), told.var(0)
    ours = {
        "activationL2": latent.activation_l2(a) - (told**2).mean(),
        "kl": latent.moment_kl(a)
        - kl_divergence(Normal(torch.tensor(m), torch.tensor(v).sqrt()), Normal(0.0, 1.0)).mean(),
        "centre": latent.to_centres(a, F.one_hot(y, 3).double())
        - np.mean(
            [0.5 * ((r - told[y.numpy() == k].mean(0)) ** 2).sum() for r, k in zip(told, y.tolist(), strict=True)]
        ),
    }
    covariance = np.cov(told.T)
    off = covariance - np.diag(np.diag(covariance))
    closed = np.maximum(0, 1 - np.sqrt(np.diag(covariance) + 1e-4)).mean() + (off**2).sum() / 6
    ours["varianceCovariance"] = latent.variance_covariance(a) - closed
    proof(
        "latent",
        "numpy and torch.distributions, all four kinds",
        max(abs(float(d)) for d in ours.values()),
        at_most=1e-10,
    )


def test_the_term_is_what_a_hook_sees() -> None:
    problem, seen = classification(), []
    model = sized(5, 8, 7, 3)
    model.hidden[1].register_forward_hook(lambda *a: seen.append(a[2].square().mean().item()))
    declared = {"latent": {"kind": "activationL2", "layer": "hidden.1", "strength": 0.5}}
    fit = solve(problem, declared, rate=0.05, steps=1, model=model, log_every=1)
    assert fit.contributions()["latent"].value == pytest.approx(seen[1])  # the first pass sized the outputs


def test_covariance_falls() -> None:
    problem = classification(200)

    def off_diagonal(declared: dict[str, Any]) -> float:
        fit = solve(problem, declared, kind="adam", rate=0.01, steps=300, model=sized(5, 8, 3))
        covariance = np.cov(fit.model.hidden(torch.tensor(problem.x)).detach().numpy().T)
        return float(abs(covariance - np.diag(np.diag(covariance))).mean())

    assert off_diagonal({"latent": {"kind": "varianceCovariance", "strength": 1.0}}) < 0.7 * off_diagonal({})


# --- mcDropout --------------------------------------------------------------------------------------------------------
def test_samples_spread_as_the_closed_form_says(proof: Prove) -> None:
    """Dropout before a linear head: variance of an output is p/(1-p) sum w^2 h^2, its mean the deterministic answer."""
    problem, p = regression(60), 0.4
    fit = solve(
        problem, {"dropout": {"p": p}, "mcDropout": {}}, kind="adam", rate=0.01, steps=100, model=sized(10, 12, 1)
    )
    x = problem.x[:20].astype(np.float32)
    drawn = samples(fit.fit_view, x, 4000)[:, :, 0]
    model = fit.model
    hidden = model.hidden(torch.tensor(x, dtype=torch.float64)).detach()
    closed = (p / (1 - p) * hidden.square() @ model.head.weight[0].detach().square()).numpy()
    exact = model(torch.tensor(x, dtype=torch.float64)).detach().numpy()[:, 0]
    ratio = float((drawn.var(0) / closed).mean())
    proof("mcDropout", "p/(1-p) sum w^2 h^2: mean ratio of variances, away from 1", abs(ratio - 1), at_most=0.02)
    assert (abs(drawn.mean(0) - exact) / np.sqrt(closed / 4000)).max() < 4.5
    assert_allclose(samples(fit.fit_view, x, 3), samples(fit.fit_view, x, 3))


def test_the_spread_is_recorded_and_needs_dropout() -> None:
    problem = classification()
    fit = solve(
        problem, {"dropout": {"p": 0.3}, "mcDropout": {"samples": 30}}, rate=0.05, steps=20, model=sized(5, 8, 3)
    )
    x = problem.x[:40].astype(np.float32)
    (block,) = [b for b in fit.blocks if b.name == "mcDropout"]
    members = block.members(x)
    assert members.shape == (30, 40, 3)
    assert members.std(axis=0).min() > 0
    with pytest.raises(InvalidConfigError, match="R24"):
        block.plan(context(problem))
