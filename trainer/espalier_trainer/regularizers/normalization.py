"""Normalization layers: the part `norm` after the linear map or convolution of each selected layer, before its activation.

batch: over the rows of a batch, running statistics when evaluated (Ioffe and Szegedy 2015). layer: over the units of a row (Ba et al.
2016). group: over groups of units (Wu and He 2018). rms: x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich 2019). For convolutions
layer and rms take channels, height and width together (one group, as in Wu and He), with one weight per channel; for tokens the
units are the last dimension, and batch counts all tokens of all rows.

`groups` is the most that is used: each layer has the largest divisor of its units that leaves MINIMUM values to a group, because a
group of one unit would be normalized to nothing but its bias.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from espalier_api.regularizers import Normalization as NormalizationConfig
from espalier_trainer.engines.torch import converters
from espalier_trainer.engines.torch.layers import insert, layer_names, weighted
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.peers import Sharing
from espalier_trainer.protocol import FIRST, PlanContext, Regularizer, Stage, register

if TYPE_CHECKING:
    from espalier_trainer.export.graph import Graph
    from espalier_trainer.schedule import Coefficient

MINIMUM: Final = 4
EPSILON: Final = 1e-5


class UnitBatchNorm(nn.BatchNorm1d):
    """Batch norm whose units are the last dimension: x (rows, units) or (rows, tokens, units)."""

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        return super().forward(x.reshape(-1, x.shape[-1])).reshape(x.shape)

    def to_onnx(self, graph: Graph, x: str) -> str:
        """A scale and a shift: its statistics are fixed."""
        scale, shift = converters.affine_of(self)
        return converters.scaled(graph, x, scale, shift)


class UnitGroupNorm(nn.GroupNorm):
    """Group norm whose units are the last dimension."""

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        return super().forward(x.reshape(-1, x.shape[-1])).reshape(x.shape)

    def to_onnx(self, graph: Graph, x: str) -> str:
        """Through rows of units."""
        rows = converters.shaped(graph, x, [-1, self.num_channels])
        return converters.reshaped_like(graph, converters.group_norm(graph, self, rows), x)


class RmsNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight, over the last dimension, or over channels, height and width."""

    def __init__(self, units: int, *, pictures: bool) -> None:
        super().__init__()
        self.axes = (-3, -2, -1) if pictures else (-1,)
        self.weight = nn.Parameter(torch.ones(units, 1, 1) if pictures else torch.ones(units))

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        return x * torch.rsqrt(x.square().mean(self.axes, keepdim=True) + EPSILON) * self.weight

    def to_onnx(self, graph: Graph, x: str) -> str:
        """The same."""
        return converters.rms_norm(graph, x, self.axes, EPSILON, converters.array(self.weight))


def groups_of(units: int, wanted: int, minimum: int) -> int:
    """The largest divisor of `units` that is at most `wanted` and leaves `minimum` units to a group; 1 when there is none."""
    return max((g for g in range(1, min(wanted, units) + 1) if units % g == 0 and units // g >= minimum), default=1)


def norm_for(part: nn.Module, kind: str, groups: int) -> nn.Module:
    """The norm of what a linear map or a convolution (of pictures) puts out."""
    pictures = isinstance(part, nn.Conv2d)
    units = part.out_channels if isinstance(part, nn.Conv2d) else int(part.out_features)  # type: ignore[arg-type]
    match kind:
        case "batch":
            return nn.BatchNorm2d(units) if pictures else UnitBatchNorm(units)
        case "layer":
            return nn.GroupNorm(1, units) if pictures else nn.LayerNorm(units)
        case "group":
            count = groups_of(units, groups, 1 if pictures else MINIMUM)
            return nn.GroupNorm(count, units) if pictures else UnitGroupNorm(count, units)
        case _:
            return RmsNorm(units, pictures=pictures)


@register
class Normalization(Regularizer[NormalizationConfig]):
    """After each selected linear map or convolution."""

    name = "normalization"
    stage = Stage.SURGERY
    sharing = Sharing.EXACT
    order = FIRST  # others insert into layers that have their norm, and parametrize weights afterwards
    selects = "layers"

    def __init__(self, config: NormalizationConfig) -> None:
        super().__init__(config)
        self._kind: str = config.kind
        self._groups: dict[str, int] = {}

    def acts(self, hook: str) -> bool:
        """Kind none does nothing."""
        return super().acts(hook) and not (hook == "surgery" and self.config.kind == "none")

    def shared(self) -> Sharing:
        """Statistics of a batch would be those of own rows."""
        return Sharing.REFUSED if self._kind == "batch" else self.sharing

    def plan(self, context: PlanContext) -> None:
        """R15: one row has no variance. R1: under privacy groups take the place of batches."""
        if self.config.kind != "batch":
            return
        if "privacy" in context.declared:
            self._kind = "group"
        elif context.batch_size == 1:
            raise InvalidConfigError(
                "R15: regularizers.normalization.kind: batch needs more than one row per batch. Set engine.torch.batchSize to 16 or more "
                "(and have as many training rows), or use kind group or layer"
            )

    def surgery(self, model: nn.Module, coefficient: Coefficient) -> None:
        """Insert norms."""
        whole = [name for name in layer_names(model) if weighted(model.get_submodule(name)) is not None]
        first = next(model.parameters())
        for layer in self.selector.choose(whole, self.name, "layer"):
            part = weighted(model.get_submodule(layer))
            assert part is not None  # noqa: S101 - chosen among those that have one
            if isinstance(part, nn.Conv1d):
                raise InvalidConfigError(
                    f"regularizers.normalization: {layer} is a convolution in one dimension; use nn.Conv2d with height 1, or exclude it"
                )
            norm = norm_for(part, self._kind, self.config.groups).to(device=first.device, dtype=first.dtype)
            try:
                insert(model, layer, "norm", norm)
            except ValueError:
                raise InvalidConfigError(
                    f"regularizers.normalization: {layer} brings a norm of its own; exclude it by target.exclude"
                ) from None
            if isinstance(norm, nn.GroupNorm) and self._kind == "group":
                self._groups[layer] = norm.num_groups

    def notes(self) -> dict[str, Any]:
        """What was inserted."""
        return {"kind": self._kind, **({"groups": self._groups} if self._groups else {})}
