"""The diagonal of the Fisher information of a network's weights: which of them its predictions hang on.

exact: E_x E_{y ~ model} (d log p(y|x) / dw)^2, the expectation over the model's own labels in closed form; empirical: the same at the
labels of the data (Kunstner et al. 2019 on how they differ). Values have unit variance, like half the squared error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch.func import functional_call, grad, jacrev, vmap

from espalier_trainer import rng
from espalier_trainer.engines.torch import losses
from espalier_trainer.protocol import Batch

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from torch import Tensor, nn

NUMBERS: Final = 1 << 24
"""Gradients that are held at a time: 64 MiB of float32."""


@torch.no_grad()
def diagonal(
    model: nn.Module,
    state: Mapping[str, Tensor],
    chosen: Collection[str],
    x: Tensor,
    y: Tensor,
    *,
    exact: bool,
    regression: bool,
) -> dict[str, Tensor]:
    """Mean over rows `x` (rows, ...) of squared per-row gradients by the `chosen` weights, in evaluation mode.

    `state` are all parameters and buffers by name, in place of the model's own.
    """
    fixed = {name: t.detach() for name, t in state.items() if name not in chosen}
    weights = {name: state[name].detach() for name in chosen}
    answer = _Answer(model, fixed)
    was_training = model.training
    model.eval()
    outputs = 1 if regression else int(answer(weights, x[0]).shape[-1])
    squares = _exact(answer, regression=regression) if exact else _empirical(answer, regression=regression)
    step = max(1, NUMBERS // (sum(w.numel() for w in weights.values()) * (outputs if exact else 1)))
    total = {name: torch.zeros_like(w) for name, w in weights.items()}
    for part, labels in zip(torch.split(x, step), torch.split(y, step), strict=True):
        for name, value in vmap(squares, in_dims=(None, 0, 0))(weights, part, labels).items():
            total[name] += value.sum(0)
    model.train(was_training)
    return {name: value / len(x) for name, value in total.items()}


@dataclass(frozen=True, slots=True)
class _Answer:
    """Scores (outputs,) of one row as a function of the chosen weights."""

    model: nn.Module
    fixed: Mapping[str, Tensor]

    def __call__(self, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
        scores: Tensor = functional_call(self.model, {**self.fixed, **weights}, (x.unsqueeze(0),))
        return scores.squeeze(0)


def _empirical(answer: _Answer, *, regression: bool) -> Callable[..., dict[str, Tensor]]:
    def loss(weights: Mapping[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        scores = answer(weights, x).unsqueeze(0)
        return losses.per_row(scores, Batch(x.unsqueeze(0), y.unsqueeze(0)), regression=regression).sum()

    def squares(weights: Mapping[str, Tensor], x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {name: g.square() for name, g in grad(loss)(weights, x, y).items()}

    return squares


def _exact(answer: _Answer, *, regression: bool) -> Callable[..., dict[str, Tensor]]:
    def likelihoods(weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
        scores = answer(weights, x)
        return scores if regression else torch.log_softmax(scores, -1)

    def squares(weights: Mapping[str, Tensor], x: Tensor, _: Tensor) -> dict[str, Tensor]:
        jacobian = jacrev(likelihoods)(weights, x)
        told = likelihoods(weights, x)
        share = torch.ones_like(told) if regression else told.exp()
        return {name: torch.tensordot(share, j.square(), dims=1) for name, j in jacobian.items()}

    return squares


def some_rows(rows: int, samples: int, seed: int) -> Tensor:
    """At most `samples` of the rows, drawn without replacement, in order."""
    chosen = torch.from_numpy(rng.permutation(rng.derive(seed, "fisher"), rows)[:samples])
    return chosen.sort().values
