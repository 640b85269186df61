"""The multi-layer perceptron: `hidden.<i>.linear`, `hidden.<i>.activation`, `head`."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from typing import TYPE_CHECKING

from torch import nn

from espalier_trainer.engines.torch.layers import ACTIVATIONS, Channels, Layer, Residual, ResidualLayer, layer_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from espalier_api.engines import Mlp as MlpConfig


class Mlp(nn.Sequential):
    """`features` inputs, hidden layers of the given widths, `outputs` logits or one value."""

    def __init__(
        self, features: int, hidden: Sequence[int], outputs: int, activation: str = "relu", *, residual: bool = False
    ) -> None:
        widths = [features, *hidden]
        layers = [
            (ResidualLayer if residual and a == b else Layer)(
                OrderedDict[str, nn.Module](linear=nn.Linear(a, b), activation=ACTIVATIONS[activation]())
            )
            for a, b in itertools.pairwise(widths)
        ]
        super().__init__(
            OrderedDict[str, nn.Module](hidden=nn.Sequential(*layers), head=nn.Linear(widths[-1], outputs))
        )

    def channels(self) -> list[Channels]:
        """Units that only one layer reads; those of residual layers are added to their input and cannot go alone."""
        names = [*layer_names(self), "head"]
        return [
            Channels(a, b)
            for a, b in itertools.pairwise(names)
            if not any(isinstance(self.get_submodule(name), Residual) for name in (a, b))
        ]


def build(config: MlpConfig, features: int, outputs: int) -> nn.Module:
    """The network that `engine.torch.architecture.mlp` declares."""
    return Mlp(features, config.hidden, outputs, config.activation, residual=config.residual)
