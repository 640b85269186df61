"""Plain data losses per row: cross-entropy for classes (hard or shares), half the squared error for values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor

    from espalier_trainer.protocol import Batch


def per_row(scores: Tensor, batch: Batch, *, regression: bool) -> Tensor:
    """The unregularized loss of each row, shape (rows,), in fp32 or better."""
    if regression:
        return 0.5 * (scores.squeeze(-1) - batch.y).square()
    return F.cross_entropy(scores, batch.y, reduction="none")


def mean(losses: Tensor, weight: Tensor | None) -> Tensor:
    """Mean over rows; with weights sum(w l) / sum(w), so that integer weights equal duplicated rows."""
    return losses.mean() if weight is None else torch.dot(losses, weight) / weight.sum()


def shares(scores: Tensor, y: Tensor) -> Tensor:
    """Targets as class shares (rows, classes), from indices or from shares."""
    if y.is_floating_point():
        return y
    classes = torch.arange(scores.shape[-1], device=y.device)
    return (y[:, None] == classes).to(scores.dtype)  # one_hot looks at the values, which vmap cannot
