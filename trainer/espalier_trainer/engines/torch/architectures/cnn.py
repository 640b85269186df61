"""Convolutions: `stages.<i>.conv`, `.activation`, `.pool`, then fully connected `hidden.<i>.linear`, then `head`.

A stage's pool takes the largest of each 2 x 2 pixels, along edges whose half stays above 2 (LeCun et al. 1998's order of parts).
"""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from typing import TYPE_CHECKING

from torch import nn

from espalier_trainer.engines.torch import pixels
from espalier_trainer.engines.torch.layers import Channels, Layer, layer_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from espalier_api.engines import Cnn as CnnConfig


class Cnn(nn.Sequential):
    """Features that are pixels of `image` (channels, height, width) to `outputs` logits or one value."""

    def __init__(
        self, image: tuple[int, int, int], channels: Sequence[int], kernel: int, hidden: Sequence[int], outputs: int
    ) -> None:
        stages, edges = [], image[1:]
        for inputs, width in itertools.pairwise([image[0], *channels]):
            parts = OrderedDict[str, nn.Module](
                conv=pixels.SameConv2d(inputs, width, pixels.kernel_for(kernel, edges)), activation=nn.ReLU()
            )
            by = pixels.halving(edges)
            if max(by) > 1:
                parts["pool"] = nn.MaxPool2d(by)
                edges = edges[0] // by[0], edges[1] // by[1]
            stages.append(Layer(parts))
        spread = math.prod(edges)
        widths = [channels[-1] * spread, *hidden]
        layers = [
            Layer(OrderedDict[str, nn.Module](linear=nn.Linear(a, b), activation=nn.ReLU()))
            for a, b in itertools.pairwise(widths)
        ]
        super().__init__(
            OrderedDict[str, nn.Module](
                pixels=pixels.Pixels(image),
                stages=nn.Sequential(*stages),
                flat=nn.Flatten(),
                hidden=nn.Sequential(*layers),
                head=nn.Linear(widths[-1], outputs),
            )
        )
        self._spread = spread

    def channels(self) -> list[Channels]:
        """All of them: each layer is read by the next one only."""
        names = layer_names(self)
        stages = [name for name in names if name.startswith("stages")]
        hidden = [*names[len(stages) :], "head"]
        return [
            *(Channels(a, b) for a, b in itertools.pairwise(stages)),
            Channels(stages[-1], hidden[0], self._spread),
            *(Channels(a, b) for a, b in itertools.pairwise(hidden)),
        ]


def build(config: CnnConfig, features: int, outputs: int) -> nn.Module:
    """The network that `engine.torch.architecture.cnn` declares."""
    pixels.check(config.image, features, "cnn")
    return Cnn(config.image, config.channels, config.kernel, config.hidden, outputs)
