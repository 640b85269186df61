"""Blocks that change what a network is made of: normalization, stochasticDepth, dropout of channels."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch import nn

from espalier_api.engines import Architecture
from espalier_trainer.engines.torch import architectures, evaluator
from espalier_trainer.engines.torch.architectures.mlp import Mlp
from espalier_trainer.engines.torch.layers import Layer, residual_names
from espalier_trainer.engines.torch.tensors import steps_per_epoch
from espalier_trainer.errors import InvalidConfigError, PreemptedError
from espalier_trainer.regularizers.dropout import ChannelDropout
from espalier_trainer.regularizers.normalization import RmsNorm, groups_of, norm_for
from espalier_trainer.regularizers.stochastic_depth import dropped
from espalier_trainer.schedule import Coefficient
from tests.unit.trainer.problems import Problem, blocks, classification, context, solve
from tests.unit.trainer.test_trainer_architectures import differs
from tests.unit.trainer.test_trainer_resume import Interrupted

if TYPE_CHECKING:
    from tests.conftest import Prove

KINDS = ("batch", "layer", "group", "rms")
NORMS: dict[str, nn.Module] = {
    "batch": nn.BatchNorm1d(12),
    "layer": nn.LayerNorm(12),
    "group": nn.GroupNorm(3, 12),
    "rms": nn.RMSNorm(12, eps=1e-5),
}
PICTURES: dict[str, Any] = {
    "cnn": {"cnn": {"image": [1, 6, 6], "channels": [4, 8], "hidden": [8]}},
    "resnet": {"resnet": {"image": [1, 6, 6], "blocks": [2, 2], "width": 4}},
    "tabularTransformer": {"tabularTransformer": {"dim": 8, "depth": 2, "heads": 2}},
}


def network(name: str, features: int, outputs: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return architectures.build(Architecture.model_validate(PICTURES[name]), features, outputs).double()


def operated(model: nn.Module, declared: dict[str, Any]) -> nn.Module:
    """The model after the surgery of the declared blocks."""
    for block in blocks(declared):
        block.surgery(model, Coefficient(block.strength(), None, torch.zeros((), dtype=torch.float64)))
    return model


def pictures(rows: int = 61) -> Problem:
    """Random pixels; the class is where the light is."""
    torch.manual_seed(1)
    y = torch.randint(0, 3, (rows,))
    x = torch.randn(rows, 6, 6, dtype=torch.float64)
    x[torch.arange(rows), 2 * y] += 1.0
    return Problem(x.flatten(1).numpy(), y.numpy(), 3)


# --- normalization ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_a_fit_is_that_of_torchs_own_layers(kind: str, proof: Prove) -> None:
    """Twenty full-batch steps of a network of torch's modules, beside ours."""
    problem = classification(80)
    torch.manual_seed(0)
    start = Mlp(5, [12], 3).double()
    oracle = nn.Sequential(nn.Linear(5, 12), NORMS[kind], nn.ReLU(), nn.Linear(12, 3)).double()
    oracle[0].load_state_dict(start.hidden[0].linear.state_dict())
    oracle[3].load_state_dict(start.head.state_dict())
    fit = solve(problem, {"normalization": {"kind": kind, "groups": 3}}, rate=0.2, steps=20, model=start)
    x, y = torch.tensor(problem.x), torch.tensor(problem.y)
    optimizer = torch.optim.SGD(oracle.parameters(), lr=0.2)
    for _ in range(20):
        optimizer.zero_grad()
        nn.functional.cross_entropy(oracle(x), y).backward()
        optimizer.step()
    pairs = zip(fit.parameters.values(), oracle.parameters(), strict=True)
    worst = max(float((a - b).detach().abs().max()) for a, b in pairs)
    worst = max(worst, float((fit.scores(x) - oracle.eval()(x).detach()).abs().max()))
    proof("normalization", f"torch's own layers, kind {kind}: weights and scores after 20 steps", worst, at_most=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_convolutions_are_normalized_over_what_the_kind_says(kind: str) -> None:
    norm = norm_for(nn.Conv2d(3, 8, 3), kind, 4).double()
    x = 3 * torch.randn(6, 8, 5, 4, dtype=torch.float64) + 2
    out = norm(x)
    over = {"batch": (0, 2, 3), "layer": (1, 2, 3), "group": (2, 3, 4), "rms": (1, 2, 3)}[kind]
    shaped = out.reshape(6, 4, 2, 5, 4) if kind == "group" else out
    assert torch.allclose(shaped.square().mean(over), torch.ones((), dtype=torch.float64), atol=1e-4)
    if kind != "rms":
        assert shaped.mean(over).abs().max() < 1e-12


def test_rms_is_torchs_formula(proof: Prove) -> None:
    x = torch.randn(6, 8, 5, 4, dtype=torch.float64)
    picture = RmsNorm(8, pictures=True).double()
    nn.init.normal_(picture.weight)
    oracle = nn.functional.rms_norm(x, (8, 5, 4), picture.weight.expand(8, 5, 4), eps=1e-5)
    proof(
        "normalization",
        "torch rms_norm over channels, height and width",
        float((picture(x) - oracle).detach().abs().max()),
        at_most=1e-12,
    )


def test_batch_statistics_are_for_training_only() -> None:
    problem = classification(80)
    torch.manual_seed(0)
    fit = solve(problem, {"normalization": {"kind": "batch"}}, rate=0.1, steps=10, model=Mlp(5, [12], 3).double())
    x = torch.tensor(problem.x)[:20]
    whole = fit.scores(x)
    one_by_one = torch.cat([fit.scores(row[None]) for row in x])
    assert torch.allclose(whole, one_by_one, atol=1e-12)
    fit.model.train()
    assert not torch.allclose(fit.model(x), whole, atol=1e-3)


@pytest.mark.parametrize("kind", ["ema", "swa"])
def test_averaged_weights_get_their_own_statistics(kind: str, proof: Prove) -> None:
    """R26: what is shipped has the statistics that torch's update_bn measures with the shipped weights."""
    problem = classification(90)
    torch.manual_seed(0)
    declared = {"normalization": {"kind": "batch"}, "weightAveraging": {"kind": kind, "decay": 0.9}}
    fit = solve(problem, declared, rate=0.3, steps=60, batch=30, model=Mlp(5, [12, 8], 3).double())
    shipped = {name: buffer.clone() for name, buffer in fit.model.named_buffers()}
    torch.optim.swa_utils.update_bn([torch.tensor(problem.x)], fit.model)
    worst = max(
        float((buffer.double() - shipped[name].double()).abs().max()) for name, buffer in fit.model.named_buffers()
    )
    proof("R26", f"torch update_bn, {kind}: running statistics", worst, at_most=1e-12)


def test_statistics_of_many_rows_are_those_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A number of rows that leaves one over does not raise, and the means are exact."""
    monkeypatch.setattr(evaluator, "EVAL_ROWS", 10)
    model = operated(Mlp(5, [12], 3).double(), {"normalization": {"kind": "batch"}})
    x = torch.tensor(classification(81).x)
    found = evaluator.batch_statistics(model, evaluator.state_of(model), x)
    inner = model.hidden[0].linear(x)
    assert torch.allclose(found["hidden.0.norm.running_mean"], inner.mean(0), atol=1e-12)
    assert not model.hidden[0].norm.running_mean.any()


def test_a_tail_of_one_row_joins_the_batch_before_it() -> None:
    assert [steps_per_epoch(n, 20) for n in (1, 20, 21, 22, 40, 41, 42)] == [1, 1, 1, 2, 2, 2, 3]
    torch.manual_seed(0)
    fit = solve(
        classification(61),
        {"normalization": {"kind": "batch"}},
        rate=0.1,
        steps=9,
        batch=20,
        model=Mlp(5, [8], 3).double(),
    )
    assert (fit.steps_per_epoch, fit.report.steps) == (3, 9)
    assert int(fit.model.hidden[0].norm.num_batches_tracked) == 9


def test_batches_of_one_row_are_refused() -> None:
    with pytest.raises(InvalidConfigError, match=r"R15: regularizers\.normalization\.kind"):
        blocks({"normalization": {"kind": "batch"}})[0].plan(context(classification(9), batch_size=1))


def test_privacy_gets_groups_in_place_of_batches() -> None:
    block = blocks({"normalization": {"kind": "batch"}})[0]
    block.plan(context(classification(9), batch_size=9, declared=frozenset({"privacy", "normalization"})))
    model = Mlp(5, [12], 3)
    block.surgery(model, Coefficient(1.0, None, torch.zeros(())))
    assert block.notes() == {"kind": "group", "groups": {"hidden.0": 3}}


def test_groups_are_never_of_single_units() -> None:
    assert [groups_of(units, 32, 4) for units in (256, 64, 12, 6, 17, 2)] == [32, 16, 3, 1, 1, 1]


def test_only_targets_get_a_norm_and_double_norms_are_refused() -> None:
    model = operated(Mlp(5, [8, 8], 3), {"normalization": {"kind": "layer", "target": {"include": ["hidden.1"]}}})
    assert [list(dict(layer.named_children())) for layer in model.hidden] == [
        ["linear", "activation"],
        ["linear", "norm", "activation"],
    ]
    with pytest.raises(InvalidConfigError, match=r"hidden\.1 brings a norm of its own"):
        operated(model, {"normalization": {"kind": "rms", "target": {"include": ["hidden.1"]}}})
    series = nn.Sequential(OrderedDict(a=Layer(OrderedDict(conv=nn.Conv1d(1, 2, 3)))))
    with pytest.raises(InvalidConfigError, match="one dimension"):
        operated(series, {"normalization": {"kind": "rms"}})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", PICTURES)
def test_normalized_networks_are_exported(name: str, kind: str) -> None:
    problem = pictures()
    declared = {"normalization": {"kind": kind, "groups": 2}, "dropout": {"p": 0.1}}
    fit = solve(problem, declared, kind="adam", rate=0.01, steps=6, batch=30, model=network(name, 36))
    assert differs(fit.model.float(), torch.randn(17, 36)) < 1e-5


# --- stochasticDepth ----------------------------------------------------------------------------------------------------
def deep(depth: int = 6) -> nn.Module:
    torch.manual_seed(0)
    return Mlp(8, [8] * depth, 3, residual=True).double()


@pytest.mark.parametrize("decay", ["linear", "uniform"])
def test_blocks_survive_as_often_as_they_should(decay: str, proof: Prove) -> None:
    """Rows that leave a block as they came, counted in forward passes; the binomial says how likely such a count is."""
    model = operated(deep(), {"stochasticDepth": {"p": 0.6, "decay": decay}}).train()
    rows = 20_000
    x = torch.rand(rows, 8, dtype=torch.float64) + 1.0
    least = 1.0
    for index, layer in enumerate(model.hidden):
        with torch.no_grad():
            skipped = int((layer(x) == x).all(1).sum())
        dead = int(((layer.eval()(x) - x) == 0).all(1).sum())
        assert dead == 0
        p = 0.6 if decay == "uniform" else 0.6 * index / 5
        least = min(least, 2 * min(binom.cdf(skipped, rows, p), binom.sf(skipped - 1, rows, p)))
    proof(
        "stochasticDepth",
        f"binomial, decay {decay}: smallest p-value of a block's count of 20,000",
        least,
        at_least=1e-3,
    )


def test_a_batch_is_skipped_as_one() -> None:
    torch.manual_seed(0)
    branch = torch.ones(50, 3, 2, 2)
    seen = {float(dropped(branch, 0.5, "batch").unique()) for _ in range(30)}
    assert seen == {0.0, 2.0}
    assert set(dropped(branch, 0.5, "row").flatten(1).unique(dim=0).unique().tolist()) == {0.0, 2.0}


@pytest.mark.parametrize("name", ["mlp", "resnet", "tabularTransformer"])
def test_probability_one_leaves_the_shortcut_and_evaluation_the_whole(name: str) -> None:
    model, plain = ((deep() if name == "mlp" else network(name, 36)) for _ in range(2))
    x = torch.randn(9, 8 if name == "mlp" else 36, dtype=torch.float64)
    operated(model, {"stochasticDepth": {"p": 0.8}})
    assert torch.equal(model.eval()(x), plain.eval()(x))
    block = model.get_submodule(residual_names(model)[1]).train()
    block.drop = lambda branch: dropped(branch, 1.0, "row")
    inner = torch.rand(9, 8, dtype=torch.float64) if name == "mlp" else torch.rand(9, 4, 6, 6, dtype=torch.float64)
    inner = torch.rand(9, 5, 8, dtype=torch.float64) if name == "tabularTransformer" else inner
    assert torch.equal(block(inner), inner)


def test_skipped_branches_take_part_in_the_step() -> None:
    """Processes that train together wait for every gradient, so none may be missing."""
    model = operated(deep(), {"stochasticDepth": {"p": 0.8, "decay": "uniform", "mode": "batch"}}).train()
    model(torch.randn(4, 8, dtype=torch.float64)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("model", [Mlp(8, [8, 8, 8], 3, residual=True), Mlp(8, [8] * 6, 3), network("cnn", 36)])
def test_shallow_networks_are_refused(model: nn.Module) -> None:
    with pytest.raises(InvalidConfigError, match=r"R25: the network has [03] residual blocks, and 4 are due"):
        operated(model, {"stochasticDepth": {}})


@pytest.mark.parametrize("name", ["stochasticDepth", "normalization"])
def test_resuming_ends_in_the_same_bits(name: str) -> None:
    """Statistics included, with a last batch of one row more than the others."""
    declared = {
        "stochasticDepth": {"stochasticDepth": {"p": 0.5, "schedule": {"kind": "linear"}}},
        "normalization": {"normalization": {"kind": "batch"}, "weightAveraging": {"decay": 0.9}},
    }[name]
    made = classification(61)
    problem = Problem(np.tile(made.x, 2)[:, :8], made.y, 3)

    def run(session: Interrupted) -> dict[str, torch.Tensor]:
        fit = solve(problem, declared, kind="adam", rate=0.02, steps=24, batch=20, model=deep(), session=session)  # type: ignore[arg-type]
        return {key: value.clone() for key, value in fit.model.state_dict().items()}

    straight = run(Interrupted(None))
    for after in (1, 7, 9):
        session = Interrupted(after)
        with pytest.raises(PreemptedError):
            run(session)
        resumed = run(Interrupted(None, session.saved))
        assert all(torch.equal(value, resumed[key]) for key, value in straight.items())


# --- dropout of whole channels ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(400, 6, 4, 3), (400, 5, 6)])
def test_channels_are_dropped_as_a_whole(shape: tuple[int, ...], proof: Prove) -> None:
    """torch's Dropout2d drops the same things: channels of a picture, units over all tokens."""
    module = ChannelDropout(Coefficient(0.3, None, torch.zeros(())), "channel").train()
    torch.manual_seed(0)
    out = module(torch.ones(shape))
    by_channel = out.flatten(2) if len(shape) == 4 else out.transpose(1, 2)
    assert torch.equal(by_channel, by_channel[..., :1].expand_as(by_channel))
    assert torch.allclose(by_channel.unique(), torch.tensor([0.0, 1 / 0.7]))
    lost = int((by_channel[..., 0] == 0).sum())
    likely = 2 * min(binom.cdf(lost, 2400, 0.3), binom.sf(lost - 1, 2400, 0.3))
    proof("dropout", "binomial, kind channel: p-value of the count of dropped channels", likely, at_least=1e-3)
    assert torch.equal(module.eval()(out), out)


def test_an_mlp_has_no_channels_to_drop() -> None:
    with pytest.raises(InvalidConfigError, match="kind: channel needs convolutions or tokens"):
        operated(Mlp(5, [8], 3), {"dropout": {"kind": "channel"}})
    operated(network("cnn", 36), {"dropout": {"kind": "channel"}})
