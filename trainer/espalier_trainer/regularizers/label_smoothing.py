"""Label smoothing: the target is (1 - epsilon) one-hot + epsilon / K. Szegedy et al. 2016. The loss is linear in epsilon,
CE + epsilon (mean_k -log p_k - CE), so epsilon may be a tensor that anneals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F

from espalier_api.regularizers import LabelSmoothing as LabelSmoothingConfig
from espalier_trainer.engines.torch.losses import shares
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.peers import Sharing
from espalier_trainer.protocol import Batch, PlanContext, Regularizer, Stage, register

if TYPE_CHECKING:
    from torch import Tensor

    from espalier_trainer.schedule import Coefficient


@register
class LabelSmoothing(Regularizer[LabelSmoothingConfig]):
    """Replaces cross-entropy by its smoothed form."""

    name = "labelSmoothing"
    stage = Stage.LOSS
    sharing = Sharing.EXACT
    annealed = "epsilon"
    selects = None

    def plan(self, context: PlanContext) -> None:
        """Needs classes."""
        if context.regression:
            raise InvalidConfigError(
                "regularizers.labelSmoothing: a regression has no labels to smooth; remove the block"
            )

    def data_loss(self, scores: Tensor, batch: Batch, coefficient: Coefficient) -> Tensor:
        """(rows,)."""
        log_p = F.log_softmax(scores, dim=-1)
        hard = -(shares(scores, batch.y) * log_p).sum(-1)
        return hard + coefficient.tensor * (-log_p.mean(-1) - hard)
