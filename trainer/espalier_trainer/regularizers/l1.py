"""L1: strength * ||w||_1 by a proximal step after the optimizer's, the only form that reaches exact zeros. With Adam the threshold is
strength * lr / (sqrt(v_hat) + eps) per element, the prox in Adam's own metric; a threshold of lr * strength would be another problem
(reference, fact 1). Parikh and Boyd 2014, 6.5.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from espalier_api.regularizers import L1 as L1Config  # noqa: N811 - the block's name is its formula's
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.protocol import Params, PlanContext, Regularizer, Stage, StepView, register

if TYPE_CHECKING:
    from torch import Tensor

    from espalier_trainer.schedule import Coefficient


def soft_threshold(weight: Tensor, threshold: Tensor | float) -> None:
    """w <- sign(w) max(|w| - threshold, 0), in place. Written without sign() so that a zero stays +0."""
    if isinstance(threshold, torch.Tensor):
        weight.sub_(torch.maximum(torch.minimum(weight, threshold), -threshold))
    else:
        weight.sub_(weight.clamp(-threshold, threshold))


@register
class L1(Regularizer[L1Config]):
    """strength * ||w||_1."""

    name = "l1"
    stage = Stage.STEP
    annealed = "strength"

    def plan(self, context: PlanContext) -> None:
        """The Hadamard form trains other parameters; it is a block of its own and not here yet."""
        if self.config.method != "proximal":
            raise InvalidConfigError(
                f"regularizers.l1.method: {self.config.method} is not implemented by this trainer; use proximal (the default)"
            )

    def after_step(self, params: Params, view: StepView, coefficient: Coefficient) -> None:
        """Soft threshold in the optimizer's metric."""
        for weight in params.values:
            soft_threshold(weight, coefficient.value * view.step_size(weight))

    def penalty_value(self, params: Params) -> Tensor:
        """||w||_1."""
        return torch.stack(torch._foreach_norm(params.values, 1)).sum()  # noqa: SLF001 - torch's own fused form
