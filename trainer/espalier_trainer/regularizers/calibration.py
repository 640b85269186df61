"""Calibration by temperature: logits / T with T fitted to the negative log-likelihood of held-out rows. Guo et al. 2017. Decisions stay;
T is folded into the exported graph, so serving cannot forget it. No torch here: every engine has scores.
"""

from __future__ import annotations

from espalier_api.regularizers import Calibration as CalibrationConfig
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.evaluation.calibration import fit_temperature, log_loss
from espalier_trainer.protocol import PlanContext, PostContext, Regularizer, Stage, register


@register
class Calibration(Regularizer[CalibrationConfig]):
    """Sets the temperature of the packaged graph."""

    name = "calibration"
    stage = Stage.POST
    selects = None

    def plan(self, context: PlanContext) -> None:
        """Needs classes, rows to fit on, and a method this file has."""
        if context.regression:
            raise InvalidConfigError(
                "regularizers.calibration: a regression has no probabilities to calibrate; remove the block"
            )
        if self.config.method != "temperature":
            raise InvalidConfigError(
                f"regularizers.calibration.method: {self.config.method} is not implemented by this trainer; use temperature"
            )
        if self.config.split not in context.splits:
            raise InvalidConfigError(
                f"regularizers.calibration.split: data.split.{self.config.split} has no rows; set data.split.{self.config.split} "
                "(for example 0.1) or choose another split"
            )

    def post(self, context: PostContext) -> None:
        """Fit T; keep 1 when the fit does not help its own rows."""
        scores, y = context.scores[self.config.split], context.y[self.config.split]
        temperature = fit_temperature(scores, y)
        before, after = log_loss(scores, y), log_loss(scores, y, temperature)
        context.temperature = temperature if after <= before else 1.0
        context.notes["calibration"] = {
            "method": "temperature",
            "split": self.config.split,
            "rows": len(y),
            "temperature": context.temperature,
            "logLossBefore": before,
            "logLossAfter": min(before, after),
        }
