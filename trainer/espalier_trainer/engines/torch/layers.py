"""What every architecture is built of, so that surgery finds its places by name and the exporter walks modules in order.

A `Layer` is one linear map or convolution with what belongs to it, under fixed names and in this order: `linear` or `conv`, `norm`,
`activation`, `noise`, `dropout`, `pool`. Blocks insert modules under these names; a module that is the identity in evaluation mode says
so (`identity_in_evaluation`), any other brings its own `to_onnx(graph, x)`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch
from torch import nn
from torch.nn.utils import parametrize

from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.targets import canonical

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from espalier_trainer.export.graph import Graph

ACTIVATIONS: Final[dict[str, type[nn.Module]]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "selu": nn.SELU,
}

ORDER: Final = ("linear", "conv", "norm", "activation", "noise", "dropout", "pool")
"""Names of a layer's parts, first to last."""


class Layer(nn.Sequential):
    """One step of a network that surgery may change: its parts carry the names of ORDER."""


class Residual:
    """What adds a branch to its input says so by this base: `stochasticDepth` sets `drop`, and `forward` calls `kept`.

    `drop` holds no weights and is no module, so a container that walks its children never meets it.
    """

    drop: Callable[[torch.Tensor], torch.Tensor] | None = None
    training: bool

    def kept(self, branch: torch.Tensor) -> torch.Tensor:
        """The branch's output, in training as `drop` leaves it."""
        return branch if self.drop is None or not self.training else self.drop(branch)


class ResidualLayer(Layer, Residual):
    """A layer whose input is added to its output; both have the same width."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (rows, width) to x + layer(x)."""
        inner: torch.Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return x + self.kept(inner)

    def to_onnx(self, graph: Graph, x: str) -> str:
        """x + layer(x)."""
        from espalier_trainer.engines.torch.convert import append_all  # noqa: PLC0415 - convert walks layers, layers ask convert

        return graph.add("Add", x, append_all(graph, self.children(), x))


class Channels(NamedTuple):
    """Channels of one layer that may be removed: only the module at `consumer` (or the first linear map or convolution in
    it) reads them, `spread` of its inputs in a row for each channel.
    """

    layer: str
    consumer: str
    spread: int = 1


def weighted(layer: nn.Module) -> nn.Linear | nn.Conv1d | nn.Conv2d | None:
    """The linear map or convolution that a layer is named for; None when it has neither."""
    found = getattr(layer, "linear", None) or getattr(layer, "conv", None)
    return found if isinstance(found, (nn.Linear, nn.Conv1d, nn.Conv2d)) else None


def residual_names(model: nn.Module) -> list[str]:
    """Dotted names of everything that adds a branch to its input, in the order of definition."""
    return [name for name, module in model.named_modules() if isinstance(module, Residual)]


def layer_names(model: nn.Module) -> list[str]:
    """Dotted names of all layers, in the order of definition (`hidden.0` first for an mlp)."""
    return [name for name, module in model.named_modules() if isinstance(module, Layer)]


def insert(model: nn.Module, layer: str, part: str, module: nn.Module) -> None:
    """Put `module` into the layer as `<layer>.<part>`, at the place that ORDER gives this part.

    Raises TypeError when `layer` is no Layer and ValueError for a part that exists or has no place.
    """
    parent = model.get_submodule(layer)
    if not isinstance(parent, Layer):
        raise TypeError(f"{layer} is a {type(parent).__name__}; only a Layer can take another part")
    parts = dict(parent.named_children())
    if part not in ORDER or part in parts:
        raise ValueError(f"{layer}.{part}: {'exists already' if part in ORDER else 'is no part of a layer'}")
    parts[part] = module
    for name in parts:
        if name in dict(parent.named_children()):
            delattr(parent, name)
    for name in ORDER:
        if name in parts:
            parent.add_module(name, parts[name])


def bake(model: nn.Module) -> None:
    """Replace every parametrized tensor by its value now, as a plain parameter: what is shipped has no parametrizations.

    Call it in evaluation mode, where noise and drops are off.
    """
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)


def weight_owners(model: nn.Module, names: Iterable[str], block: str) -> list[tuple[nn.Module, str]]:
    """(module, tensor name) of parameters by dotted name, for blocks that parametrize them.

    A parameter that is parametrized already stands for its module once: `h.parametrizations.weight.original0` is `h`, `weight`.
    Only matrices and kernels can be taken; another parameter is refused by name.
    """
    owners: dict[str, tuple[nn.Module, str]] = {}
    for name in names:
        path, _, tensor = canonical(name).rpartition(".")
        module = model.get_submodule(path)
        if getattr(module, tensor).dim() < 2:  # noqa: PLR2004 - vectors have no rows and columns
            raise InvalidConfigError(
                f"regularizers.{block}.target: {path}.{tensor} is a vector; name weights of linear layers or convolutions"
            )
        owners[canonical(name)] = (module, tensor)
    return list(owners.values())


def on_device(array: Any, device: torch.device, dtype: torch.dtype | None = None) -> torch.Tensor:  # noqa: ANN401 - any array
    """A contiguous copy of a numpy array on the device."""
    return torch.as_tensor(array).to(device=device, dtype=dtype, copy=True).contiguous()
