"""Leaf modules of torch as ONNX nodes, in evaluation mode; `CONVERTERS` is the table that `convert.append` looks into."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from torch import nn

from espalier_trainer.errors import InvalidConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from espalier_trainer.export.graph import Graph


def array(tensor: object) -> npt.NDArray[np.float32]:
    """A parameter as float32 on the host."""
    return tensor.detach().cpu().float().numpy()  # type: ignore[attr-defined, no-any-return]


def shaped(graph: Graph, x: str, shape: Sequence[int]) -> str:
    """Reshape; 0 keeps a dimension, -1 is what is left."""
    return graph.add("Reshape", x, graph.constant("shape", np.asarray(shape, dtype=np.int64)))


def reshaped_like(graph: Graph, x: str, other: str) -> str:
    """`x` in the shape of `other`."""
    return graph.add("Reshape", x, graph.add("Shape", other))


def scaled(graph: Graph, x: str, scale: npt.NDArray[np.float32], shift: npt.NDArray[np.float32] | None) -> str:
    """x * scale + shift with numpy's broadcasting."""
    product = graph.add("Mul", x, graph.constant("scale", scale))
    return product if shift is None else graph.add("Add", product, graph.constant("shift", shift))


def linear(graph: Graph, module: nn.Linear, x: str) -> str:
    """x (rows, in) to (rows, out)."""
    weight = graph.constant("weight", array(module.weight))
    bias = [] if module.bias is None else [graph.constant("bias", array(module.bias))]
    return graph.add("Gemm", x, weight, *bias, transB=1)


def linear_of_tokens(graph: Graph, module: nn.Linear, x: str) -> str:
    """x (rows, tokens, in) to (rows, tokens, out): Gemm knows matrices only."""
    product = graph.add("MatMul", x, graph.constant("weight", array(module.weight).T))
    return product if module.bias is None else graph.add("Add", product, graph.constant("bias", array(module.bias)))


def convolution(graph: Graph, module: nn.Conv1d | nn.Conv2d, x: str, extra: Sequence[int] | None = None) -> str:
    """One or two dimensions; `extra` is what the end of each dimension is padded by beyond `module.padding`."""
    if module.padding_mode != "zeros":
        raise InvalidConfigError(
            f"export: a convolution with padding_mode {module.padding_mode} has no ONNX form here; use zeros"
        )
    reach = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
    if isinstance(module.padding, str):
        start = [r // 2 if module.padding == "same" else 0 for r in reach]
        end = [r - s if module.padding == "same" else 0 for r, s in zip(reach, start, strict=True)]
    else:
        start = list(module.padding)
        end = [p + e for p, e in zip(start, extra or [0] * len(start), strict=True)]
    bias = [] if module.bias is None else [graph.constant("bias", array(module.bias))]
    return graph.add(
        "Conv",
        x,
        graph.constant("kernel", array(module.weight)),
        *bias,
        kernel_shape=list(module.kernel_size),
        strides=list(module.stride),
        dilations=list(module.dilation),
        pads=[*start, *end],
        group=module.groups,
    )


def _pair(value: Any) -> list[int]:  # noqa: ANN401 - torch keeps what it was given
    return [int(value)] * 2 if isinstance(value, int) else [int(v) for v in value]


def _max_pool(graph: Graph, module: nn.MaxPool2d, x: str) -> str:
    return graph.add(
        "MaxPool",
        x,
        kernel_shape=_pair(module.kernel_size),
        strides=_pair(module.stride),
        pads=_pair(module.padding) * 2,
        dilations=_pair(module.dilation),
        ceil_mode=int(module.ceil_mode),
    )


def _average_pool(graph: Graph, module: nn.AvgPool2d, x: str) -> str:
    if module.ceil_mode or module.divisor_override:
        raise InvalidConfigError("export: AvgPool2d with ceil_mode or divisor_override has no ONNX form here")
    return graph.add(
        "AveragePool",
        x,
        kernel_shape=_pair(module.kernel_size),
        strides=_pair(module.stride),
        pads=_pair(module.padding) * 2,
        count_include_pad=int(module.count_include_pad),
    )


def _global_pool(graph: Graph, module: nn.AdaptiveAvgPool2d, x: str) -> str:
    if module.output_size not in (1, (1, 1)):
        raise InvalidConfigError("export: AdaptiveAvgPool2d has an ONNX form for output size 1 only")
    return graph.add("GlobalAveragePool", x)


def _flatten(graph: Graph, module: nn.Flatten, x: str) -> str:
    if (module.start_dim, module.end_dim) != (1, -1):
        raise InvalidConfigError("export: Flatten has an ONNX form for all dimensions but the rows' only")
    return graph.add("Flatten", x, axis=1)


def _unflatten(graph: Graph, module: nn.Unflatten, x: str) -> str:
    if module.dim != 1:
        raise InvalidConfigError("export: Unflatten has an ONNX form for dimension 1 only")
    return shaped(graph, x, [-1, *(int(size) for size in module.unflattened_size)])


def _batch_norm(graph: Graph, module: nn.BatchNorm1d | nn.BatchNorm2d, x: str) -> str:
    """Channels are dimension 1."""
    scale, shift = affine_of(module)
    return graph.add(
        "BatchNormalization",
        x,
        graph.constant("scale", np.ones_like(scale) if module.weight is None else array(module.weight)),
        graph.constant("shift", np.zeros_like(shift) if module.bias is None else array(module.bias)),
        graph.constant("mean", array(module.running_mean)),
        graph.constant("variance", array(module.running_var)),
        epsilon=module.eps,
    )


def affine_of(module: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """(scale, shift), each (channels,): what batch normalization is once its statistics are fixed."""
    if module.running_mean is None or module.running_var is None:
        raise InvalidConfigError(
            "export: batch norm without running statistics answers differently for each batch; track them"
        )
    deviation = np.sqrt(module.running_var.detach().double().cpu().numpy() + module.eps)
    weight = 1.0 if module.weight is None else module.weight.detach().double().cpu().numpy()
    bias = 0.0 if module.bias is None else module.bias.detach().double().cpu().numpy()
    scale = weight / deviation
    shift = bias - module.running_mean.detach().double().cpu().numpy() * scale
    return scale.astype(np.float32), shift.astype(np.float32)


def _layer_norm(graph: Graph, module: nn.LayerNorm, x: str) -> str:
    if module.weight is None or module.bias is None:
        raise InvalidConfigError("export: LayerNorm has an ONNX form with weight and bias only")
    weight, bias = graph.constant("scale", array(module.weight)), graph.constant("shift", array(module.bias))
    return graph.add("LayerNormalization", x, weight, bias, axis=-len(module.normalized_shape), epsilon=module.eps)


def group_norm(graph: Graph, module: nn.GroupNorm, x: str) -> str:
    """Channels are dimension 1, whatever follows; GroupNormalization itself is sound only since opset 21."""
    ones = graph.constant("scale", np.ones(module.num_groups, dtype=np.float32))
    zeros = graph.constant("shift", np.zeros(module.num_groups, dtype=np.float32))
    grouped = shaped(graph, x, [0, module.num_groups, -1])
    normal = graph.add("InstanceNormalization", grouped, ones, zeros, epsilon=module.eps)
    if module.affine:
        channels = shaped(graph, normal, [0, module.num_channels, -1])
        normal = scaled(graph, channels, array(module.weight)[:, None], array(module.bias)[:, None])
    return reshaped_like(graph, normal, x)


def rms_norm(graph: Graph, x: str, axes: Sequence[int], epsilon: float, weight: npt.NDArray[np.float32] | None) -> str:
    """x / sqrt(mean(x^2) + epsilon) * weight, the mean over `axes`."""
    dimensions = graph.constant("axes", np.asarray(axes, dtype=np.int64))
    mean = graph.add("ReduceMean", graph.add("Mul", x, x), dimensions, keepdims=1)
    root = graph.add("Sqrt", graph.add("Add", mean, graph.scalar(epsilon)))
    normal = graph.add("Div", x, root)
    return normal if weight is None else graph.add("Mul", normal, graph.constant("scale", weight))


def _rms_norm(graph: Graph, module: nn.RMSNorm, x: str) -> str:
    epsilon = float(np.finfo(np.float32).eps) if module.eps is None else module.eps
    axes = range(-len(module.normalized_shape), 0)
    return rms_norm(graph, x, list(axes), epsilon, None if module.weight is None else array(module.weight))


def _op(name: str) -> Callable[[Graph, nn.Module, str], str]:
    return lambda graph, _, x: graph.add(name, x)


def _same(_: Graph, __: nn.Module, x: str) -> str:
    return x


def _silu(graph: Graph, _: nn.Module, x: str) -> str:
    return graph.add("Mul", x, graph.add("Sigmoid", x))


def _gelu(graph: Graph, module: nn.GELU, x: str) -> str:
    """x/2 (1 + erf(x / sqrt 2)), torch's default form; Gelu itself is an operator only since opset 20."""
    if module.approximate != "none":
        raise InvalidConfigError("export: GELU has an ONNX form for approximate='none' only")
    erf = graph.add("Erf", graph.add("Mul", x, graph.scalar(0.7071067811865476)))
    return graph.add("Mul", graph.add("Mul", x, graph.scalar(0.5)), graph.add("Add", erf, graph.scalar(1.0)))


def _softplus(graph: Graph, module: nn.Softplus, x: str) -> str:
    """ln(1 + exp(beta x)) / beta; torch's linear part above `threshold` is the same within its float32."""
    beta = graph.scalar(float(module.beta))
    return graph.add("Div", graph.add("Softplus", graph.add("Mul", x, beta)), beta)


CONVERTERS: Final[dict[type[nn.Module], Callable[..., str]]] = {
    nn.Linear: linear,
    nn.Conv1d: convolution,
    nn.Conv2d: convolution,
    nn.MaxPool2d: _max_pool,
    nn.AvgPool2d: _average_pool,
    nn.AdaptiveAvgPool2d: _global_pool,
    nn.Flatten: _flatten,
    nn.Unflatten: _unflatten,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.LayerNorm: _layer_norm,
    nn.GroupNorm: group_norm,
    nn.RMSNorm: _rms_norm,
    nn.ReLU: _op("Relu"),
    nn.Tanh: _op("Tanh"),
    nn.Sigmoid: _op("Sigmoid"),
    nn.Softplus: _softplus,
    nn.LeakyReLU: lambda graph, module, x: graph.add("LeakyRelu", x, alpha=module.negative_slope),
    nn.ELU: lambda graph, module, x: graph.add("Elu", x, alpha=module.alpha),
    nn.SELU: _op("Selu"),
    nn.SiLU: _silu,
    nn.GELU: _gelu,
    nn.Identity: _same,
    nn.Dropout: _same,
    nn.Dropout1d: _same,
    nn.Dropout2d: _same,
    nn.AlphaDropout: _same,
}
