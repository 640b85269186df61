"""Elastic net: strength * (l1Ratio * ||w||_1 + (1 - l1Ratio)/2 * ||w||^2), sklearn's form. Zou and Hastie 2005. The L2 part is an
analytic gradient, the L1 part a proximal step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from espalier_api.regularizers import ElasticNet as ElasticNetConfig
from espalier_trainer.peers import Sharing
from espalier_trainer.protocol import Params, Regularizer, Stage, StepView, register
from espalier_trainer.regularizers.l1 import soft_threshold

if TYPE_CHECKING:
    from torch import Tensor

    from espalier_trainer.schedule import Coefficient


@register
class ElasticNet(Regularizer[ElasticNetConfig]):
    """Both penalties under one strength."""

    name = "elasticNet"
    stage = Stage.STEP
    sharing = Sharing.EXACT
    annealed = "strength"

    def penalty_grad(self, params: Params, coefficient: Coefficient) -> None:
        """grad += strength (1 - l1Ratio) w."""
        ridge = coefficient.value * (1.0 - self.config.l1_ratio)
        torch._foreach_add_(params.grads, params.values, alpha=ridge)

    def after_step(self, params: Params, view: StepView, coefficient: Coefficient) -> None:
        """Soft threshold by strength * l1Ratio."""
        for weight in params.values:
            soft_threshold(weight, coefficient.value * self.config.l1_ratio * view.step_size(weight))

    def penalty_value(self, params: Params) -> Tensor:
        """l1Ratio ||w||_1 + (1 - l1Ratio)/2 ||w||^2."""
        ratio = self.config.l1_ratio
        absolute = torch.stack(torch._foreach_norm(params.values, 1)).sum()  # noqa: SLF001 - torch's own fused form
        squared = torch.stack(torch._foreach_norm(params.values)).square().sum()  # noqa: SLF001 - torch's own fused form
        return ratio * absolute + (1.0 - ratio) / 2 * squared
