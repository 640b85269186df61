"""Rounding beside torch's own fake quantization, onnxruntime's quantizer and onnxruntime itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.utils import parametrize

from espalier_api.regularizers import Regularizers
from espalier_trainer.engines.torch import rounding
from espalier_trainer.engines.torch.architectures.mlp import Mlp
from espalier_trainer.engines.torch.convert import append
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.export.graph import scores_graph
from espalier_trainer.protocol import lookup
from tests.unit.trainer import problems
from tests.unit.trainer.problems import Problem, classification, context, solve
from tests.unit.trainer.test_trainer_export_blocks import answers

if TYPE_CHECKING:
    from pathlib import Path

    from espalier_trainer.engines.torch.loop import Fit
    from tests.conftest import Prove

BITS = (2, 3, 4, 5, 6, 7, 8)


@pytest.fixture
def single(monkeypatch: pytest.MonkeyPatch) -> None:
    """Problems in float32, as they are trained and served."""
    real = problems.tensors

    def tensors(x: Any, y: Any, weight: Any = None) -> Any:
        made = real(x, y, weight)
        made.x = made.x.float()
        return made

    monkeypatch.setattr(problems, "tensors", tensors)


def network(
    features: int = 5, hidden: tuple[int, ...] = (64, 64), classes: int = 3, activation: str = "relu"
) -> nn.Module:
    torch.manual_seed(0)
    return Mlp(features, list(hidden), classes, activation)


def trained(declared: dict[str, Any], **changes: Any) -> Fit:
    settings: dict[str, Any] = {"kind": "adam", "rate": 0.01, "steps": 60, "batch": 50, "model": network(), **changes}
    return solve(classification(300), declared, **settings)


# --- formulas -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("bits", BITS)
def test_weights_are_rounded_as_torch_does_and_move_by_half_a_step(bits: int, per_channel: bool, proof: Prove) -> None:
    weight = torch.randn(12, 33, generator=torch.Generator().manual_seed(bits))
    scale = rounding.weight_scale(weight, bits, per_channel=per_channel)
    least, most = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    if per_channel:
        zero = torch.zeros(12, dtype=torch.int32)
        known = torch.fake_quantize_per_channel_affine(weight, scale.flatten(), zero, 0, least, most)
    else:
        known = torch.fake_quantize_per_tensor_affine(weight, float(scale), 0, least, most)
    ours = rounding.weight_steps(weight, scale, bits) * scale
    proof("quantization", "torch.fake_quantize: rounded weights", float((ours - known).abs().max()), at_most=1e-6)
    moved = float(((ours - weight).abs() / scale).max())
    proof("quantization", "closed form: |w - q s| <= s/2, in steps", moved, at_most=0.5 + 1e-5)
    assert float((weight.abs() / scale).max()) <= most + 1e-5  # nothing was clipped


def test_gradients_go_straight_through_a_weight() -> None:
    weight = torch.randn(4, 6, requires_grad=True)
    module = rounding.RoundedWeight(3, per_channel=True)
    module.active = True
    slope = torch.randn(4, 6)
    (module(weight) * slope).sum().backward()
    assert torch.equal(weight.grad, slope)  # type: ignore[arg-type]


def test_inputs_and_their_gradients_are_those_of_torch(proof: Prove) -> None:
    x = torch.randn(400, generator=torch.Generator().manual_seed(1))
    known = rounding.range_of(torch.tensor(-1.1), torch.tensor(1.7))
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    one = rounding.rounded_input(ours, known)
    other = torch.fake_quantize_per_tensor_affine(theirs, float(known.scale), int(known.zero), 0, 255)
    one.sum().backward()
    other.sum().backward()
    proof(
        "quantization", "torch.fake_quantize: rounded inputs", float((one - other).detach().abs().max()), at_most=1e-6
    )
    assert torch.equal(ours.grad, theirs.grad)  # type: ignore[arg-type]
    assert 0 < float(ours.grad.mean()) < 1  # type: ignore[union-attr]


@pytest.mark.parametrize("low,high", [(0.5, 2.0), (-2.0, -0.5), (0.0, 0.0), (-1.0, 3.0)])
def test_zero_is_always_a_step(low: float, high: float) -> None:
    known = rounding.range_of(torch.tensor(low), torch.tensor(high))
    assert float(rounding.rounded_input(torch.zeros(1), known)) == 0.0


# --- what is served -----------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("single")
@pytest.mark.parametrize("mode", ["static", "dynamic", "qat"])
@pytest.mark.parametrize("bits", [4, 8])
def test_onnxruntime_answers_exactly_as_the_network(mode: str, bits: int, proof: Prove) -> None:
    fit = trained({"quantization": {"mode": mode, "bits": bits}})
    x = torch.randn(2048, 5, generator=torch.Generator().manual_seed(2))
    served = answers(fit.model, x)
    proof("quantization", "onnxruntime: scores", float(np.abs(served - fit.scores(x).numpy()).max()), at_most=1e-6)
    alone = np.concatenate([answers(fit.model, x[i : i + 1]) for i in range(8)])
    assert np.abs(alone - served[:8]).max() <= 1e-6  # whoever else is in the request
    assert max(fit_notes(fit)["weightErrorInSteps"], 0.0) <= 0.5 + 1e-5


def fit_notes(fit: Fit) -> dict[str, Any]:
    (block,) = (b for b in fit.blocks if b.name == "quantization")
    return block.notes()


@pytest.mark.usefixtures("single")
def test_the_simulation_is_what_is_served(proof: Prove) -> None:
    """With gradients on, the layers compute in floats; that is what qat trains with."""
    fit = trained({"quantization": {"mode": "qat"}})
    x = torch.randn(500, 5, generator=torch.Generator().manual_seed(3)).requires_grad_()
    simulated = fit.model(x).detach().numpy()
    difference = float(np.abs(simulated - answers(fit.model, x.detach())).max())
    proof("quantization", "onnxruntime: scores of the simulated rounding", difference, at_most=1e-5)


@pytest.mark.parametrize("mode", ["static", "dynamic"])
@pytest.mark.parametrize("kind", ["conv1d", "conv2d"])
def test_convolutions_in_integers(kind: str, mode: str, proof: Prove) -> None:
    torch.manual_seed(0)
    shape = (3, 8) if kind == "conv1d" else (2, 6, 6)
    conv: Any = nn.Conv1d(3, 5, 3, stride=2, padding=1) if kind == "conv1d" else nn.Conv2d(2, 4, 3, padding=1, groups=2)
    layer = rounding.Rounded(conv, 8, per_channel=True)
    x = torch.randn(40, *shape)
    if mode == "static":
        layer.known = rounding.range_of(x.amin(), x.amax())
    model = nn.Sequential(nn.Unflatten(1, shape), layer)
    with torch.no_grad():
        ours, plain = model(x.flatten(1)).numpy(), conv(x).detach().numpy()
    difference = float(np.abs(answers(model, x.flatten(1)) - ours).max())
    proof("quantization", f"onnxruntime: {kind}", difference, at_most=1e-6)
    assert 0 < np.abs(ours - plain).max() < 0.05


class Rows(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
    def __init__(self, x: np.ndarray[Any, Any]) -> None:
        self.left = [x]

    def get_next(self) -> dict[str, Any] | None:
        return {"input": self.left.pop()} if self.left else None


@pytest.mark.usefixtures("single")
def test_static_ranges_and_steps_are_those_of_onnxruntimes_quantizer(tmp_path: Path, proof: Prove) -> None:
    """The last layer is named, so that both round everything; onnxruntime measures ranges before it rounds weights."""
    fit = trained({"quantization": {"target": {"include": ["*"]}, "calibrationSamples": 128}})
    layers = rounding.installed(fit.model)
    assert list(layers) == ["hidden.0.linear", "hidden.1.linear", "head"]
    plain = network()
    plain.load_state_dict(fit.model.state_dict())
    (tmp_path / "float.onnx").write_bytes(scores_graph(lambda g, x: append(g, plain, x), 5, 3))
    rows = fit.train.x[torch.linspace(0, 299, 128).long()].numpy()
    quantize_static(
        tmp_path / "float.onnx", tmp_path / "int8.onnx", Rows(rows), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    theirs = {i.name: numpy_helper.to_array(i) for i in onnx.load(tmp_path / "int8.onnx").graph.initializer}
    scales = sorted(
        (n for n in theirs if n.startswith("weight") and n.endswith("_scale")), key=lambda n: int(n.split("_")[1])
    )
    assert len(scales) == 3
    worst = max(
        float(np.abs(theirs[name] / layer.scale.flatten().numpy() - 1).max())
        for name, layer in zip(scales, layers.values(), strict=True)
    )
    proof("quantization", "onnxruntime quantize_static: relative difference of weight steps", worst, at_most=1e-6)
    first = layers["hidden.0.linear"].known
    assert first is not None
    apart = abs(float(theirs["input_scale"]) / float(first.scale) - 1)
    proof("quantization", "onnxruntime quantize_static: relative difference of the input's step", apart, at_most=1e-6)
    x = torch.randn(3000, 5, generator=torch.Generator().manual_seed(4))
    session = onnxruntime.InferenceSession(tmp_path / "int8.onnx", providers=["CPUExecutionProvider"])
    same = (session.run(None, {"input": x.numpy()})[0].argmax(1) == fit.scores(x).numpy().argmax(1)).mean()
    proof("quantization", "onnxruntime quantize_static: share of equal labels", float(same), at_least=0.99)


# --- training -----------------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("single")
def test_two_bits_need_training(proof: Prove) -> None:
    """References: 74.7 % rounded afterwards, 96.0 % trained rounded. No fit is rounded to 2 bits afterwards by a user: R22 refuses."""
    x, y = load_digits(return_X_y=True)
    x = x / 16.0
    fits = {
        mode: solve(
            Problem(x[:1200], y[:1200], 10), {"quantization": {"mode": mode, "bits": 2}}, kind="adam", rate=0.003, steps=600, batch=120,
            model=network(64, (64, 64), 10),
        )
        for mode in ("static", "qat")
    }  # fmt: skip
    right = {
        mode: float((fit.scores(torch.tensor(x[1200:]).float()).numpy().argmax(1) == y[1200:]).mean())
        for mode, fit in fits.items()
    }
    proof("quantization", "digits, 2 bits: accuracy of qat", right["qat"], at_least=0.9)
    proof(
        "quantization",
        "digits, 2 bits: qat's lead over rounding afterwards",
        right["qat"] - right["static"],
        at_least=0.1,
    )


@pytest.mark.usefixtures("single")
def test_ranges_are_measured_anew_for_averaged_weights(proof: Prove) -> None:
    """R23: the second layer's range is that of what the first one answers with the averaged, rounded weights."""
    fit = trained({"quantization": {"mode": "qat"}, "weightAveraging": {"decay": 0.95}})
    average = next(b for b in fit.blocks if b.name == "weightAveraging").average  # type: ignore[attr-defined]
    layers = rounding.installed(fit.model)
    name = next(n for n in average if n.startswith("hidden.0.linear") and "weight" in n)
    assert torch.equal(layers["hidden.0.linear"].weight.detach(), average[name])
    weight = average[name].double().numpy()
    step = np.abs(weight).max(1, keepdims=True) / 127
    answer = fit.train.x.double().numpy() @ (np.round(weight / step) * step).T + average["hidden.0.linear.bias"].numpy()
    known = layers["hidden.1.linear"].known
    assert known is not None
    apart = abs(float(known.scale) * 255 / answer.max() - 1)
    proof("R23", "numpy: range of the averaged network's activations, relative difference", apart, at_most=1e-4)


def test_rounding_waits_for_its_step() -> None:
    """Before startEpoch the fit is the one without the block, to the bit."""
    plain = trained({}, steps=30, model=network().double())
    late = trained({"quantization": {"mode": "qat", "startEpoch": 0.999}}, steps=30, model=network().double())
    early = trained({"quantization": {"mode": "qat", "startEpoch": 0.0}}, steps=30, model=network().double())
    weights = [f.model.get_parameter("head.weight") for f in (plain, late, early)]
    assert (weights[0] - weights[1]).abs().max() < 2e-2  # one step of 30 was rounded
    assert not torch.equal(weights[0], weights[2])
    assert next(b for b in early.blocks if b.name == "quantization").ranges.keys() == {
        "hidden.0.linear",
        "hidden.1.linear",
    }  # type: ignore[attr-defined]


def test_rounding_is_outermost_whatever_came_after_it() -> None:
    """A mask that was put around a rounded weight goes below it, so that what rounding saw last is masked."""

    class Mask(nn.Module):
        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return weight * torch.tensor([0.0, 1.0, 1.0])

    layer, rounded = nn.Linear(3, 2), rounding.RoundedWeight(8, per_channel=True)
    parametrize.register_parametrization(layer, "weight", rounded)
    parametrize.register_parametrization(layer, "weight", Mask())
    rounding.outermost(layer, rounded)
    assert (layer.weight[:, 0] == 0).all()
    assert rounded.seen is not None
    assert (rounded.seen[:, 0] == 0).all()


# --- refusals -----------------------------------------------------------------------------------------------------------
def test_more_calibration_rows_than_there_are_is_refused() -> None:
    with pytest.raises(InvalidConfigError, match=r"R22: regularizers\.quantization\.calibrationSamples: 500 rows"):
        trained({"quantization": {"calibrationSamples": 500}})


def test_an_average_that_cannot_forget_is_refused() -> None:
    blocks = dict(
        Regularizers.model_validate({"quantization": {"mode": "qat"}, "weightAveraging": {"decay": 0.999}}).declared()
    )
    block = lookup("quantization")(blocks["quantization"])
    problem = classification()
    with pytest.raises(
        InvalidConfigError, match=r"R23: regularizers\.weightAveraging\.decay: the average looks back on 1000"
    ):
        block.plan(context(problem, blocks=blocks, epochs=10, steps_per_epoch=300))
    block.plan(context(problem, blocks=blocks, epochs=10, steps_per_epoch=400))


@pytest.mark.usefixtures("single")
def test_a_network_of_one_layer_has_nothing_to_round_unless_it_is_named() -> None:
    with pytest.raises(InvalidConfigError, match="selects no weight that can be rounded"):
        trained({"quantization": {}}, model=network(hidden=()))
    named = trained({"quantization": {"target": {"include": ["head.*"]}}}, model=network(hidden=()))
    assert fit_notes(named)["layers"] == ["head"]


def test_a_named_weight_that_has_no_integer_form_is_refused() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(5, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.inner(x)
            return out

    with pytest.raises(InvalidConfigError, match=r"target: inner\.weight cannot be rounded"):
        trained({"quantization": {"target": {"include": ["*"]}}}, model=Odd().double())
