"""Torch modules to ONNX nodes, one converter per leaf module: no tracing, so it is the same in every torch version and takes
milliseconds. A module without a converter is refused, never approximated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from espalier_trainer.engines.torch.converters import CONVERTERS, array
from espalier_trainer.errors import InvalidConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from espalier_trainer.export.graph import Graph

__all__ = ["append", "append_all", "array"]


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
