"""Abstention: answer only where the error rate among answers is at most `maxRisk` with probability `confidence`.

Selection with guaranteed risk (Geifman and El-Yaniv 2017): the threshold on the largest probability is chosen on held-out rows
with Clopper-Pearson's bound, corrected for the search. The threshold travels in the manifest (`task.minConfidence`), and
the server does not answer below it (outcome `rejected`). The rows are those of the calibration split; temperature and
threshold are both fitted there, and a temperature hardly reorders rows, so the promise is that of the order the model gives.
"""

from __future__ import annotations

import numpy as np

from espalier_api.regularizers import Abstention as AbstentionConfig
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.evaluation.calibration import softmax
from espalier_trainer.evaluation.selective import threshold_for
from espalier_trainer.peers import Sharing
from espalier_trainer.protocol import LAST, PlanContext, PostContext, Regularizer, Stage, register


@register
class Abstention(Regularizer[AbstentionConfig]):
    """Chooses the threshold after everything that changes probabilities."""

    name = "abstention"
    stage = Stage.POST
    sharing = Sharing.EXACT
    order = LAST
    selects = None

    def strength(self) -> float:
        """The bound, for the log."""
        return self.config.max_risk

    def plan(self, context: PlanContext) -> None:
        """Needs classes and rows that nothing was fitted to."""
        if context.regression:
            raise InvalidConfigError(
                "regularizers.abstention: a regression has no confidence; use serving.outputGuards.range"
            )
        if "calibration" not in context.splits:
            raise InvalidConfigError(
                "regularizers.abstention: its promise needs rows that the fit never saw; set data.split.calibration (for example 0.1)"
            )

    def post(self, context: PostContext) -> None:
        """The largest coverage whose risk is bounded; InvalidConfigError when no threshold can be promised."""
        p = softmax(context.scores["calibration"], context.temperature)
        wrong = p.argmax(axis=1) != context.y["calibration"]
        confidence = np.asarray(p.max(axis=1))
        found = threshold_for(confidence, wrong, self.config.max_risk, self.config.confidence)
        if found is None:
            raise InvalidConfigError(
                f"regularizers.abstention.maxRisk: {self.config.max_risk:g} cannot be promised with confidence "
                f"{self.config.confidence:g} on {len(p)} rows of data.split.calibration "
                f"({int(wrong.sum())} errors); hold back more rows or allow more risk"
            )
        context.min_confidence = found.value
        context.notes["abstention"] = {
            "minConfidence": found.value,
            "riskBound": found.bound,
            "coverage": found.coverage,
            "rows": len(p),
        }
