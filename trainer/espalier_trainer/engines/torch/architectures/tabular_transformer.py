"""FT-Transformer (Gorishniy et al. 2021): each feature becomes a token x_j w_j + b_j, a first token asks, layers of attention and ReGLU
follow, and `head` reads the first token. Pre-norm, without the first attention's norm, as in the paper.

Names: `tokens`, `blocks.<i>.attend` (`norm`, `inner.query|key|value|out`), `blocks.<i>.feed` (`norm`, `inner.expand.linear`,
`inner.contract.linear`), `last`, `head`. `attend` and `feed` are residual blocks. The paper's dropouts are the block `dropout`.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from espalier_trainer.engines.torch.convert import append, array
from espalier_trainer.engines.torch.converters import linear_of_tokens, shaped
from espalier_trainer.engines.torch.layers import Layer, Residual

if TYPE_CHECKING:
    from espalier_api.engines import TabularTransformer as TabularTransformerConfig
    from espalier_trainer.export.graph import Graph


class TokenLinear(nn.Linear):
    """A linear map of each token, x (rows, tokens, in)."""

    def to_onnx(self, graph: Graph, x: str) -> str:
        """MatMul and Add."""
        return linear_of_tokens(graph, self, x)


class Tokens(nn.Module):
    """x (rows, features) to (rows, 1 + features, dim): the asking token, then x_j weight_j + bias_j."""

    def __init__(self, features: int, dim: int) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(dim)  # of the paper's code
        self.weight = nn.Parameter(torch.empty(features, dim).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(features, dim).uniform_(-bound, bound))
        self.first = nn.Parameter(torch.empty(1, dim).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens."""
        tokens = x.unsqueeze(-1) * self.weight + self.bias
        return torch.cat([self.first.expand(len(x), 1, -1), tokens], dim=1)

    def to_onnx(self, graph: Graph, x: str) -> str:
        """The asking token as a feature that is 0, with its own bias."""
        padded = graph.add("Pad", x, graph.constant("pads", np.asarray([0, 1, 0, 0], dtype=np.int64)))
        column = shaped(graph, padded, [-1, len(self.weight) + 1, 1])
        weight = np.concatenate([np.zeros_like(array(self.first)), array(self.weight)])
        bias = np.concatenate([array(self.first), array(self.bias)])
        return graph.add(
            "Add", graph.add("Mul", column, graph.constant("weight", weight)), graph.constant("bias", bias)
        )


class Attention(nn.Module):
    """Scaled dot products of `heads` heads (Vaswani et al. 2017), x (rows, tokens, dim) to the same shape."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, dim // heads
        self.query, self.key, self.value, self.out = (TokenLinear(dim, dim) for _ in range(4))

    def _split(self, x: Tensor) -> Tensor:
        """(rows, tokens, dim) to (rows, heads, tokens, size)."""
        return x.reshape(*x.shape[:-1], self.heads, self.size).transpose(-3, -2)

    def forward(self, x: Tensor, unseen: Tensor | None = None) -> Tensor:
        """All tokens see all tokens; `unseen` (rows, 1, 1, tokens) is added to the products, very negative where nobody looks."""
        query, key, value = self._split(self.query(x)), self._split(self.key(x)), self._split(self.value(x))
        products = query @ key.transpose(-2, -1) * self.size**-0.5
        shares = torch.softmax(products if unseen is None else products + unseen, dim=-1)
        mixed: Tensor = self.out((shares @ value).transpose(-3, -2).flatten(-2))
        return mixed

    def to_onnx(self, graph: Graph, x: str, unseen: str | None = None) -> str:
        """MatMul, Softmax, MatMul."""
        split = [
            shaped(graph, append(graph, part, x), [0, 0, self.heads, self.size])
            for part in (self.query, self.key, self.value)
        ]
        query, value = (graph.add("Transpose", part, perm=[0, 2, 1, 3]) for part in (split[0], split[2]))
        key = graph.add("Transpose", split[1], perm=[0, 2, 3, 1])
        products = graph.add("Mul", graph.add("MatMul", query, key), graph.scalar(self.size**-0.5))
        products = products if unseen is None else graph.add("Add", products, unseen)
        mixed = graph.add("MatMul", graph.add("Softmax", products, axis=-1), value)
        joined = shaped(graph, graph.add("Transpose", mixed, perm=[0, 2, 1, 3]), [0, 0, self.heads * self.size])
        return append(graph, self.out, joined)


class Branch(nn.Module, Residual):
    """x + inner(norm(x)); the first branch of a network has no norm."""

    def __init__(self, dim: int, inner: nn.Module, *, norm: bool = True) -> None:
        super().__init__()
        self.norm: nn.Module = nn.LayerNorm(dim) if norm else nn.Identity()
        self.inner = inner

    def forward(self, x: Tensor, *more: Tensor) -> Tensor:
        """x (rows, tokens, dim); `more` is for the inner part."""
        return x + self.kept(self.inner(self.norm(x), *more))

    def to_onnx(self, graph: Graph, x: str, *more: str) -> str:
        """The same."""
        normal = append(graph, self.norm, x)
        inner = self.inner.to_onnx(graph, normal, *more) if more else append(graph, self.inner, normal)  # type: ignore[operator]
        return graph.add("Add", x, inner)


class ReGlu(nn.Module):
    """(.., 2 width) to (.., width): the first half times relu of the second (Shazeer 2020)."""

    def forward(self, x: Tensor) -> Tensor:
        """Halves."""
        straight, gate = x.chunk(2, dim=-1)
        return straight * torch.relu(gate)

    def to_onnx(self, graph: Graph, x: str) -> str:
        """Two slices of the last dimension."""
        width, last = self._width(graph, x), graph.constant("axes", np.asarray([-1], dtype=np.int64))
        zero, end = (graph.constant("edge", np.asarray([edge], dtype=np.int64)) for edge in (0, np.iinfo(np.int64).max))
        straight, gate = graph.add("Slice", x, zero, width, last), graph.add("Slice", x, width, end, last)
        return graph.add("Mul", straight, graph.add("Relu", gate))

    @staticmethod
    def _width(graph: Graph, x: str) -> str:
        """Half of the last dimension, computed from the value itself: whoever shrinks the layer before need not tell."""
        size = graph.add("Shape", x, start=-1)
        return graph.add("Div", size, graph.constant("two", np.asarray([2], dtype=np.int64)))


class FirstToken(nn.Module):
    """(rows, tokens, dim) to (rows, dim)."""

    def forward(self, x: Tensor) -> Tensor:
        """The asking token."""
        return x[:, 0]

    def to_onnx(self, graph: Graph, x: str) -> str:
        """Gather."""
        return graph.add(
            "Flatten", graph.add("Gather", x, graph.constant("index", np.zeros(1, dtype=np.int64)), axis=1), axis=1
        )


def block(dim: int, heads: int, *, first: bool) -> nn.Module:
    """One layer: attention, then a ReGLU of 4/3 dim."""
    width = max(1, dim * 4 // 3)
    expand = Layer(OrderedDict[str, nn.Module](linear=TokenLinear(dim, 2 * width), activation=ReGlu()))
    contract = Layer(OrderedDict[str, nn.Module](linear=TokenLinear(width, dim)))
    feed = nn.Sequential(OrderedDict[str, nn.Module](expand=expand, contract=contract))
    attend = Branch(dim, Attention(dim, heads), norm=not first)
    return nn.Sequential(OrderedDict[str, nn.Module](attend=attend, feed=Branch(dim, feed)))


class TabularTransformer(nn.Sequential):
    """`features` inputs to `outputs` logits or one value."""

    def __init__(self, features: int, dim: int, depth: int, heads: int, outputs: int) -> None:
        super().__init__(
            OrderedDict[str, nn.Module](
                tokens=Tokens(features, dim),
                blocks=nn.Sequential(*(block(dim, heads, first=not i) for i in range(depth))),
                first=FirstToken(),
                last=nn.Sequential(OrderedDict[str, nn.Module](norm=nn.LayerNorm(dim), activation=nn.ReLU())),
                head=nn.Linear(dim, outputs),
            )
        )


def build(config: TabularTransformerConfig, features: int, outputs: int) -> nn.Module:
    """The network that `engine.torch.architecture.tabularTransformer` declares."""
    return TabularTransformer(features, config.dim, config.depth, config.heads, outputs)
