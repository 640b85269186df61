"""Residual convolutions (He et al. 2016): `stem`, `stages.<i>.<j>` with `first`, `second` and, where shapes change,
`shortcut`, then `head`.

y = relu(shortcut(x) + second(first(x))), kernels of 3 x 3, the channels' means before `head`. The first block of each
further stage halves edges and doubles channels. As everywhere, normalization is the block `normalization`: declare kind
batch for the paper's network.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from torch import Tensor, nn

from espalier_trainer.engines.torch import pixels
from espalier_trainer.engines.torch.convert import append
from espalier_trainer.engines.torch.layers import Channels, Layer, Residual

if TYPE_CHECKING:
    from collections.abc import Sequence

    from espalier_api.engines import ResNet as ResNetConfig
    from espalier_trainer.export.graph import Graph

KERNEL = 3


class Block(nn.Module, Residual):
    """Two convolutions beside a shortcut; `stride` (height, width) belongs to the first."""

    def __init__(self, inputs: int, outputs: int, edges: tuple[int, int], stride: tuple[int, int]) -> None:
        super().__init__()
        kernel = pixels.kernel_for(KERNEL, edges)
        self.first = Layer(
            OrderedDict[str, nn.Module](conv=pixels.SameConv2d(inputs, outputs, kernel, stride), activation=nn.ReLU())
        )
        self.second = Layer(OrderedDict[str, nn.Module](conv=pixels.SameConv2d(outputs, outputs, kernel)))
        changes = inputs != outputs or max(stride) > 1
        if changes:
            self.shortcut: nn.Module = Layer(
                OrderedDict[str, nn.Module](conv=pixels.SameConv2d(inputs, outputs, (1, 1), stride))
            )
        else:
            self.shortcut = nn.Identity()
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """x (rows, inputs, height, width)."""
        summed: Tensor = self.activation(self.shortcut(x) + self.kept(self.second(self.first(x))))
        return summed

    def to_onnx(self, graph: Graph, x: str) -> str:
        """The same."""
        inner = append(graph, self.second, append(graph, self.first, x))
        return append(graph, self.activation, graph.add("Add", append(graph, self.shortcut, x), inner))


class ResNet(nn.Sequential):
    """Features that are pixels of `image` (channels, height, width) to `outputs` logits or one value."""

    def __init__(self, image: tuple[int, int, int], blocks: Sequence[int], width: int, outputs: int) -> None:
        edges = image[1:]
        stem = Layer(
            OrderedDict[str, nn.Module](
                conv=pixels.SameConv2d(image[0], width, pixels.kernel_for(KERNEL, edges)), activation=nn.ReLU()
            )
        )
        stages, inputs = [], width
        for number, count in enumerate(blocks):
            made = []
            for index in range(count):
                stride = pixels.halving(edges) if number and not index else (1, 1)
                made.append(Block(inputs, width << number, edges, stride))
                inputs, edges = width << number, (-(-edges[0] // stride[0]), -(-edges[1] // stride[1]))
            stages.append(nn.Sequential(*made))
        super().__init__(
            OrderedDict[str, nn.Module](
                pixels=pixels.Pixels(image),
                stem=stem,
                stages=nn.Sequential(*stages),
                mean=pixels.SpatialMean(),
                head=nn.Linear(inputs, outputs),
            )
        )

    def channels(self) -> list[Channels]:
        """Those inside blocks: what blocks put out is added to what came in."""
        return [
            Channels(f"{name}.first", f"{name}.second")
            for name, module in self.named_modules()
            if isinstance(module, Block)
        ]


def build(config: ResNetConfig, features: int, outputs: int) -> nn.Module:
    """The network that `engine.torch.architecture.resnet` declares."""
    pixels.check(config.image, features, "resnet")
    return ResNet(config.image, config.blocks, config.width, outputs)
