"""Pruning, scattered and in channels: counts by numpy, masks by torch's own pruning, the same answers from a smaller network."""

from __future__ import annotations

import statistics
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from espalier_api.engines import Architecture
from espalier_trainer.engines.torch import architectures
from espalier_trainer.engines.torch.architectures.mlp import Mlp
from espalier_trainer.engines.torch.convert import append
from espalier_trainer.errors import InvalidConfigError, PreemptedError
from espalier_trainer.export.graph import Graph, scores_graph
from espalier_trainer.regularizers.pruning import ramp, smallest, two_of_four
from espalier_trainer.regularizers.structured_pruning import StructuredPruning, lamp, magnitude, survivors
from tests.unit.trainer.problems import blocks, classification, context, solve
from tests.unit.trainer.test_trainer_architectures import differs
from tests.unit.trainer.test_trainer_network_blocks import network, pictures
from tests.unit.trainer.test_trainer_resume import Interrupted

if TYPE_CHECKING:
    from espalier_trainer.engines.torch.loop import Fit
    from tests.conftest import Prove

PLAIN = {"sparsity": 0.7, "fineTuneEpochs": 4}


def fitted(declared: dict[str, Any], model: nn.Module | None = None, **more: Any) -> Fit:
    torch.manual_seed(0)
    made = model or Mlp(5, [12, 8], 3).double()
    settings = {"kind": "adam", "rate": 0.02, "steps": 36, "batch": 30, **more}
    return solve(classification(90), declared, model=made, validation=classification(60, seed=2), **settings)


def zeros(fit: Fit) -> tuple[int, int]:
    """(zeros, weights) of all matrices and kernels, by numpy."""
    arrays = [p.detach().numpy() for name, p in fit.parameters.items() if name.endswith("weight") and p.dim() > 1]
    return sum(int(np.count_nonzero(a == 0)) for a in arrays), sum(a.size for a in arrays)


# --- scattered ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("schedule", ["cubic", "linear", "oneShot"])
@pytest.mark.parametrize(
    "beside", [{}, {"weightAveraging": {"decay": 0.9}}, {"earlyStopping": {"patience": 2}}, {"weightDecay": {}}]
)
def test_exactly_the_share_of_weights_is_zero(schedule: str, beside: dict[str, Any], proof: Prove) -> None:
    """R23: averages are masked, too. Early stopping waits until the ramp is over."""
    fit = fitted({"pruning": {**PLAIN, "schedule": schedule}, **beside})
    found, count = zeros(fit)
    proof("pruning", "numpy's count of zeros: distance from round(s n)", abs(found - round(0.7 * count)), at_most=0)
    notes = next(block for block in fit.blocks if block.name == "pruning").notes()
    assert (notes["zeros"], notes["weights"]) == (found, count)
    assert fit.report.epochs >= 8


def test_masks_are_torchs_global_magnitude_pruning(proof: Prove) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 30), nn.Conv2d(4, 6, 3))
    weights = [layer.weight.detach().clone() for layer in model]
    ours = smallest(weights, 400)
    prune.global_unstructured([(layer, "weight") for layer in model], prune.L1Unstructured, amount=400)
    unlike = sum(int((mask != layer.weight_mask.bool()).sum()) for mask, layer in zip(ours, model, strict=True))
    proof("pruning", "torch.nn.utils.prune.global_unstructured: masks that differ", unlike, at_most=0)


def test_ramps_are_their_formulas() -> None:
    assert [ramp("cubic", t) for t in (0.0, 0.5, 1.0)] == [0.0, 0.875, 1.0]
    assert [ramp("linear", t) for t in (0.0, 0.5, 1.0)] == [0.0, 0.5, 1.0]
    assert [ramp("oneShot", t) for t in (0.0, 0.99, 1.0)] == [0.0, 0.0, 1.0]


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_two_of_every_four(name: str, proof: Prove) -> None:
    problem = classification(90) if name == "mlp" else pictures(60)
    torch.manual_seed(0)
    model = Mlp(5, [12, 8], 3).double() if name == "mlp" else network("cnn", 36)
    target = {
        "include": ["*weight"],
        "exclude": ["hidden.0.linear.weight"] if name == "mlp" else ["stages.0.conv.weight"],
    }
    declared = {"pruning": {"pattern": "2:4", "fineTuneEpochs": 2, "target": target}, "weightAveraging": {"decay": 0.9}}
    fit = solve(problem, declared, kind="adam", rate=0.02, steps=24, batch=30, model=model)
    worst = 0
    for key, weight in fit.parameters.items():
        if key.endswith("weight") and key not in target["exclude"]:
            array = np.moveaxis(weight.detach().numpy(), 1, -1).reshape(-1, 4)
            worst = max(worst, int(np.abs(np.count_nonzero(array, axis=1) - 2).max()))
    proof("pruning", f"groups of four inputs in a {name}: distance from two zeros", worst, at_most=0)
    assert (
        np.count_nonzero(fit.parameters[target["exclude"][0]].detach().numpy())
        == fit.parameters[target["exclude"][0]].numel()
    )


def test_two_of_four_keeps_the_larger_ones() -> None:
    weight = torch.tensor([[1.0, -4.0, 3.0, 2.0, 0.1, 0.2, 0.4, 0.3]])
    assert two_of_four([weight], 1.0)[0].int().tolist() == [[0, 1, 1, 0, 0, 0, 1, 1]]
    assert two_of_four([weight], 0.5)[0].int().tolist() == [[1, 1, 1, 1, 0, 0, 1, 1]]


@pytest.mark.parametrize(
    "declared, said",
    [
        ({"fineTuneEpochs": 5}, r"fineTuneEpochs: 5 of 5 epochs leave none"),
        ({"pattern": "2:4", "fineTuneEpochs": 1}, r"2:4 needs inputs in fours, and hidden\.0\.linear\.weight has 5"),
    ],
)
def test_what_cannot_be_pruned_is_refused(declared: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidConfigError, match=said):
        fitted({"pruning": declared}, steps=15)


COMPUTED = {
    "bound": {"spectralNorm": {"mode": "bound", "bound": 0.8}},
    "weightNorm": {"reparameterization": {"kind": "weightNorm"}},
    "factors": {"l1": {"strength": 1e-4, "method": "hadamard"}},
    "dropConnect": {"dropConnect": {"p": 0.2}},
    "noise": {"noiseInjection": {"site": "weight", "std": 0.1}},
}


@pytest.mark.parametrize("name", COMPUTED)
def test_weights_that_are_computed_anew_are_masked_afterwards(name: str, proof: Prove) -> None:
    """R16. The bound holds for what is shipped."""
    fit = fitted({"pruning": PLAIN, **COMPUTED[name]})
    found, count = zeros(fit)
    proof(
        "R16",
        f"numpy's count of zeros beside {name}: distance from round(s n)",
        abs(found - round(0.7 * count)),
        at_most=0,
    )
    if name == "bound":
        sigmas = [
            np.linalg.svd(p.detach().numpy(), compute_uv=False)[0]
            for key, p in fit.parameters.items()
            if key.endswith("weight")
        ]
        assert max(sigmas) <= 0.8 + 1e-9


def test_zeros_survive_the_export() -> None:
    fit = fitted({"pruning": PLAIN})
    assert differs(fit.model.float(), torch.randn(20, 5)) < 1e-5


# --- channels -----------------------------------------------------------------------------------------------------------
def structured(name: str, **more: Any) -> Fit:
    declared = {"structuredPruning": {"ratio": 0.4, "fineTuneEpochs": 2}, "normalization": {"kind": "batch"}, **more}
    torch.manual_seed(0)
    model = Mlp(36, [16, 12], 3, "gelu").double() if name == "mlp" else network(name, 36)
    return solve(pictures(60), declared, kind="adam", rate=0.01, steps=16, batch=20, model=model)


def notes(fit: Fit) -> dict[str, Any]:
    return next(block for block in fit.blocks if block.name == "structuredPruning").notes()


@pytest.mark.parametrize("beside", ["plain", "average", "code", "dropConnect"])
@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet"])
def test_the_smaller_network_answers_as_the_masked_one(
    name: str, beside: str, monkeypatch: pytest.MonkeyPatch, proof: Prove
) -> None:
    """The same fit, once with its masks only, once shrunk."""
    more: dict[str, Any] = {
        "plain": {},
        "average": {"weightAveraging": {"decay": 0.9}},
        "code": {"informationBottleneck": {"dim": 4}},
        "dropConnect": {"dropConnect": {"p": 0.1}},
    }[beside]
    small = structured(name, **more)
    monkeypatch.setattr(StructuredPruning, "finish", lambda *_: None)
    masked = structured(name, **more)
    x = torch.randn(50, 36, dtype=torch.float64)
    proof(
        "structuredPruning",
        f"masked {name}: largest difference of a score",
        float((small.scores(x) - masked.scores(x)).abs().max()),
        at_most=1e-10,
    )
    told = notes(small)
    total = {"mlp": 28, "cnn": 20, "resnet": 24}[name]
    assert told["channelsRemoved"] == round(0.4 * total)
    assert told["parametersAfter"] == sum(p.numel() for p in small.model.parameters()) < told["parametersBefore"]
    assert told["flopsAfter"] < told["flopsBefore"]
    assert differs(small.model.float(), x.float()) < 1e-5


@pytest.mark.parametrize("importance", ["magnitude", "taylor", "lamp"])
def test_every_importance_cuts_its_share_and_resumes(importance: str) -> None:
    declared = {"structuredPruning": {"ratio": 0.5, "fineTuneEpochs": 3, "importance": importance}, "pruning": PLAIN}
    straight = fitted(declared)
    assert notes(straight)["channelsRemoved"] == 10
    for after in (2, 25, 29):
        session = Interrupted(after)
        with pytest.raises(PreemptedError):
            fitted(declared, session=session)
        resumed = fitted(declared, session=Interrupted(None, session.saved))
        assert all(torch.equal(p, resumed.parameters[key]) for key, p in straight.parameters.items())


def test_scores_are_their_formulas() -> None:
    weight = torch.tensor([[3.0, 4.0], [0.0, 1.0], [0.0, 2.0]])
    assert torch.allclose(magnitude(weight), torch.tensor([15.0, 3.0, 6.0]) / 8)
    assert torch.allclose(lamp(weight), torch.tensor([1.0, 1 / 30, 4 / 29]))
    kept = survivors([torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.01, 5.0])], 0.6)
    assert [mask.tolist() for mask in kept] == [[False, False, True], [False, True]]


def test_taylor_finds_the_channels_that_do_not_matter() -> None:
    """Half of the units feed nothing: their gradient is zero whatever their weights are."""
    torch.manual_seed(0)
    model = Mlp(5, [12], 3).double()
    with torch.no_grad():
        model.head.weight[:, ::2] = 0.0
        model.hidden[0].linear.weight[::2] *= 50.0
    declared = {"structuredPruning": {"ratio": 0.5, "fineTuneEpochs": 1, "importance": "taylor"}}
    fit = solve(classification(90), declared, rate=1e-9, steps=2, model=model)
    assert fit.parameters["head.weight"].detach().abs().min() > 0
    assert fit.parameters["hidden.0.linear.weight"].shape == (6, 5)


@pytest.mark.parametrize(
    "model, declared, said",
    [
        (Mlp(5, [5, 5], 3, residual=True), {}, "no channels that one layer alone reads"),
        (network("tabularTransformer", 5), {}, "no channels that one layer alone reads"),
        (
            Mlp(5, [8, 8], 3),
            {"normalization": {"kind": "layer"}},
            r"hidden\.0 is normalized over its channels \(LayerNorm\)",
        ),
    ],
)
def test_networks_without_channels_of_their_own_are_refused(
    model: nn.Module, declared: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidConfigError, match=said):
        fitted({"structuredPruning": {"fineTuneEpochs": 1}, **declared}, model.double())


def test_only_targets_lose_channels() -> None:
    fit = fitted({"structuredPruning": {"ratio": 0.5, "fineTuneEpochs": 1, "target": {"include": ["hidden.1"]}}})
    assert [layer.linear.out_features for layer in fit.model.hidden] == [12, 4]


def append_network(model: nn.Module, graph: Graph, x: str) -> str:
    return append(graph, model, x)


def test_the_exported_file_is_smaller_and_faster(proof: Prove) -> None:
    """Three quarters of the channels of a wide network: a sixteenth of the work. onnxruntime runs both files, in turns."""
    sessions, sizes = [], []
    for ratio in (0.0, 0.75):
        torch.manual_seed(0)
        model = architectures.build(Architecture.model_validate({"mlp": {"hidden": [512, 512, 512]}}), 5, 3).double()
        fit = fitted({"structuredPruning": {"ratio": ratio, "fineTuneEpochs": 1}}, model, steps=6, batch=90)
        data = scores_graph(partial(append_network, fit.model.float()), 5, 3)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        sessions.append(onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"]))
        sizes.append(len(data))
    x, taken = np.zeros((64, 5), dtype=np.float32), ([], [])
    for _ in range(40):
        for session, times in zip(sessions, taken, strict=True):
            start = time.perf_counter()
            session.run(None, {session.get_inputs()[0].name: x})
            times.append(time.perf_counter() - start)
    proof(
        "structuredPruning",
        "onnxruntime, 3/4 of 512-wide layers gone: time of a call over the dense one's",
        statistics.median(taken[1]) / statistics.median(taken[0]),
        at_most=0.6,
    )
    proof("structuredPruning", "bytes of the ONNX file over the dense one's", sizes[1] / sizes[0], at_most=0.1)


def test_the_cut_needs_an_epoch_before_it() -> None:
    with pytest.raises(InvalidConfigError, match="epochs leave none before the cut"):
        blocks({"structuredPruning": {}})[0].plan(context(classification(9), epochs=10))
