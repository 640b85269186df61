"""Gradient clipping: bounds the complete gradient, penalties included, before the step. Pascanu et al. 2013. Runs last in GRAD."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from espalier_api.regularizers import GradientClipping as GradientClippingConfig
from espalier_trainer.peers import Sharing
from espalier_trainer.protocol import LAST, Params, Regularizer, Stage, Step, register

if TYPE_CHECKING:
    from espalier_trainer.schedule import Coefficient


@register
class GradientClipping(Regularizer[GradientClippingConfig]):
    """Scale to a norm, or cut each element."""

    name = "gradientClipping"
    stage = Stage.GRAD
    sharing = Sharing.EXACT
    order = LAST

    def __init__(self, config: GradientClippingConfig) -> None:
        super().__init__(config)
        if config.target is None:  # the norm is the whole gradient's, biases included
            self.selector = type(self.selector)()

    def strength(self) -> float:
        """The bound, for the log."""
        return self.config.max_norm

    def transform_grad(self, params: Params, step: Step, coefficient: Coefficient) -> None:
        """Norm: g <- g min(1, maxNorm / ||g||). Value: clamp. No host sync: the factor stays on the device."""
        grads, bound = params.grads, self.config.max_norm
        if self.config.kind == "value":
            torch._foreach_clamp_min_(grads, -bound)
            torch._foreach_clamp_max_(grads, bound)
            return
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))  # noqa: SLF001 - torch's own fused form
        torch._foreach_mul_(grads, (bound / (norm + 1e-6)).clamp(max=1.0))
