"""A transformer over ids of tokens (Vaswani et al. 2017) of pre-norm blocks: embedding plus learned positions, the layers of the
tabularTransformer, the mean of all tokens that are no padding, `head`. Padding is neither looked at nor pooled: what it holds has no say.

Names: `tokens` (`embedding.weight`, `positions`), `blocks.<i>.attend`, `blocks.<i>.feed` as there, `last`, `head`.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import Tensor, nn

from espalier_trainer.engines.torch.architectures.tabular_transformer import block
from espalier_trainer.engines.torch.convert import append, array
from espalier_trainer.errors import InvalidConfigError

if TYPE_CHECKING:
    from espalier_api.engines import TokenTransformer as TokenTransformerConfig
    from espalier_api.preprocessing import Tokens
    from espalier_trainer.export.graph import Graph

UNSEEN: Final = -1e9
"""Added to what a softmax sees of padding: its share is exactly 0 in float32 as long as one token is there."""
SPREAD: Final = 0.02
"""Deviation of fresh embeddings and positions (Devlin et al. 2019)."""


class TokenEmbedding(nn.Module):
    """Ids (rows, length) to (rows, length, dim): the row of the embedding plus that of the position."""

    def __init__(self, vocabulary: int, length: int, dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, dim)
        self.positions = nn.Parameter(SPREAD * torch.randn(length, dim))
        nn.init.normal_(self.embedding.weight, std=SPREAD)

    def forward(self, ids: Tensor) -> Tensor:
        """Sums."""
        embedded: Tensor = self.embedding(ids) + self.positions
        return embedded

    def to_onnx(self, graph: Graph, ids: str) -> str:
        """Gather and Add."""
        rows = graph.add("Gather", graph.constant("embedding", array(self.embedding.weight)), ids, axis=0)
        return graph.add("Add", rows, graph.constant("positions", array(self.positions)))


class TokenTransformer(nn.Module):
    """Ids (rows, length), held in floats like every input, to `outputs` logits or one value."""

    def __init__(self, tokens: Tokens, dim: int, depth: int, heads: int, outputs: int) -> None:
        super().__init__()
        self.padding = tokens.padding
        self.tokens = TokenEmbedding(tokens.vocabulary, tokens.length, dim)
        self.blocks = nn.Sequential(*(block(dim, heads, first=False) for _ in range(depth)))
        self.last = nn.Sequential(OrderedDict[str, nn.Module](norm=nn.LayerNorm(dim)))
        self.head = nn.Linear(dim, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Scores."""
        ids = x.long()
        there = (ids != self.padding).to(self.tokens.positions.dtype)
        unseen = ((1 - there) * UNSEEN)[:, None, None, :]
        z = self.tokens(ids)
        for layer in self.blocks:
            attend, feed = layer.children()
            z = feed(attend(z, unseen))
        z = self.last(z) * there[..., None]
        scores: Tensor = self.head(z.sum(1) / there.sum(1, keepdim=True).clamp_min(1))
        return scores

    def to_onnx(self, graph: Graph, x: str) -> str:
        """The same; a row of nothing but padding is the head's bias."""
        ids = graph.add("Cast", x, to=graph.INT64)
        padding = graph.add("Equal", ids, graph.constant("padding", np.asarray([self.padding], dtype=np.int64)))
        there = graph.add("Cast", graph.add("Not", padding), to=graph.FLOAT)
        away = graph.add("Mul", graph.add("Cast", padding, to=graph.FLOAT), graph.scalar(UNSEEN))
        unseen = graph.add("Unsqueeze", away, graph.constant("axes", np.asarray([1, 2], dtype=np.int64)))
        z = append(graph, self.tokens, ids)
        for layer in self.blocks:
            attend, feed = layer.children()
            z = append(graph, feed, attend.to_onnx(graph, z, unseen))  # type: ignore[operator]
        column = graph.add("Unsqueeze", there, graph.constant("axes", np.asarray([2], dtype=np.int64)))
        one = graph.constant("axes", np.asarray([1], dtype=np.int64))
        total = graph.add("ReduceSum", graph.add("Mul", append(graph, self.last, z), column), one, keepdims=0)
        count = graph.add("Max", graph.add("ReduceSum", there, one, keepdims=1), graph.scalar(1))
        return append(graph, self.head, graph.add("Div", total, count))


def build(config: tuple[TokenTransformerConfig, Tokens], features: int, outputs: int) -> nn.Module:
    """The network that `engine.torch.architecture.tokenTransformer` declares, for the ids that `data.preprocessing.tokens` does."""
    network, tokens = config
    if features != tokens.length:
        raise InvalidConfigError(
            f"data.preprocessing.tokens.length: {tokens.length} tokens, and the data has {features} features"
        )
    return TokenTransformer(tokens, network.dim, network.depth, network.heads, outputs)
