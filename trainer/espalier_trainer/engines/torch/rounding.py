"""Networks in few bits: what is trained, judged and served is one function, exact to the integer.

A weight w becomes q s with q = round(w / s), s = max|w| / (2^(b-1) - 1) per output channel or per tensor, so that no weight is
clipped and each moves by at most s / 2. An input x becomes (q - z) s with q = clip(round(x / s) + z, 0, 255) over a known range
that holds 0 (Jacob et al. 2018, eq. 1), or, without known ranges, q s with s = max|x| / 127 per row: an answer must not depend
on which other rows are in the request, as it does with ONNX's own DynamicQuantizeLinear.

Sums of products are sums of integers (MatMulInteger, ConvInteger), the same on every machine, whereas the fp32 sums between
QuantizeLinear and DequantizeLinear would differ in their last bit and now and then fall to another step. Both operands are
uint8, weights around 128: kernels for mixed signs saturate at 16 bits on processors without VNNI.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from espalier_trainer.engines.torch.convert import append
from espalier_trainer.targets import canonical

if TYPE_CHECKING:
    from espalier_trainer.export.graph import Graph

KINDS: Final = (nn.Linear, nn.Conv1d, nn.Conv2d)
CENTRE: Final = 128
STEPS: Final = 255.0
HALF: Final = 127.0
TINY: Final = 1e-12


def weight_scale(weight: Tensor, bits: int, *, per_channel: bool) -> Tensor:
    """Step of each weight, exactly a float32: (out, 1, ..) per output channel, () per tensor; 1 where all weights are 0."""
    size = weight.detach().abs()
    top = size.flatten(1).amax(1).reshape(-1, *[1] * (weight.dim() - 1)) if per_channel else size.amax()
    scale = (top.float() / (2 ** (bits - 1) - 1)).to(weight.dtype)
    return torch.where(scale > 0, scale, torch.ones_like(scale))


def weight_steps(weight: Tensor, scale: Tensor, bits: int) -> Tensor:
    """The integers of a weight, as floats of its own type."""
    return torch.round(weight.detach() / scale).clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def straight_through(value: Tensor, rounded: Tensor) -> Tensor:
    """`rounded`, with the gradient of `value` (Bengio et al. 2013)."""
    return value + (rounded - value).detach()


class RoundedWeight(nn.Module):
    """A parametrization: the weight as it will be rounded, with its own gradient. It remembers the weight that it last saw."""

    def __init__(self, bits: int, *, per_channel: bool) -> None:
        super().__init__()
        self.bits, self.per_channel, self.active = bits, per_channel, False
        self.seen: Tensor | None = None

    def forward(self, weight: Tensor) -> Tensor:
        """Same shape."""
        self.seen = weight.detach()
        if not self.active:
            return weight
        scale = weight_scale(weight, self.bits, per_channel=self.per_channel)
        return straight_through(weight, weight_steps(weight, scale, self.bits) * scale)


class Range(NamedTuple):
    """How inputs are rounded: their step and the integer that stands for 0."""

    scale: Tensor  # (), float32 or better
    zero: Tensor  # (), a whole number in 0..255


def range_of(low: Tensor, high: Tensor) -> Range:
    """The range from `low` to `high`, widened to hold 0, in 256 steps."""
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    scale = ((high - low).float() / STEPS).to(low.dtype)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return Range(scale, torch.round(-low / scale).clamp(0.0, STEPS))


def input_steps(x: Tensor, known: Range) -> Tensor:
    """Integers around the one that stands for 0: QuantizeLinear less its zero point."""
    return (torch.round(x / known.scale) + known.zero).clamp(0.0, STEPS) - known.zero


def rounded_input(x: Tensor, known: Range) -> Tensor:
    """What `input_steps` stand for. The gradient is 1 inside the range and 0 outside."""
    low, high = -known.zero * known.scale, (STEPS - known.zero) * known.scale
    inside = torch.minimum(torch.maximum(x, low), high)
    return straight_through(inside, input_steps(x.detach(), known) * known.scale)


def row_scale(x: Tensor) -> Tensor:
    """(rows, 1, ..): step of each row when no range is known."""
    return (x.detach().abs().amax(dim=tuple(range(1, x.dim())), keepdim=True) / HALF).clamp_min(TINY)


class Rounded(nn.Module):
    """A linear map or convolution in integers; `known` is None for one step per row. Weight and bias keep their names."""

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, original: nn.Linear | nn.Conv1d | nn.Conv2d, bits: int, *, per_channel: bool) -> None:
        super().__init__()
        self.__dict__["original"] = original  # hidden: its tensors are registered once, here
        self.register_parameter("weight", cast("nn.Parameter", original.weight))
        self.register_parameter("bias", cast("nn.Parameter | None", original.bias))
        self.bits, self.per_channel = bits, per_channel
        self.known: Range | None = None
        self.observing = False
        self.bounds: tuple[Tensor, Tensor] | None = None

    @property
    def scale(self) -> Tensor:
        """Step of each weight."""
        return weight_scale(self.weight, self.bits, per_channel=self.per_channel)

    @property
    def error(self) -> float:
        """The largest difference of a weight from what it became, in steps; at most one half."""
        scale = self.scale
        steps = weight_steps(self.weight, scale, self.bits)
        return float((self.weight.detach().double() / scale.double() - steps.double()).abs().max())

    def rounded_weight(self) -> Tensor:
        """What the weight became."""
        scale = self.scale
        return straight_through(self.weight, weight_steps(self.weight, scale, self.bits) * scale)

    def forward(self, x: Tensor) -> Tensor:
        """In integers, or, where a gradient is asked for, the same in floats with straight-through gradients."""
        if self.observing:
            self._observe(x)
            return self._apply_to(x, self.rounded_weight(), self.bias)
        if torch.is_grad_enabled():
            return self._apply_to(self._near(x), self.rounded_weight(), self.bias)
        return self._integers(x)

    def _near(self, x: Tensor) -> Tensor:
        """The input that the integers stand for."""
        if self.known is not None:
            return rounded_input(x, self.known)
        scale = row_scale(x)
        return straight_through(x, self._row_steps(x, scale) * scale)

    def _observe(self, x: Tensor) -> None:
        low, high = x.detach().amin(), x.detach().amax()
        if self.bounds is not None:
            low, high = torch.minimum(low, self.bounds[0]), torch.maximum(high, self.bounds[1])
        self.bounds = (low, high)

    @staticmethod
    def _row_steps(x: Tensor, scale: Tensor) -> Tensor:
        return torch.round(x.detach() / scale).clamp(-HALF, HALF)

    def _apply_to(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        original: Any = self.original
        if isinstance(original, nn.Linear):
            return F.linear(x, weight, bias)
        return cast("Tensor", original._conv_forward(x, weight, bias))  # noqa: SLF001 - knows strides and padding

    def _integers(self, x: Tensor) -> Tensor:
        """float64 holds every sum of products of bytes exactly."""
        own, shape = self.scale, (1, -1, *[1] * (self.weight.dim() - 2))
        weight = weight_steps(self.weight, own, self.bits).double()
        channels = own if own.dim() == 0 else own.reshape(shape)
        if self.known is None:
            scale = row_scale(x)
            sums = self._apply_to(self._row_steps(x, scale).double(), weight, None).to(x.dtype)
            found = (sums * scale) * channels
        else:
            sums = self._apply_to(input_steps(x, self.known).double(), weight, None).to(x.dtype)
            found = sums * (self.known.scale * channels)
        return found if self.bias is None else found + self.bias.reshape(shape)

    # --- export -----------------------------------------------------------------------------------------------------
    def to_onnx(self, graph: Graph, x: str) -> str:
        """Quantize, multiply integers, scale, add the bias; `graph.plain` asks for the layer as it was before rounding."""
        if graph.plain:
            return append(graph, self.original, x)  # type: ignore[arg-type]
        own, shape = self.scale, (1, -1, *[1] * (self.weight.dim() - 2))
        channels = (own if own.dim() == 0 else own.reshape(shape)).float()
        if self.known is None:
            steps, scale = self._row_steps_onnx(graph, x)
            sums = self._sums_onnx(graph, steps, CENTRE)
            found = graph.add("Mul", graph.add("Mul", sums, scale), graph.constant("scale", _array(channels)))
        else:
            zero = int(self.known.zero)
            steps = graph.add(
                "QuantizeLinear",
                x,
                graph.scalar(float(self.known.scale)),
                graph.constant("zero", np.asarray(zero, dtype=np.uint8)),
            )
            sums = self._sums_onnx(graph, steps, zero)
            factor = _array(self.known.scale.float() * channels)
            found = graph.add("Mul", sums, graph.constant("scale", factor))
        if self.bias is None:
            return found
        return graph.add("Add", found, graph.constant("bias", _array(self.bias.reshape(shape).float())))

    def _row_steps_onnx(self, graph: Graph, x: str) -> tuple[str, str]:
        axes = graph.constant("axes", np.arange(1, self.weight.dim(), dtype=np.int64))
        top = graph.add("ReduceMax", graph.add("Abs", x), axes, keepdims=1)
        scale = graph.add("Max", graph.add("Div", top, graph.scalar(HALF)), graph.scalar(TINY))
        near = graph.add("Round", graph.add("Div", x, scale))
        held = graph.add("Clip", near, graph.scalar(-HALF), graph.scalar(HALF))
        moved = graph.add("Add", held, graph.scalar(float(CENTRE)))
        return graph.add("Cast", moved, to=2), scale  # 2 is uint8

    def _sums_onnx(self, graph: Graph, steps: str, zero: int) -> str:
        centred = weight_steps(self.weight, self.scale, self.bits) + CENTRE
        weight = centred.cpu().numpy().astype(np.uint8)
        zeros = (
            graph.constant("zero", np.asarray(zero, dtype=np.uint8)),
            graph.constant("zero", np.asarray(CENTRE, dtype=np.uint8)),
        )
        original: Any = self.original
        if isinstance(original, nn.Linear):
            sums = graph.add("MatMulInteger", steps, graph.constant("weight", weight.T), *zeros)
        else:
            sums = graph.add(
                "ConvInteger",
                steps,
                graph.constant("kernel", weight),
                *zeros,
                kernel_shape=list(original.kernel_size),
                strides=list(original.stride),
                dilations=list(original.dilation),
                pads=[*original.padding, *original.padding],
                group=original.groups,
            )
        return graph.add("Cast", sums, to=1)  # 1 is float


def _array(tensor: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    return tensor.detach().cpu().numpy().astype(np.float32)


def can_round(module: nn.Module) -> bool:
    """True for what has an integer form: linear maps, and convolutions that are padded by zeros, equally on both sides."""
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        return module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return isinstance(module, nn.Linear)


def candidates(model: nn.Module) -> dict[str, nn.Linear | nn.Conv1d | nn.Conv2d]:
    """Layers that can be rounded, by dotted name: children of sequences, which the exporter walks one by one."""
    found: dict[str, Any] = {}
    for path, parent in model.named_modules():
        if isinstance(parent, nn.Sequential):
            for name, module in parent.named_children():
                if can_round(module):
                    found[f"{path}.{name}" if path else name] = module
    return found


def replace(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put `module` where `name` was."""
    path, _, last = name.rpartition(".")
    setattr(model.get_submodule(path), last, module)


def installed(model: nn.Module) -> dict[str, Rounded]:
    """Layers in integers, by dotted name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Rounded)}


def parameter_layer(name: str) -> str:
    """The layer that a parameter belongs to: `hidden.0.linear` of `hidden.0.linear.parametrizations.weight.original0`."""
    return canonical(name).rpartition(".")[0]


def outermost(module: nn.Module, rounded: RoundedWeight) -> None:
    """Let `rounded` act after everything else that computes the module's weight; the others keep their order."""
    chain: Any = module.parametrizations["weight"]  # type: ignore[index]
    for place, one in enumerate([*(m for m in chain if m is not rounded), rounded]):
        chain[place] = one
