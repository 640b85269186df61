"""Calibration losses: a term that rewards honest probabilities while the network still learns.

brier: mean over rows of |p - onehot(y)|^2 (Brier 1950).
mmce (Kumar et al. 2018): the root of sum_ij (c_i - r_i)(c_j - r_j) k(r_i, r_j) / m^2 over the m rows of a batch, with confidence r = max p,
correctness c, which is not differentiated, and the Laplacian kernel k = exp(-|r_i - r_j| / 0.4).
confidencePenalty (Pereyra et al. 2017): minus the entropy of p, so the term rewards entropy.
Blended labels (batchMixing) count by their shares.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
import torch.nn.functional as F

from espalier_api.regularizers import CalibrationLoss as CalibrationLossConfig
from espalier_trainer.engines.torch.losses import shares
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.peers import Sharing
from espalier_trainer.protocol import Batch, PlanContext, Regularizer, Stage, Step, register

if TYPE_CHECKING:
    from torch import Tensor

WIDTH: Final = 0.4  # of the kernel, the authors' choice
TINY: Final = 1e-12


def brier(scores: Tensor, target: Tensor) -> Tensor:
    """Scalar; `target` (rows, classes) shares."""
    return (F.softmax(scores, dim=-1) - target).square().sum(-1).mean()


def mmce(scores: Tensor, target: Tensor) -> Tensor:
    """Scalar, 0 for a calibrated batch. The root has no slope at 0, hence the hair that is added below it."""
    confidence, called = F.softmax(scores, dim=-1).max(-1)
    correct = target.gather(-1, called[:, None]).squeeze(-1).detach()
    miss = correct - confidence
    kernel = torch.exp(-(confidence[:, None] - confidence[None, :]).abs() / WIDTH)
    return ((miss @ kernel @ miss).clamp_min(0.0) / len(miss) ** 2 + TINY).sqrt()


def negative_entropy(scores: Tensor) -> Tensor:
    """Scalar; between -log classes and 0."""
    log_p = F.log_softmax(scores, dim=-1)
    return (log_p.exp() * log_p).sum(-1).mean()


@register
class CalibrationLoss(Regularizer[CalibrationLossConfig]):
    """A term of the objective."""

    name = "calibrationLoss"
    stage = Stage.LOSS
    sharing = Sharing.EXACT
    annealed = "strength"
    selects = None

    def plan(self, context: PlanContext) -> None:
        """Needs probabilities."""
        if context.regression:
            raise InvalidConfigError(
                "regularizers.calibrationLoss: a regression has no probabilities; remove the block"
            )

    def loss_terms(self, scores: Tensor, batch: Batch, step: Step) -> dict[str, Tensor]:
        """The declared kind."""
        match self.config.kind:
            case "brier":
                return {"brier": brier(scores, shares(scores, batch.y))}
            case "mmce":
                return {"mmce": mmce(scores, shares(scores, batch.y))}
            case _:
                return {"negativeEntropy": negative_entropy(scores)}
