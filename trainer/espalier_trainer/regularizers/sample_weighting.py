"""Sample weighting: the loss is sum(w l) / sum(w), so integer weights equal duplicated rows. The weights are a column of the snapshot,
clipped, scaled to mean 1 over the training rows; they travel with the rows (Batch.weight), so that every engine honours them alike
and this file has only what must be refused.
"""

from __future__ import annotations

from espalier_api.regularizers import SampleWeighting as SampleWeightingConfig
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.peers import Sharing
from espalier_trainer.protocol import PlanContext, Regularizer, Stage, register


@register
class SampleWeighting(Regularizer[SampleWeightingConfig]):
    """Weights of rows in training; metrics are weighted by data.weightColumn."""

    name = "sampleWeighting"
    stage = Stage.DATA
    sharing = Sharing.EXACT
    selects = None

    def plan(self, context: PlanContext) -> None:
        """A weight that were a feature too would leak what the label's collectors knew."""
        if self.config.column in context.features:
            raise InvalidConfigError(
                f"regularizers.sampleWeighting.column: {self.config.column!r} is a feature as well; exclude it"
            )
