"""Reparameterization: weights are trained through another parametrization, which is baked in before export.

hadamard: w = u * v elementwise, started at factors with u^2 - v^2 = 1. With `l2` on u and v, strength/2 (u^2 + v^2) is least
at |u| = |v|, where it is strength |w|: the block becomes an L1 penalty that gradients can train (Hoff 2017), once the factors
are balanced, which takes about 1 / (learning rate * strength) steps. weightNorm: w = g v / ||v|| per output (Salimans and
Kingma 2016). orthogonal: the columns (or rows, whichever are fewer) are orthonormal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from espalier_api.regularizers import Reparameterization as ReparameterizationConfig
from espalier_trainer.engines.torch.layers import weight_owners
from espalier_trainer.peers import Sharing
from espalier_trainer.protocol import FIRST, Regularizer, Stage, register

if TYPE_CHECKING:
    from espalier_trainer.schedule import Coefficient


class Hadamard(nn.Module):
    """w = u * v."""

    def forward(self, u: Tensor, v: Tensor) -> Tensor:
        """Factors of one shape to their product."""
        return u * v

    def right_inverse(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Factors of w with u^2 - v^2 = 1. Balanced ones would keep |u| = |v| under gradients, and no weight could ever change its sign."""
        u = ((1.0 + (1.0 + 4.0 * w.square()).sqrt()) / 2.0).sqrt()
        return u, w / u


@register
class Reparameterization(Regularizer[ReparameterizationConfig]):
    """Every selected weight."""

    name = "reparameterization"
    stage = Stage.SURGERY
    sharing = Sharing.EXACT
    order = FIRST  # innermost: noise and bounds act on the product

    def __init__(self, config: ReparameterizationConfig) -> None:
        super().__init__(config)
        self.factors = True

    def surgery(self, model: nn.Module, coefficient: Coefficient) -> None:
        """Register the parametrization on each weight."""
        names = self.selector.choose([n for n, _ in model.named_parameters()], self.name, "parameter")
        for module, tensor in weight_owners(model, names, self.name):
            match self.config.kind:
                case "hadamard":
                    parametrize.register_parametrization(module, tensor, Hadamard())
                case "weightNorm":
                    parametrizations.weight_norm(module, tensor)
                case "orthogonal":
                    parametrizations.orthogonal(module, tensor)
