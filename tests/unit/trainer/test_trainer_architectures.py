"""Networks: shapes, names, refusals at plan time, and graphs that answer as the network does (onnxruntime is the oracle)."""

from __future__ import annotations

import sys
import types
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from espalier_api.engines import Architecture
from espalier_trainer.engines.torch import architectures
from espalier_trainer.engines.torch.convert import append
from espalier_trainer.engines.torch.layers import layer_names, residual_names
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.export.graph import Graph, scores_graph

if TYPE_CHECKING:
    from collections.abc import Iterator

NETWORKS: dict[str, tuple[dict[str, Any], int]] = {
    "cnn": ({"cnn": {"image": [1, 8, 8], "channels": [4, 6], "hidden": [10]}}, 64),
    "cnn without hidden layers": ({"cnn": {"image": [3, 12, 10], "channels": [4, 6, 5], "hidden": []}}, 360),
    "cnn of even kernels": ({"cnn": {"image": [1, 9, 8], "channels": [4], "kernel": 4}}, 72),
    "cnn of a series": ({"cnn": {"image": [1, 1, 40], "channels": [4, 8], "kernel": 5}}, 40),
    "resnet": ({"resnet": {"image": [1, 8, 8], "blocks": [2, 2], "width": 4}}, 64),
    "resnet of odd edges": ({"resnet": {"image": [2, 11, 7], "blocks": [1, 2, 1], "width": 3}}, 154),
    "resnet of a series": ({"resnet": {"image": [2, 1, 30], "blocks": [1, 1], "width": 3}}, 60),
    "tabularTransformer": ({"tabularTransformer": {"dim": 12, "depth": 2, "heads": 3}}, 7),
    "one feature": ({"tabularTransformer": {"dim": 8, "depth": 1, "heads": 1}}, 1),
}


def build(architecture: dict[str, Any], features: int, outputs: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return architectures.build(Architecture.model_validate(architecture), features, outputs)


def answers(model: nn.Module, x: torch.Tensor, outputs: int) -> np.ndarray[Any, Any]:
    """Of the model's graph, by onnxruntime."""
    data = scores_graph(lambda graph, value: append(graph, model, value), x.shape[1], outputs)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: x.float().numpy()})[0])


def differs(model: nn.Module, x: torch.Tensor) -> float:
    """Largest difference between the network in evaluation mode and its graph."""
    with torch.no_grad():
        scores = model.eval()(x)
    return float(np.abs(answers(model, x, scores.shape[1]) - scores.numpy()).max())


@pytest.mark.parametrize("name", NETWORKS)
def test_graphs_of_networks_answer_as_they_do(name: str) -> None:
    declared, features = NETWORKS[name]
    model = build(declared, features)
    assert isinstance(model.head, nn.Linear)
    assert differs(model, torch.randn(33, features)) < 1e-5
    assert differs(model, torch.randn(1, features)) < 1e-5


def test_parts_have_the_names_that_blocks_rely_on() -> None:
    cnn, resnet, transformer = (build(*NETWORKS[name]) for name in ("cnn", "resnet", "tabularTransformer"))
    assert layer_names(cnn) == ["stages.0", "stages.1", "hidden.0"]
    assert residual_names(resnet) == ["stages.0.0", "stages.0.1", "stages.1.0", "stages.1.1"]
    assert layer_names(resnet)[:4] == ["stem", "stages.0.0.first", "stages.0.0.second", "stages.0.1.first"]
    assert residual_names(transformer) == [f"blocks.{i}.{part}" for i in range(2) for part in ("attend", "feed")]
    attention = transformer.get_submodule("blocks.1.attend.inner")
    assert attention.heads == 3
    assert isinstance(attention.out, nn.Linear)


def test_stages_halve_pictures_while_they_stay_above_two() -> None:
    cnn, resnet = build({"cnn": {"image": [1, 16, 8], "channels": [2, 3, 4]}}, 128), build(*NETWORKS["resnet"])
    x = torch.zeros(1, 1, 16, 8)
    assert [tuple((x := stage(x)).shape[1:]) for stage in cnn.stages] == [(2, 8, 4), (3, 4, 4), (4, 4, 4)]
    assert resnet.stages(torch.zeros(1, 4, 8, 8)).shape == (1, 8, 4, 4)


def test_attention_is_torchs_own() -> None:
    """The same weights in torch.nn.MultiheadAttention give the same output."""
    attention = build(*NETWORKS["tabularTransformer"]).get_submodule("blocks.0.attend.inner").double()
    oracle = nn.MultiheadAttention(12, 3, batch_first=True).double()
    with torch.no_grad():
        parts = (attention.query, attention.key, attention.value)
        oracle.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        oracle.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
        oracle.out_proj.load_state_dict(attention.out.state_dict())
    x = torch.randn(5, 8, 12, dtype=torch.float64)
    assert torch.allclose(attention(x), oracle(x, x, x, need_weights=False)[0], atol=1e-12)


@pytest.mark.parametrize("name", ["cnn", "resnet"])
def test_pictures_must_be_made_of_all_features(name: str) -> None:
    with pytest.raises(
        InvalidConfigError, match=rf"{name}\.image: 1 x 8 x 8 is 64 pixels, and the data has 60 features"
    ):
        build(NETWORKS[name][0], 60)


LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "Conv2d": (
        nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2, bias=False),
        (4, 9, 8),
    ),
    "same": (nn.Conv2d(2, 3, 3, padding="same", dilation=2), (2, 7, 6)),
    "valid": (nn.Conv2d(2, 3, 3, padding="valid"), (2, 7, 6)),
    "Conv1d": (nn.Conv1d(2, 3, 5, padding=2, stride=2), (2, 20)),
    "MaxPool2d": (nn.MaxPool2d(3, stride=2, padding=1), (2, 9, 8)),
    "ceil": (nn.MaxPool2d(2, ceil_mode=True), (2, 9, 7)),
    "AvgPool2d": (nn.AvgPool2d((2, 3), padding=(0, 1), count_include_pad=False), (2, 8, 9)),
    "AdaptiveAvgPool2d": (nn.AdaptiveAvgPool2d(1), (2, 8, 9)),
    "BatchNorm1d": (nn.BatchNorm1d(6), (6,)),
    "BatchNorm1d of series": (nn.BatchNorm1d(6), (6, 5)),
    "BatchNorm2d": (nn.BatchNorm2d(6, affine=False), (6, 5, 4)),
    "LayerNorm": (nn.LayerNorm(6), (5, 6)),
    "LayerNorm of two": (nn.LayerNorm((5, 6)), (5, 6)),
    "GroupNorm": (nn.GroupNorm(3, 6), (6, 5, 4)),
    "GroupNorm of rows": (nn.GroupNorm(2, 6), (6,)),
    "RMSNorm": (nn.RMSNorm(6, eps=1e-5), (5, 6)),
    "Softplus": (nn.Softplus(beta=2.0), (7,)),
    "LeakyReLU": (nn.LeakyReLU(0.2), (7,)),
    "ELU": (nn.ELU(), (7,)),
    "Dropout": (nn.Dropout(0.5), (7,)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_converters_answer_as_torch_does(name: str) -> None:
    torch.manual_seed(0)
    layer, shape = LAYERS[name]
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
        layer(torch.randn(16, *shape) * 3 + 1)
    features = int(np.prod(shape))
    model = nn.Sequential(nn.Unflatten(1, shape), layer, nn.Flatten())
    assert differs(model, torch.randn(9, features)) < 1e-5


def test_what_has_no_form_is_refused() -> None:
    for layer in (nn.Conv2d(1, 1, 3, padding_mode="reflect", padding=1), nn.GELU("tanh"), nn.Bilinear(1, 1, 1)):
        with pytest.raises(InvalidConfigError, match="ONNX form"):
            append(Graph(), layer, "x")


# --- a user's own -------------------------------------------------------------------------------------------------------
class Gated(nn.Module):
    """A forward of its own; `to_onnx` comes in a subclass."""

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.value, self.gate = nn.Linear(features, outputs), nn.Linear(features, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.value(x) * torch.sigmoid(self.gate(x))
        return found


class ExportedGated(Gated):
    def to_onnx(self, graph: Graph, x: str) -> str:
        gate = graph.add("Sigmoid", append(graph, self.gate, x))
        return graph.add("Mul", append(graph, self.value, x), gate)


class Doubling(nn.Linear):
    """Looks like a known layer and is none."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def _fails(features: int, outputs: int) -> nn.Module:
    raise RuntimeError("no such table")


@pytest.fixture(autouse=True)
def users() -> Iterator[None]:
    """A package that a user's image would have."""
    module = types.ModuleType("users_networks")
    vars(module).update(
        plain=lambda features, outputs: nn.Sequential(nn.Linear(features, 4), nn.Tanh(), nn.Linear(4, outputs)),
        gated=ExportedGated,
        unknown=lambda features, outputs: nn.Sequential(nn.ReLU(), nn.Sequential(Gated(features, outputs))),
        doubling=Doubling,
        fails=_fails,
        narrow=lambda features, _: nn.Linear(features, 1),
        blind=lambda _, outputs: nn.Linear(1, outputs),
        text=lambda *_: "a network",
        empty=lambda *_: nn.Identity(),
        number=3,
    )
    sys.modules["users_networks"] = module
    yield
    del sys.modules["users_networks"]


@pytest.mark.parametrize("name", ["plain", "gated"])
def test_a_users_network_is_built_and_exported(name: str) -> None:
    model = build({"custom": {"module": f"users_networks:{name}"}}, 5)
    assert differs(model, torch.randn(20, 5)) < 1e-5


@pytest.mark.parametrize(
    "path, said",
    [
        ("nowhere_at_all.nets:f", "the module nowhere_at_all.nets is not installed in this image"),
        ("users_networks:missing", "users_networks has no missing; name a function build"),
        ("users_networks:number", "has number, but it is a int and cannot be called"),
        ("users_networks:fails", "failed for 5 features and 3 outputs: RuntimeError: no such table"),
        ("users_networks:text", "returned a str; return a torch.nn.Module"),
        ("users_networks:empty", "without weights to train"),
        ("users_networks:narrow", r"answers \(4, 5\) with \(4, 1\); it must be \(4, 3\)"),
        ("users_networks:blind", r"the network failed on features of shape \(4, 5\)"),
        ("users_networks:unknown", r"no ONNX form is known for 1\.0 \(Gated\); use nn\.Sequential"),
        ("users_networks:doubling", "the network's graph answers differently"),
    ],
)
def test_a_users_network_is_refused_by_name(path: str, said: str) -> None:
    with pytest.raises(InvalidConfigError, match=said):
        build({"custom": {"module": path}}, 5)
