"""Robust losses: wrong labels and outliers lose their grip. gce: (1 - p_y^q)/q, CE for q -> 0 and 1 - p_y (half the MAE) for q = 1
(Zhang and Sabuncu 2018). symmetricCE: 0.1 CE + 1.0 RCE with log 0 := -4, so RCE = 4 (1 - p_y) (Wang et al. 2019, their CIFAR-10
weights). biTempered (Amid et al. 2019): a Bregman divergence of temperature t1 < 1, which is bounded, on a softmax of temperature t2 > 1,
whose tail is heavy; t1 = 0.8 and t2 = 1.2 are theirs for noisy CIFAR-100, and t1 = t2 = 1 is cross-entropy.
huber: quadratic up to delta, then linear (regression, delta in the target's unit).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
import torch.nn.functional as F

from espalier_api.regularizers import RobustLoss as RobustLossConfig
from espalier_trainer.engines.torch.losses import shares
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.peers import Sharing
from espalier_trainer.protocol import Batch, PlanContext, Regularizer, Stage, register

if TYPE_CHECKING:
    from torch import Tensor

    from espalier_trainer.schedule import Coefficient

SCE_CE: Final = 0.1
SCE_RCE: Final = 1.0
SCE_LOG_ZERO: Final = -4.0
BI_T1: Final = 0.8
BI_T2: Final = 1.2
NEWTON_STEPS: Final = 16  # quadratic from below; 1,000 equal classes need 13 for the last bit


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


def exp_t(x: Tensor, t: float) -> Tensor:
    """[1 + (1 - t) x]_+ ^ (1 / (1 - t)), exp for t = 1."""
    return x.exp() if t == 1.0 else (1.0 + (1.0 - t) * x).clamp_min(0.0) ** (1.0 / (1.0 - t))


def log_t(x: Tensor, t: float) -> Tensor:
    """(x^(1 - t) - 1) / (1 - t), the inverse of exp_t; log for t = 1."""
    return x.log() if t == 1.0 else (x ** (1.0 - t) - 1.0) / (1.0 - t)


def tempered_softmax(scores: Tensor, t: float) -> Tensor:
    """p (rows, classes) = exp_t(scores - norm) with the norm that makes rows sum to 1; t >= 1.

    Newton from the largest score: the sum is convex and falls in the norm, so steps never overshoot. The norm's own gradient is known in
    closed form, p^t / sum p^t (its escort distribution), so nothing is differentiated through the iteration.
    """
    if t == 1.0:
        return F.softmax(scores, dim=-1)
    fixed = scores.detach()
    norm = fixed.max(-1, keepdim=True).values
    for _ in range(NEWTON_STEPS):
        p = exp_t(fixed - norm, t)
        norm = norm + (p.sum(-1, keepdim=True) - 1.0) / (p**t).sum(-1, keepdim=True)
    escort = exp_t(fixed - norm, t) ** t
    escort = escort / escort.sum(-1, keepdim=True)
    return exp_t(scores - norm - (escort * (scores - fixed)).sum(-1, keepdim=True), t)


def bi_tempered(scores: Tensor, target: Tensor, t1: float = BI_T1, t2: float = BI_T2) -> Tensor:
    """(rows,). sum_k y (log_t1 y - log_t1 p) - (y^(2 - t1) - p^(2 - t1)) / (2 - t1), with 0 log 0 = 0."""
    p = tempered_softmax(scores, t2)
    entropy = target * log_t(target.clamp_min(torch.finfo(target.dtype).tiny), t1)
    gap = entropy - target * log_t(p, t1) - (target ** (2.0 - t1) - p ** (2.0 - t1)) / (2.0 - t1)
    return gap.sum(-1)


@register
class RobustLoss(Regularizer[RobustLossConfig]):
    """Replaces the data loss."""

    name = "robustLoss"
    stage = Stage.LOSS
    sharing = Sharing.EXACT
    selects = None

    def __init__(self, config: RobustLossConfig) -> None:
        super().__init__(config)
        self._delta = config.delta

    def strength(self) -> float:
        """The kind's own number, for the log."""
        return {"gce": self.config.q, "huber": self.config.delta, "biTempered": BI_T1}.get(self.config.kind, SCE_RCE)

    def plan(self, context: PlanContext) -> None:
        """huber is for numbers, the others for classes."""
        kind = self.config.kind
        if (kind == "huber") != context.regression:
            task, use = (
                ("regression", "huber") if context.regression else ("classification", "gce, symmetricCE or biTempered")
            )
            raise InvalidConfigError(f"regularizers.robustLoss.kind: {kind} does not fit task.type {task}; use {use}")
        self._delta = self.config.delta / context.target_scale

    def data_loss(self, scores: Tensor, batch: Batch, coefficient: Coefficient) -> Tensor:
        """(rows,)."""
        match self.config.kind:
            case "gce":
                return gce(scores, shares(scores, batch.y), self.config.q)
            case "symmetricCE":
                return symmetric_ce(scores, shares(scores, batch.y))
            case "biTempered":
                return bi_tempered(scores, shares(scores, batch.y))
            case _:
                return F.huber_loss(scores.squeeze(-1), batch.y, reduction="none", delta=self._delta)
