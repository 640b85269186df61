"""Maximum margin: the loss of a row is max(0, margin - (s_y - max_{j != y} s_j)), for squaredHinge its square.
Crammer and Singer 2001; for two classes with scores of opposite sign it is the loss of scikit-learn's LinearSVC.
Scores are no log-probabilities then: declare `calibration`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from espalier_api.regularizers import MaxMargin as MaxMarginConfig
from espalier_trainer.engines.torch.losses import shares
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.peers import Sharing
from espalier_trainer.protocol import Batch, PlanContext, Regularizer, Stage, register

if TYPE_CHECKING:
    from torch import Tensor

    from espalier_trainer.schedule import Coefficient


def margin_loss(scores: Tensor, y: Tensor, margin: float, *, squared: bool) -> Tensor:
    """(rows,) from scores (rows, classes) and class indices (rows,)."""
    own = scores.gather(1, y[:, None]).squeeze(1)
    others = scores.scatter(1, y[:, None], float("-inf")).max(dim=1).values
    short = (margin - own + others).clamp_min(0.0)
    return short.square() if squared else short


@register
class MaxMargin(Regularizer[MaxMarginConfig]):
    """Replaces the data loss."""

    name = "maxMargin"
    stage = Stage.LOSS
    sharing = Sharing.EXACT
    selects = None

    def strength(self) -> float:
        """The margin, for the log."""
        return self.config.margin

    def plan(self, context: PlanContext) -> None:
        """Needs classes, and hard labels: there is no margin to a blend."""
        if context.regression:
            raise InvalidConfigError("regularizers.maxMargin: a regression has no classes to part; remove the block")
        if "batchMixing" in context.declared:
            raise InvalidConfigError(
                "regularizers.maxMargin: batchMixing blends labels and a margin needs one; remove one"
            )

    def data_loss(self, scores: Tensor, batch: Batch, coefficient: Coefficient) -> Tensor:
        """(rows,)."""
        y = shares(scores, batch.y).argmax(dim=1) if batch.y.is_floating_point() else batch.y
        return margin_loss(scores, y, self.config.margin, squared=self.config.loss == "squaredHinge")
