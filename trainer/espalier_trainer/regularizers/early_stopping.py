"""Early stopping: ends the fit `patience` epochs after the best one and goes back to it. Prechelt 1998. Monitor `refinement` is the
validation loss after a temperature fit, so growing overconfidence alone does not stop a model that still learns (Berta et al. 2025).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from espalier_api.regularizers import EarlyStopping as EarlyStoppingConfig
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.evaluation.calibration import fit_temperature, log_loss
from espalier_trainer.peers import Sharing
from espalier_trainer.protocol import LAST, EpochReport, PlanContext, Regularizer, Stage, register

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


@register
class EarlyStopping(Regularizer[EarlyStoppingConfig]):
    """Watches the validation split; selects last, because it chose among what the others made."""

    name = "earlyStopping"
    stage = Stage.EPOCH
    sharing = Sharing.EXACT
    order = LAST
    selects = None

    def __init__(self, config: EarlyStoppingConfig) -> None:
        super().__init__(config)
        self.best, self.best_epoch, self.stopped_at = math.inf, -1, -1
        self.weights: dict[str, Tensor] = {}

    def plan(self, context: PlanContext) -> None:
        """Needs validation rows; refinement needs classes."""
        if "validation" not in context.splits:
            raise InvalidConfigError("regularizers.earlyStopping: data.split.validation has no rows to watch")
        if self.config.monitor == "refinement" and context.regression:
            raise InvalidConfigError(
                "regularizers.earlyStopping.monitor: refinement needs a classification; use valLoss"
            )

    def end_epoch(self, report: EpochReport, weights: Mapping[str, Tensor]) -> bool:
        """Remember the best weights; True when patience is over. Epochs before the model is settled (pruned) are no candidates."""
        if not report.settled:
            return False
        value = self._monitored(report)
        if value < self.best - self.config.min_delta or self.best_epoch < 0:
            self.best, self.best_epoch = value, report.epoch
            if self.config.restore_best:
                self.weights = {name: w.detach().clone() for name, w in weights.items()}
        if report.epoch - self.best_epoch < self.config.patience:
            return False
        self.stopped_at = report.epoch
        return True

    def _monitored(self, report: EpochReport) -> float:
        """Smaller is better."""
        match self.config.monitor:
            case "metric":
                return -report.metric
            case "refinement":
                return log_loss(report.scores, report.y, fit_temperature(report.scores, report.y))
            case _:
                return report.loss

    def select(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The best epoch's weights, bit for bit."""
        return dict(self.weights) if self.weights else weights

    def state_dict(self) -> dict[str, Any]:
        """Best so far."""
        best = None if math.isinf(self.best) else self.best
        return {"best": best, "bestEpoch": self.best_epoch, "stoppedAt": self.stopped_at, "weights": self.weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse."""
        self.best = math.inf if state["best"] is None else state["best"]
        self.best_epoch, self.stopped_at, self.weights = state["bestEpoch"], state["stoppedAt"], dict(state["weights"])

    def notes(self) -> dict[str, Any]:
        """For the report."""
        stopped = self.stopped_at + 1 if self.stopped_at >= 0 else None
        return {"bestEpoch": self.best_epoch + 1, "stoppedAtEpoch": stopped, "restored": bool(self.weights)}
