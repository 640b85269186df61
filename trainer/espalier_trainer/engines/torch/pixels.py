"""Parts of networks over pictures: features in row-major order as (rows, channels, height, width), and back to (rows, channels).

A picture of height 1 is a series; its kernels, strides and pools leave that dimension alone.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from espalier_trainer.engines.torch.converters import convolution as convolution_nodes
from espalier_trainer.engines.torch.converters import shaped
from espalier_trainer.errors import InvalidConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from espalier_trainer.export.graph import Graph

LOWEST = 2  # edges are never halved to this or below


def check(image: tuple[int, int, int], features: int, architecture: str) -> None:
    """InvalidConfigError unless channels * height * width is the number of features."""
    if math.prod(image) != features:
        raise InvalidConfigError(
            f"engine.torch.architecture.{architecture}.image: {' x '.join(map(str, image))} is {math.prod(image)} pixels, and the data has "
            f"{features} features; give channels, height and width whose product is {features}, or choose features by data.features"
        )


class Pixels(nn.Module):
    """(rows, features) to (rows, channels, height, width)."""

    def __init__(self, image: tuple[int, int, int]) -> None:
        super().__init__()
        self.image = image

    def forward(self, x: Tensor) -> Tensor:
        """Row-major."""
        return x.reshape(-1, *self.image)

    def to_onnx(self, graph: Graph, x: str) -> str:
        """Reshape."""
        return shaped(graph, x, [-1, *self.image])


class SpatialMean(nn.Module):
    """(rows, channels, height, width) to (rows, channels); its gradient is deterministic on every device."""

    def forward(self, x: Tensor) -> Tensor:
        """Mean over height and width."""
        return x.mean((-2, -1))

    def to_onnx(self, graph: Graph, x: str) -> str:
        """GlobalAveragePool."""
        return graph.add("Flatten", graph.add("GlobalAveragePool", x), axis=1)


class SameConv2d(nn.Conv2d):
    """A convolution that keeps height and width (with stride 1); an even kernel reaches one pixel further down and right."""

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int], stride: tuple[int, int] = (1, 1)) -> None:
        padding = ((kernel[0] - 1) // 2, (kernel[1] - 1) // 2)
        super().__init__(inputs, outputs, kernel, stride=stride, padding=padding)
        self.extra = ((kernel[0] - 1) % 2, (kernel[1] - 1) % 2)

    def forward(self, x: Tensor) -> Tensor:
        """x (rows, inputs, height, width)."""
        down, right = self.extra
        return super().forward(F.pad(x, (0, right, 0, down)) if down or right else x)

    def to_onnx(self, graph: Graph, x: str) -> str:
        """Conv."""
        return convolution_nodes(graph, self, x, self.extra)


def kernel_for(edge: int, edges: Sequence[int]) -> tuple[int, int]:
    """Kernel of (height, width): 1 along an edge of one pixel."""
    height, width = (edge if size > 1 else 1 for size in edges)
    return height, width


def halving(edges: Sequence[int]) -> tuple[int, int]:
    """2 for each edge (height, width) whose half stays above LOWEST, else 1."""
    height, width = (2 if size // 2 > LOWEST else 1 for size in edges)
    return height, width
