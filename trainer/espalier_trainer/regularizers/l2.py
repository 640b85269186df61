"""L2: adds strength/2 * ||w||^2 to the objective. Goodfellow et al. 2016, 7.1.1. Its gradient, strength * w, is added after
backward, so it costs no autograd graph and survives per-sample gradients.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from espalier_api.regularizers import L2 as L2Config  # noqa: N811 - the block's name is its formula's
from espalier_trainer.peers import Sharing
from espalier_trainer.protocol import Params, Regularizer, Stage, register

if TYPE_CHECKING:
    from torch import Tensor

    from espalier_trainer.schedule import Coefficient


@register
class L2(Regularizer[L2Config]):
    """strength/2 * ||w||^2."""

    name = "l2"
    stage = Stage.GRAD
    sharing = Sharing.EXACT
    annealed = "strength"

    def penalty_grad(self, params: Params, coefficient: Coefficient) -> None:
        """grad += strength * w."""
        torch._foreach_add_(params.grads, params.values, alpha=coefficient.value)

    def penalty_value(self, params: Params) -> Tensor:
        """||w||^2 / 2."""
        return torch.stack(torch._foreach_norm(params.values)).square().sum() / 2  # noqa: SLF001 - torch's own fused form
