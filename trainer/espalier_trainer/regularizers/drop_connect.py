"""DropConnect: each weight is dropped with probability p at every step and the rest is scaled by 1/(1-p) (Wan et al. 2013). For a linear
output the variance is p/(1-p) * sum w^2 x^2. One mask per batch; in evaluation the weights are themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from espalier_api.regularizers import DropConnect as DropConnectConfig
from espalier_trainer.engines.torch.layers import weight_owners
from espalier_trainer.peers import Sharing
from espalier_trainer.protocol import MIDDLE, Regularizer, Stage, register

if TYPE_CHECKING:
    from espalier_trainer.schedule import Coefficient


class DropWeight(nn.Module):
    """A parametrization: the weight with random elements dropped in training."""

    def __init__(self, coefficient: Coefficient) -> None:
        super().__init__()
        self.coefficient = coefficient

    def forward(self, weight: Tensor) -> Tensor:
        """Same shape."""
        p = self.coefficient.value
        return F.dropout(weight, p) if self.training and p else weight


@register
class DropConnect(Regularizer[DropConnectConfig]):
    """Every selected weight."""

    name = "dropConnect"
    stage = Stage.SURGERY
    sharing = Sharing.EXACT
    order = MIDDLE
    annealed = "p"

    def surgery(self, model: nn.Module, coefficient: Coefficient) -> None:
        """Register the parametrization on each weight."""
        names = self.selector.choose([n for n, _ in model.named_parameters()], self.name, "parameter")
        for module, tensor in weight_owners(model, names, self.name):
            parametrize.register_parametrization(module, tensor, DropWeight(coefficient))
