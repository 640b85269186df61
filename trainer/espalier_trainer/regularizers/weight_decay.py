"""Weight decay: w <- w (1 - learningRate * strength) before each step, apart from the gradient. Loshchilov and Hutter 2019; the same
place in the step as torch's AdamW, for every optimizer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from espalier_api.regularizers import WeightDecay as WeightDecayConfig
from espalier_trainer.peers import Sharing
from espalier_trainer.protocol import Params, Regularizer, Stage, StepView, register

if TYPE_CHECKING:
    from torch import Tensor

    from espalier_trainer.schedule import Coefficient


@register
class WeightDecay(Regularizer[WeightDecayConfig]):
    """Decoupled decay."""

    name = "weightDecay"
    stage = Stage.STEP
    sharing = Sharing.EXACT
    annealed = "strength"
    in_objective = False

    def before_step(self, params: Params, view: StepView, coefficient: Coefficient) -> None:
        """w <- w (1 - lr * strength)."""
        torch._foreach_mul_(params.values, 1.0 - view.learning_rate * coefficient.value)

    def penalty_value(self, params: Params) -> Tensor:
        """||w||^2 / 2: what the decay would be as a penalty under plain SGD."""
        return torch.stack(torch._foreach_norm(params.values)).square().sum() / 2  # noqa: SLF001 - torch's own fused form
