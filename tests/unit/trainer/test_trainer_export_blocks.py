"""What is exported answers as the trained network does, whatever surgery was done to it: onnxruntime is the oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from espalier_trainer.engines.torch.architectures.mlp import Mlp
from espalier_trainer.engines.torch.convert import append
from espalier_trainer.export.graph import Graph
from tests.unit.trainer import graphs
from tests.unit.trainer.problems import classification, solve

SURGERIES: dict[str, dict[str, Any]] = {
    "plain": {},
    "dropout": {"dropout": {"p": 0.3}},
    "noise": {"noiseInjection": {"site": "activation"}},
    "weightNoise": {"noiseInjection": {"site": "weight"}},
    "dropConnect": {"dropConnect": {"p": 0.3}},
    "factors": {"l1": {"method": "hadamard"}},
    "weightNorm": {"reparameterization": {"kind": "weightNorm"}},
    "orthogonal": {"reparameterization": {"kind": "orthogonal"}},
    "bound": {"spectralNorm": {"mode": "bound", "bound": 0.8}},
    "static": {"quantization": {}},
    "dynamic": {"quantization": {"mode": "dynamic", "perChannel": False}},
    "qat": {"quantization": {"mode": "qat", "bits": 5}, "spectralNorm": {"mode": "bound", "bound": 0.8}},
    "bottleneck": {"informationBottleneck": {"dim": 4}},
}


def answers(module: torch.nn.Module, x: torch.Tensor) -> np.ndarray[Any, Any]:
    """The module's graph, run by onnxruntime on x (rows, features) in float32."""
    graph = Graph()
    return graphs.run(graph, append(graph, module, "x"), "x", x.numpy())


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("name", SURGERIES)
def test_graphs_answer_as_the_network_does(name: str, residual: bool) -> None:
    torch.manual_seed(0)
    model = Mlp(5, [8, 8], 3, "gelu", residual=residual).double()
    fit = solve(classification(80), SURGERIES[name], kind="adam", rate=0.01, steps=30, batch=40, model=model)
    x = torch.randn(64, 5, dtype=torch.float64)
    assert np.abs(answers(fit.model, x) - fit.scores(x).numpy()).max() < 1e-5
