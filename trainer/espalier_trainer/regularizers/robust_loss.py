"""Robust losses: wrong labels and outliers lose their grip. gce: (1 - p_y^q)/q, CE for q -> 0 and 1 - p_y (half the MAE) for q = 1
(Zhang and Sabuncu 2018). symmetricCE: 0.1 CE + 1.0 RCE with log 0 := -4, so RCE = 4 (1 - p_y) (Wang et al. 2019, their CIFAR-10
weights). biTempered: not here. huber: quadratic up to delta, then linear (regression, delta in the target's unit).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
import torch.nn.functional as F

from espalier_api.regularizers import RobustLoss as RobustLossConfig
from espalier_trainer.engines.torch.losses import shares
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.protocol import Batch, PlanContext, Regularizer, Stage, register

if TYPE_CHECKING:
    from torch import Tensor

    from espalier_trainer.schedule import Coefficient

SCE_CE: Final = 0.1
SCE_RCE: Final = 1.0
SCE_LOG_ZERO: Final = -4.0


def gce(scores: Tensor, target: Tensor, q: float) -> Tensor:
    """(rows,). Computed from log p: p^q = exp(q log p), and expm1 keeps the limit q -> 0 exact."""
    log_p = F.log_softmax(scores, dim=-1)
    return -(target * torch.expm1(q * log_p)).sum(-1) / q


def symmetric_ce(scores: Tensor, target: Tensor) -> Tensor:
    """(rows,)."""
    log_p = F.log_softmax(scores, dim=-1)
    forward = -(target * log_p).sum(-1)
    reverse = -SCE_LOG_ZERO * (log_p.exp() * (1.0 - target)).sum(-1)
    return SCE_CE * forward + SCE_RCE * reverse


@register
class RobustLoss(Regularizer[RobustLossConfig]):
    """Replaces the data loss."""

    name = "robustLoss"
    stage = Stage.LOSS
    selects = None

    def __init__(self, config: RobustLossConfig) -> None:
        super().__init__(config)
        self._delta = config.delta

    def strength(self) -> float:
        """The kind's own number, for the log."""
        return {"gce": self.config.q, "huber": self.config.delta}.get(self.config.kind, SCE_RCE)

    def plan(self, context: PlanContext) -> None:
        """huber is for numbers, the others for classes."""
        kind = self.config.kind
        if kind == "biTempered":
            raise InvalidConfigError(
                "regularizers.robustLoss.kind: biTempered is not implemented by this trainer; use gce or symmetricCE"
            )
        if (kind == "huber") != context.regression:
            task, use = ("regression", "huber") if context.regression else ("classification", "gce or symmetricCE")
            raise InvalidConfigError(f"regularizers.robustLoss.kind: {kind} does not fit task.type {task}; use {use}")
        self._delta = self.config.delta / context.target_scale

    def data_loss(self, scores: Tensor, batch: Batch, coefficient: Coefficient) -> Tensor:
        """(rows,)."""
        match self.config.kind:
            case "gce":
                return gce(scores, shares(scores, batch.y), self.config.q)
            case "symmetricCE":
                return symmetric_ce(scores, shares(scores, batch.y))
            case _:
                return F.huber_loss(scores.squeeze(-1), batch.y, reduction="none", delta=self._delta)
