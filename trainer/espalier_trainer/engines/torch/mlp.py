"""The multi-layer perceptron: `hidden.<i>.linear`, `hidden.<i>.activation`, `head`. Everything is an nn.Sequential, so that surgery
inserts modules by name and the exporter walks them in order.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Sequence

ACTIVATIONS: Final[dict[str, type[nn.Module]]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "selu": nn.SELU,
}


class Residual(nn.Sequential):
    """A hidden layer whose input is added to its output; both have the same width."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (rows, width) to x + layer(x)."""
        inner: torch.Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return x + inner


class Mlp(nn.Sequential):
    """`features` inputs, hidden layers of the given widths, `outputs` logits or one value."""

    def __init__(
        self, features: int, hidden: Sequence[int], outputs: int, activation: str = "relu", *, residual: bool = False
    ) -> None:
        widths = [features, *hidden]
        layers = [
            (Residual if residual and a == b else nn.Sequential)(
                OrderedDict[str, nn.Module](linear=nn.Linear(a, b), activation=ACTIVATIONS[activation]())
            )
            for a, b in itertools.pairwise(widths)
        ]
        super().__init__(
            OrderedDict[str, nn.Module](hidden=nn.Sequential(*layers), head=nn.Linear(widths[-1], outputs))
        )


def insert_after(model: nn.Module, layer: str, name: str, module: nn.Module) -> None:
    """Append `module` to the hidden layer `hidden.<i>` (a Sequential) as `hidden.<i>.<name>`."""
    parent = model.get_submodule(layer)
    if not isinstance(parent, nn.Sequential):
        raise TypeError(f"{layer} is a {type(parent).__name__}; only a Sequential can take another module")
    parent.add_module(name, module)


def layer_names(model: nn.Module) -> list[str]:
    """Names of the hidden layers, `hidden.0` first."""
    return [name for name, _ in model.named_modules() if name.startswith("hidden.") and name.count(".") == 1]


def on_device(array: Any, device: torch.device, dtype: torch.dtype | None = None) -> torch.Tensor:  # noqa: ANN401 - any array
    """A contiguous copy of a numpy array on the device."""
    return torch.as_tensor(array).to(device=device, dtype=dtype, copy=True).contiguous()
