"""Torch modules to ONNX nodes, one converter per leaf module: no tracing, so it is the same in every torch version and takes
milliseconds. A module without a converter is refused, never approximated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from torch import nn

from espalier_trainer.errors import InvalidConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import numpy as np
    import numpy.typing as npt

    from espalier_trainer.export.graph import Graph


def append(graph: Graph, module: nn.Module, x: str) -> str:
    """Append the evaluation-mode computation of `module` on value `x`; return the output's name.

    A module's own `to_onnx(graph, x)` comes first, then the identity, then containers, then the table below.
    """
    own = getattr(module, "to_onnx", None)
    if own is not None:
        return str(own(graph, x))
    if getattr(module, "identity_in_evaluation", False):
        return x
    if isinstance(module, nn.Sequential):
        return append_all(graph, module.children(), x)
    for kind, convert in CONVERTERS.items():
        if isinstance(module, kind):
            return convert(graph, module, x)
    raise InvalidConfigError(f"export: no ONNX form is known for a {type(module).__name__} layer")


def append_all(graph: Graph, modules: Iterable[nn.Module], x: str) -> str:
    """One after the other."""
    for module in modules:
        x = append(graph, module, x)
    return x


def array(tensor: object) -> npt.NDArray[np.float32]:
    """A parameter as float32 on the host."""
    return tensor.detach().cpu().float().numpy()  # type: ignore[attr-defined, no-any-return]


def _linear(graph: Graph, module: nn.Linear, x: str) -> str:
    weight = graph.constant("weight", array(module.weight))
    bias = [] if module.bias is None else [graph.constant("bias", array(module.bias))]
    return graph.add("Gemm", x, weight, *bias, transB=1)


def _op(name: str) -> Callable[[Graph, nn.Module, str], str]:
    return lambda graph, _, x: graph.add(name, x)


def _silu(graph: Graph, _: nn.Module, x: str) -> str:
    return graph.add("Mul", x, graph.add("Sigmoid", x))


def _gelu(graph: Graph, _: nn.Module, x: str) -> str:
    """x/2 (1 + erf(x / sqrt 2)), torch's default form; Gelu itself is an operator only since opset 20."""
    erf = graph.add("Erf", graph.add("Mul", x, graph.scalar(0.7071067811865476)))
    return graph.add("Mul", graph.add("Mul", x, graph.scalar(0.5)), graph.add("Add", erf, graph.scalar(1.0)))


CONVERTERS: Final[dict[type[nn.Module], Callable[..., str]]] = {
    nn.Linear: _linear,
    nn.ReLU: _op("Relu"),
    nn.Tanh: _op("Tanh"),
    nn.SELU: _op("Selu"),
    nn.SiLU: _silu,
    nn.GELU: _gelu,
}
