"""Evaluation mode: scores with any weights, plain losses that can be compared, and the weights that would be shipped now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn
from torch.func import functional_call

from espalier_trainer.engines.torch import losses
from espalier_trainer.engines.torch.tensors import as_numpy
from espalier_trainer.protocol import Batch, EpochReport, Regularizer, acting

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from espalier_trainer.engines.torch.tensors import Tensors

EVAL_ROWS: Final = 8192
BATCH_NORMS: Final = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def scores(model: nn.Module, x: Tensor, state: Mapping[str, Tensor] | None = None) -> Tensor:
    """Evaluation-mode scores (rows, outputs), with other weights and buffers if given; the training mode is left as it was."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        parts = [
            model(part) if state is None else functional_call(model, dict(state), (part,))
            for part in torch.split(x, EVAL_ROWS)
        ]
    model.train(was_training)
    return torch.cat(parts)


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, detached, not copied."""
    return {n: t.detach() for n, t in (*model.named_parameters(), *model.named_buffers())}


def shipped(model: nn.Module, blocks: Sequence[Regularizer[Any]], x: Tensor) -> dict[str, Tensor]:
    """What would be shipped now, parameters and buffers: the model's own unless an averaging block holds better ones.

    Averaged weights make other activations, so batch statistics are measured anew with them on the training rows `x` (R26).
    Blocks that guarantee something of weights (masks) impose it on the average, too (R23).
    """
    state = state_of(model)
    averaged: dict[str, Tensor] = {}
    for block in acting(blocks, "evaluation_weights"):
        averaged |= block.evaluation_weights()
    if not averaged:
        return state
    state = constrained(blocks, state | averaged)
    return state | batch_statistics(model, state, x)


def constrained(blocks: Sequence[Regularizer[Any]], weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """`weights` as every block that guarantees something of them leaves them."""
    for block in acting(blocks, "constrain"):
        weights = block.constrain(weights)
    return weights


def batch_statistics(model: nn.Module, state: Mapping[str, Tensor], x: Tensor) -> dict[str, Tensor]:
    """Running mean and variance of every batch normalization as a plain mean over `x` with the given weights
    (Izmailov et al. 2018, 3.3). Empty without such layers; all other modules are in evaluation mode, the model is left as it was.
    """
    norms = {n: m for n, m in model.named_modules() if isinstance(m, BATCH_NORMS)}
    if not norms:
        return {}
    was_training = model.training
    model.eval()
    fresh = {f"{n}.{b}": t.detach().clone() for n, m in norms.items() for b, t in m.named_buffers()}
    momenta = {n: m.momentum for n, m in norms.items()}
    for norm in norms.values():
        norm.train()
        norm.momentum = None  # a cumulative mean
    for name, tensor in fresh.items():
        tensor.fill_(1) if name.endswith("running_var") else tensor.zero_()
    with torch.no_grad():
        parts = torch.tensor_split(x, -(-len(x) // EVAL_ROWS))  # equal ones: each counts the same, none has one row
        for part in parts:
            functional_call(model, {**state, **fresh}, (part,))
    for name, norm in norms.items():
        norm.momentum = momenta[name]
    model.train(was_training)
    return fresh


def loss(model: nn.Module, part: Tensors, state: Mapping[str, Tensor], *, regression: bool) -> float:
    """Plain loss in evaluation mode: comparable between splits, whatever the objective is."""
    found = scores(model, part.x, state)
    return float(losses.per_row(found, Batch(found, part.y), regression=regression).mean())


def validate(
    model: nn.Module,
    part: Tensors,
    state: Mapping[str, Tensor],
    epoch: int,
    *,
    regression: bool,
    settled: bool = True,
) -> EpochReport:
    """What EPOCH hooks judge: loss, accuracy or R2, and the scores behind them."""
    found = scores(model, part.x, state)
    with torch.no_grad():
        value = float(losses.per_row(found, Batch(found, part.y), regression=regression).mean())
        if regression:
            residual = (found.squeeze(-1) - part.y).square().mean()
            metric = 1.0 - float(residual / part.y.var(unbiased=False).clamp_min(1e-12))
        else:
            metric = float((found.argmax(-1) == part.y).double().mean())
    return EpochReport(epoch, value, metric, as_numpy(found), part.y.cpu().numpy(), settled)
