"""DP-SGD: the accountant against opacus and published numbers, gradients against a loop over rows, noise and sampling against laws."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name
from scipy.optimize import brentq
from torch import nn

from espalier_api.engines import TorchEngine
from espalier_api.regularizers import Regularizers
from espalier_api.rules import engine_support
from espalier_trainer import accounting
from espalier_trainer.data.dataset import DataSpec
from espalier_trainer.data.dataset import build as build_dataset
from espalier_trainer.data.tables import Table
from espalier_trainer.engines.torch.architectures.mlp import Mlp
from espalier_trainer.engines.torch.engine import build
from espalier_trainer.errors import DataProblemError, InvalidConfigError, PreemptedError
from espalier_trainer.protocol import Regularizer, Stage, Step, lookup
from espalier_trainer.regularizers import privacy
from tests.unit.trainer import jobs, others
from tests.unit.trainer.problems import Problem, classification, linear, regression, solve, weights
from tests.unit.trainer.test_trainer_resume import Interrupted

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from espalier_trainer.engines.torch.loop import Fit
    from tests.conftest import Prove

# (q, sigma, steps, delta): what opacus 1.6.0's RDPAccountant and PRVAccountant answer
OPACUS = {
    (0.01, 4.0, 10000, 1e-5): (1.0354900660362476, 0.9569361942671281),
    (0.01, 1.1, 3000, 1e-5): (2.9331430686142665, 2.6856432228245555),
    (0.05, 1.0, 200, 1e-4): (4.593625335559283, 4.009655767763084),
    (0.1, 2.0, 500, 1e-5): (6.034322441891099, 5.565770873458622),
    (0.5, 3.0, 50, 1e-3): (4.568470492609786, 4.044754626279208),
    (1.0, 5.0, 30, 1e-5): (5.252401293794603, 4.876339455804848),
    (0.002, 0.7, 5000, 1e-6): (3.115554890446055, 2.4000612692931216),
}


@pytest.fixture
def without_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """sigma 0, so that what is left can be compared; no budget is spent in a test."""
    monkeypatch.setattr(privacy, "noise_for", lambda *_: 0.0)
    monkeypatch.setattr(privacy, "spent", lambda *_: 0.0)


# --- accountant -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("setting", OPACUS)
def test_epsilon_is_that_of_opacus(proof: Prove, setting: tuple[float, float, int, float]) -> None:
    rdp, prv = OPACUS[setting]
    proof("privacy", "opacus 1.6.0: RDP epsilon", abs(accounting.rdp_epsilon(*setting) - rdp), at_most=1e-6)
    proof("privacy", "opacus 1.6.0: PRV epsilon", abs(accounting.prv_epsilon(*setting) - prv), at_most=1e-5)


def test_the_published_example_of_abadi_et_al(proof: Prove) -> None:
    for name in ("rdp", "prv"):
        found = accounting.spent(0.01, 4.0, 10000, 1e-5, name)  # type: ignore[arg-type]
        proof("privacy", f"Abadi et al. 2016: epsilon at q .01, sigma 4, 10,000 steps, {name}", found, at_most=1.26)


@pytest.mark.parametrize("order", [2, 5, 17])
@pytest.mark.parametrize("setting", [(0.01, 4.0), (0.3, 0.8), (0.9, 2.0)])
def test_renyi_divergence_is_the_binomial_sum(proof: Prove, order: int, setting: tuple[float, float]) -> None:
    """Mironov, Talwar, Zhang 2019, section 3.3, for integer orders."""
    q, sigma = setting
    moment = sum(
        math.comb(order, k) * (1 - q) ** (order - k) * q**k * math.exp((k * k - k) / (2 * sigma**2))
        for k in range(order + 1)
    )
    closed = math.log(moment) / (order - 1)
    worst = abs(accounting.renyi(q, sigma, order) / closed - 1)
    proof("privacy", "closed form: Renyi divergence of integer orders", worst, at_most=1e-8)


@pytest.mark.parametrize("sigma", [0.8, 2.0, 6.0])
def test_one_full_step_is_the_gaussian_mechanism(proof: Prove, sigma: float) -> None:
    """Balle and Wang 2018 give its epsilon exactly; a bound lies above it, and not by more than its slack."""
    exact = brentq(lambda e: accounting.gaussian_delta(e, sigma) - 1e-5, 1e-6, 60.0, xtol=1e-12)
    slack = accounting.prv_epsilon(1.0, sigma, 1, 1e-5) - exact
    proof("privacy", "closed form: PRV epsilon of the Gaussian mechanism, slack", slack, at_most=0.011)
    assert slack >= 0
    # k full steps are one step with sigma / sqrt k
    many = brentq(lambda e: accounting.gaussian_delta(e, 5 * sigma / math.sqrt(25)) - 1e-5, 1e-6, 60.0, xtol=1e-12)
    assert 0 <= accounting.prv_epsilon(1.0, 5 * sigma, 25, 1e-5) - many <= 0.011


@pytest.mark.parametrize("accountant", ["prv", "rdp"])
def test_the_noise_fits_the_budget_and_no_less_does(proof: Prove, accountant: str) -> None:
    for epsilon, q, steps in ((3.0, 0.15, 400), (0.5, 1.0, 10)):
        sigma = accounting.noise_for(epsilon, 1e-4, q, steps, accountant)  # type: ignore[arg-type]
        used = accounting.spent(q, sigma, steps, 1e-4, accountant)  # type: ignore[arg-type]
        assert used <= epsilon
        proof("privacy", "definition: share of the budget that the noise uses", used / epsilon, at_least=0.98)
    assert accounting.spent(0.1, 1.0, 0, 1e-5, "prv") == 0


# --- gradients --------------------------------------------------------------------------------------------------------
def mlp() -> nn.Module:
    torch.manual_seed(0)
    return Mlp(5, [7], 3).double()


def attached(declared: dict[str, Any], problem: Problem, **options: Any) -> Fit:
    """A fit that took one step of length 0."""
    return solve(problem, declared, rate=1e-300, steps=1, model=mlp(), **options)


def by_hand(
    fit: Fit, problem: Problem, bound: float, loss: Callable[..., torch.Tensor]
) -> tuple[list[torch.Tensor], list[float]]:
    """Sum of cut gradients, one row after the other by plain autograd, and their norms after the cut."""
    total, norms = [torch.zeros_like(p) for p in fit.parameters.values()], []
    for x, y in zip(torch.tensor(problem.x), torch.tensor(problem.y), strict=True):
        grads = torch.autograd.grad(loss(fit.model(x[None]), y[None]), list(fit.parameters.values()))
        norm = math.sqrt(sum(float(g.square().sum()) for g in grads))
        scale = min(1.0, bound / norm)
        norms.append(scale * norm)
        for part, g in zip(total, grads, strict=True):
            part.add_(scale * g)
    return total, norms


def test_gradients_are_cut_row_by_row(proof: Prove, without_noise: None) -> None:
    problem = classification(40)
    fit = attached({"privacy": {}}, problem)
    (block,) = fit.blocks
    bound = float(np.median(by_hand(fit, problem, math.inf, F.cross_entropy)[1]))
    block.config = block.config.model_copy(update={"max_grad_norm": bound})
    everything = block._take(torch.arange(40))
    ours = block._gradients(everything, Step(0, 0, 1, 0))
    total, norms = by_hand(fit, problem, bound, F.cross_entropy)
    assert sum(n > 0.999 * bound for n in norms) > 5  # some are cut
    assert sum(n < 0.999 * bound for n in norms) > 5  # some are not
    worst = max(float((a - b).abs().max()) for a, b in zip(ours.values(), total, strict=True))
    proof("privacy", "a loop over rows by autograd: sum of cut gradients", worst, at_most=1e-12)
    single = [block._gradients(block._take(torch.tensor([i])), Step(0, 0, 1, 0)) for i in range(40)]
    largest = max(math.sqrt(sum(float(g.square().sum()) for g in one.values())) for one in single)
    proof("privacy", "definition: largest norm of a row's part over maxGradNorm", largest / bound, at_most=1 + 1e-9)


def test_chunks_change_nothing(without_noise: None, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = attached({"privacy": {}}, classification(40))
    (block,) = fit.blocks
    whole = block._gradients(block._take(torch.arange(40)), Step(0, 0, 1, 0))
    monkeypatch.setattr(privacy, "CHUNK_NUMBERS", 3 * sum(p.numel() for p in fit.parameters.values()))
    parts = block._gradients(block._take(torch.arange(40)), Step(0, 0, 1, 0))
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    "others",
    [
        {},
        {"labelSmoothing": {"epsilon": 0.1}},
        {"robustLoss": {"kind": "biTempered"}},
        {"classRebalancing": {"method": "inverse"}},
        {"calibrationLoss": {"kind": "brier"}},
        {"maxMargin": {}},
        {"adversarial": {"attack": "fgsm", "epsilon": 0.2}},
    ],
)
def test_with_a_wide_bound_it_is_the_plain_fit(proof: Prove, without_noise: None, others: dict[str, Any]) -> None:
    """Full batches, nothing cut, no noise: what is declared beside privacy reaches each row's gradient as it reaches the mean's."""
    problem = classification(40)
    ours = solve(problem, {"privacy": {"maxGradNorm": 1000}, **others}, rate=0.3, steps=8, model=mlp())
    plain = solve(problem, others, rate=0.3, steps=8, model=mlp())
    worst = max(float((a - plain.parameters[n]).detach().abs().max()) for n, a in ours.parameters.items())
    proof("privacy", "the plain fit, when nothing is cut and no noise added: weights", worst, at_most=1e-12)


def test_weights_of_rows_scale_their_gradients(without_noise: None) -> None:
    problem = classification(40)
    weight = np.linspace(0.5, 1.5, 40)
    ours = solve(problem, {"privacy": {"maxGradNorm": 1000}}, rate=0.3, steps=5, weight=weight)
    plain = solve(problem, {}, rate=0.3, steps=5, weight=weight)
    np.testing.assert_allclose(weights(ours), weights(plain), atol=1e-13)
    assert not np.allclose(weights(ours), weights(solve(problem, {}, rate=0.3, steps=5)), atol=1e-4)


def test_penalties_come_after_the_cut_and_the_noise(proof: Prove, without_noise: None) -> None:
    """Fact 2: an L2 of strength 0.7 adds exactly 0.7 w to the private gradient. In the loss it would be cut away."""
    problem = classification(40)
    model = linear(problem)
    nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(0))
    start = model.head.weight.detach().clone()
    with_l2 = solve(
        problem, {"privacy": {"maxGradNorm": 0.01}, "l2": {"strength": 0.7}}, rate=1.0, steps=1, model=model
    )
    plain = linear(problem)
    plain.head.weight.data.copy_(start)
    without = solve(problem, {"privacy": {"maxGradNorm": 0.01}}, rate=1.0, steps=1, model=plain)
    added = without.parameters["head.weight"] - with_l2.parameters["head.weight"]
    worst = float((added - 0.7 * start).detach().abs().max())
    proof("R2", "definition: under privacy l2 adds strength w after the noise", worst, at_most=1e-12)


# --- noise and sampling -----------------------------------------------------------------------------------------------
def test_the_noise_has_its_deviation(proof: Prove, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty batch is a step of noise alone: sigma C / expected batch size on every weight."""
    monkeypatch.setattr(privacy, "noise_for", lambda *_: 2.5)
    problem = classification(60)
    fit = solve(
        problem, {"privacy": {"maxGradNorm": 0.4}}, rate=1e-300, steps=1, batch=20, model=Mlp(5, [4000], 3).double()
    )
    (block,) = fit.blocks
    block._secret, block._planned = "7", 9
    block.backward(torch.zeros(()), block._take(torch.arange(0)), Step(5, 0, 9, 0))
    values = torch.cat([p.grad.flatten() for p in fit.parameters.values()])
    measured = float(values.std()) / (2.5 * 0.4 / 20)
    proof(
        "privacy",
        "definition: deviation of the noise over sigma C / batchSize, off by",
        abs(measured - 1),
        at_most=0.02,
    )
    assert abs(float(values.mean())) < 5e-4


def test_rows_are_drawn_independently(proof: Prove) -> None:
    """Poisson sampling: sizes are binomial, and so is how often each row is drawn."""
    problem = classification(200)
    fit = solve(problem, {"privacy": {}}, rate=1e-300, steps=4, batch=50)
    (block,) = fit.blocks
    block._secret = "7"  # a law holds for all of them; a test must not fail by chance
    drawn = [block.batch(fit.train.all(), Step(i, 0, 2000, 0), fit.coefficients["privacy"]).index for i in range(1500)]
    sizes = np.array([len(d) for d in drawn])
    proof(
        "privacy",
        "binomial law: mean batch size over its expectation, off by",
        abs(sizes.mean() / 50 - 1),
        at_most=0.01,
    )
    assert sizes.var() == pytest.approx(200 * 0.25 * 0.75, rel=0.15)
    times = torch.bincount(torch.cat(drawn), minlength=200).double()
    assert float(times.var()) == pytest.approx(1500 * 0.25 * 0.75, rel=0.35)
    assert (torch.bincount(drawn[0]) <= 1).all()


def test_the_published_seed_does_not_give_the_noise_away() -> None:
    problem = classification(40)
    one, two = (solve(problem, {"privacy": {}}, steps=8, batch=10, seed=1).parameters["head.weight"] for _ in range(2))
    assert not torch.equal(one, two)


@pytest.mark.parametrize("after", [1, 13, 15])
def test_resuming_ends_in_the_same_bits_and_spends_nothing_twice(after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privacy.secrets, "token_hex", lambda _: "one")

    def run(session: Interrupted) -> Fit:
        declared = {"privacy": {"accountant": "rdp"}, "dropout": {"p": 0.2}}
        return solve(classification(90), declared, rate=0.1, steps=20, batch=20, model=mlp(), session=session)  # type: ignore[arg-type]

    straight, session = run(Interrupted(None)), Interrupted(after)
    with pytest.raises(PreemptedError):
        run(session)
    monkeypatch.setattr(privacy.secrets, "token_hex", lambda _: "two")  # the secret travels in the state
    resumed = run(Interrupted(None, session.saved))
    for name, value in straight.parameters.items():
        assert torch.equal(value, resumed.parameters[name])
    assert resumed.report.notes == straight.report.notes
    told = [next(b.notes() for b in fit.blocks if b.name == "privacy") for fit in (straight, resumed)]
    assert told[0] == told[1]
    assert told[0]["steps"] == 20


def test_what_was_spent_is_told() -> None:
    """90 rows, batches of 18: 20 steps use the budget, no more; delta is a tenth of 1/n."""
    fit = solve(classification(90), {"privacy": {"epsilon": 4.0}}, steps=20, batch=18)
    told = fit.blocks[0].notes()
    assert 3.9 < told["epsilon"] <= 4.0
    assert (told["steps"], told["sampleRate"]) == (20, 0.2)
    assert told["delta"] == pytest.approx(0.1 / 90)
    fit.blocks[0]._steps = 10
    assert fit.blocks[0].notes()["epsilon"] < told["epsilon"]


def test_what_privacy_cannot_cover_is_refused() -> None:
    problem = classification(40)
    norm = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).double()
    with pytest.raises(InvalidConfigError, match="R1: 1 is BatchNorm1d, which mixes the rows"):
        solve(problem, {"privacy": {}}, steps=1, model=norm)
    with pytest.raises(InvalidConfigError, match=r"fairness: privacy needs the gradient of each training row.*R3"):
        solve(problem, {"privacy": {}, "fairness": {"column": "g"}}, steps=1, groups={"g": problem.y})
    with pytest.raises(InvalidConfigError, match=r"delta: 0\.5 is not below 1/n"):
        solve(problem, {"privacy": {"delta": 0.5}}, steps=1)
    with pytest.raises(InvalidConfigError, match="both choose the rows of an epoch"):
        solve(problem, {"privacy": {}, "classRebalancing": {"method": "oversample"}}, steps=1)
    with pytest.raises(InvalidConfigError, match="no noise keeps 1 steps within epsilon"):
        solve(problem, {"privacy": {"epsilon": 1e-7, "delta": 1e-12}}, steps=1)


def test_a_student_is_private_too(without_noise: None) -> None:
    """What other blocks add to a batch is there when gradients are first taken."""
    problem = classification(40)
    teacher = others.told(solve(problem, {}, steps=20), problem)
    declared, options = {"distillation": {"teacher": "big"}}, {"rate": 0.05, "steps": 5, "references": {"big": teacher}}
    ours = solve(problem, {**declared, "privacy": {"maxGradNorm": 1000}}, **options)  # type: ignore[arg-type]
    np.testing.assert_allclose(weights(ours), weights(solve(problem, declared, **options)), atol=1e-13)  # type: ignore[arg-type]


def test_privacy_draws_before_anybody_changes_a_batch() -> None:
    """It replaces the batch, so what came before it would be lost in silence. quantization (SURGERY) only looks at the clock there."""
    changing = [lookup(name) for name in engine_support.TORCH if lookup(name).batch is not Regularizer.batch]
    places = {block.name: (block.stage, block.order) for block in changing if block.stage >= Stage.DATA}
    assert all(places["privacy"] < place for name, place in places.items() if name != "privacy"), places


def test_no_step_goes_beyond_the_budget(without_noise: None) -> None:
    fit = solve(classification(40), {"privacy": {}}, steps=3)
    (block,) = fit.blocks
    with pytest.raises(InvalidConfigError, match="the budget is for 3 steps, and another block trains longer"):
        block.backward(torch.zeros(()), block._take(torch.arange(3)), Step(3, 0, 9, 0))


def test_a_regression_is_private_too(without_noise: None) -> None:
    problem = regression(40)
    ours = solve(problem, {"privacy": {"maxGradNorm": 1000}}, rate=0.05, steps=5)
    np.testing.assert_allclose(weights(ours), weights(solve(problem, {}, rate=0.05, steps=5)), atol=1e-13)


# --- jobs -------------------------------------------------------------------------------------------------------------
def test_groups_take_the_place_of_batches(proof: Prove) -> None:
    """R1, in the engine that a job gets."""
    blocks = Regularizers.model_validate({"privacy": {}, "normalization": {"kind": "batch"}})
    engine = build(TorchEngine.model_validate({"architecture": {"mlp": {}}}), dict(blocks.declared()))
    grouped = float(engine.resolved()["normalization"]["kind"] == "group")
    proof("R1", "definition: normalization that is trained under privacy is by group", grouped, at_least=1.0)
    alone = dict(Regularizers.model_validate({"normalization": {"kind": "batch"}}).declared())
    kept = build(TorchEngine.model_validate({"architecture": {"mlp": {}}}), alone)
    assert kept.resolved()["normalization"]["kind"] == "batch"


def test_a_job_tells_what_it_spent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERMINATION_LOG", str(tmp_path / "term"))
    monkeypatch.setattr(engine_support, "KEPT", engine_support.KEPT | {"R37"})
    jobs.stage(tmp_path)
    result = jobs.train(tmp_path, regularizers={"privacy": {"epsilon": 5.0}, "l2": {"strength": 1e-3}, "dropout": {}})
    assert result.outcome == "Succeeded", result.message
    metrics = json.loads((tmp_path / jobs.VERSION / "metrics.json").read_text())["metrics"]
    assert 4.8 < metrics["privacyEpsilon"]["value"] <= 5.0
    notes = json.loads((tmp_path / jobs.VERSION / "regularizers.json").read_text())["notes"]
    assert notes["privacy.noiseMultiplier"] > 0.5
    assert notes["privacy.delta"] == pytest.approx(0.1 / 96)
    assert "secret" not in json.dumps(notes)


def test_messages_of_private_data_hold_no_value() -> None:
    column = np.array(["12", "SECRET"], dtype=object)
    for private, told in ((False, "'12'"), (True, "a value that privacy hides")):
        table = Table(
            {"x": column, "label": np.array([0, 1])}, ("part-0",), np.zeros(1, dtype=np.int64), private=private
        )
        with pytest.raises(DataProblemError, match=told):
            build_dataset(table, DataSpec(target="label"))
