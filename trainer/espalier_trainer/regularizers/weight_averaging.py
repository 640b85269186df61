"""Weight averaging. ema: avg <- decay avg + (1 - decay) w after every step, starting at the first step's weights (Polyak and Juditsky 1992;
torch's AveragedModel). swa: the plain mean of the weights at the steps of the last quarter (Izmailov et al. 2018).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from espalier_api.regularizers import WeightAveraging as WeightAveragingConfig
from espalier_trainer.peers import Sharing
from espalier_trainer.protocol import LAST, Params, PlanContext, Regularizer, Stage, StepView, register
from espalier_trainer.targets import Selector

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from espalier_trainer.schedule import Coefficient

SWA_START: Final = 0.75


@register
class WeightAveraging(Regularizer[WeightAveragingConfig]):
    """Averages all parameters; runs last in STEP, after prox and projections."""

    name = "weightAveraging"
    stage = Stage.STEP
    sharing = Sharing.EXACT
    order = LAST
    selects = "parameters"

    def __init__(self, config: WeightAveragingConfig) -> None:
        super().__init__(config)
        self.selector = Selector()  # a part of a network at other weights than the rest would be another network
        self.average: dict[str, Tensor] = {}
        self.count, self.seen, self._start = 0, 0, 0

    def strength(self) -> float:
        """The decay, for the log."""
        return self.config.decay

    def plan(self, context: PlanContext) -> None:
        """swa begins after three quarters of the fit."""
        if self.config.kind == "swa":
            self._start = int(SWA_START * context.epochs * context.steps_per_epoch)

    def after_step(self, params: Params, view: StepView, coefficient: Coefficient) -> None:
        """One update of the average."""
        self.seen += 1
        if self.seen <= self._start:
            return
        self.count += 1
        if self.count == 1:
            self.average = {name: p.detach().clone() for name, p in zip(params.names, params.values, strict=True)}
            return
        share = 1.0 - self.config.decay if self.config.kind == "ema" else 1.0 / self.count
        torch._foreach_lerp_([self.average[name] for name in params.names], params.values, share)

    def evaluation_weights(self) -> Mapping[str, Tensor]:
        """The average, once there is one."""
        return self.average

    def select(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Ship the average."""
        return {**weights, **{name: w.clone() for name, w in self.average.items()}}

    def state_dict(self) -> dict[str, Any]:
        """Average and counts."""
        return {"average": self.average, "count": self.count, "seen": self.seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse."""
        self.average, self.count, self.seen = dict(state["average"]), state["count"], state["seen"]
