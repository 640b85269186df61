"""Priors that switch weights of linear layers off. ard: variational dropout with a learned variance per weight under the log-uniform
prior; the noise is drawn per output (local reparameterization), strength * KL is added, and weights with log(variance / w^2) > 3 are off
(Molchanov et al. 2017). l0: a hard-concrete gate per weight, strength * expected number of open gates (Louizos et al. 2018). Beside a
mean loss, strength 1/n is the evidence bound of ard. `finish` leaves plain layers with exact zeros.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import torch
import torch.nn.functional as f
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from espalier_api.regularizers import SparsityPrior as SparsityPriorConfig
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.peers import Sharing
from espalier_trainer.protocol import FIRST, Batch, Regularizer, Stage, Step, register

if TYPE_CHECKING:
    from torch import Tensor

    from espalier_trainer.schedule import Coefficient

K1, K2, K3 = 0.63576, 1.87320, 1.48695
OFF: Final = 3.0
QUIET: Final = -8.0
"""log variance to begin with: 2 % of a unit weight."""
GAMMA, ZETA, BETA = -0.1, 1.1, 2.0 / 3.0
OPEN: Final = 2.0
"""log odds of a gate to begin with: nearly every weight is in."""
EPSILON: Final = 1e-8


def kl(log_alpha: Tensor) -> Tensor:
    """KL of N(w, alpha w^2) from the log-uniform prior, up to a constant that makes it 0 for alpha -> infinity (their equation 14)."""
    return K1 * torch.sigmoid(-K2 - K3 * log_alpha) + 0.5 * f.softplus(-log_alpha)


def is_open(log_odds: Tensor) -> Tensor:
    """Probability that a gate is not exactly zero."""
    return torch.sigmoid(log_odds - BETA * math.log(-GAMMA / ZETA))


def stretched(share: Tensor) -> Tensor:
    """A share of (0, 1) stretched to (gamma, zeta) and cut back to [0, 1]: both ends have mass."""
    return (share * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


class SparseLinear(nn.Linear):
    """A linear layer with one more number per weight; `weight` and `bias` are the layer's own, under their names."""

    sparsity: nn.Parameter

    def __init__(self, linear: nn.Linear, begin: float) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.sparsity = nn.Parameter(torch.full_like(linear.weight, begin))

    def effective(self) -> Tensor:
        """Weights as they are shipped: exact zeros where they are off."""
        raise NotImplementedError

    def term(self) -> Tensor:
        """What the prior asks for this layer (scalar)."""
        raise NotImplementedError

    def noisy(self, x: Tensor) -> Tensor:
        """The layer's output in training."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """x (..., inputs) to (..., outputs); noise in training only."""
        return self.noisy(x) if self.training else f.linear(x, self.effective(), self.bias)


class ArdLinear(SparseLinear):
    """`sparsity` is the log variance of each weight."""

    def log_alpha(self) -> Tensor:
        """log(variance / w^2)."""
        return (self.sparsity - torch.log(self.weight.square() + EPSILON)).clamp(-20, 20)

    def effective(self) -> Tensor:
        """Weights that their own noise does not drown."""
        return torch.where(self.log_alpha() < OFF, self.weight, torch.zeros_like(self.weight))

    def term(self) -> Tensor:
        """KL from the prior."""
        return kl(self.log_alpha()).sum()

    def noisy(self, x: Tensor) -> Tensor:
        """One draw per output and row: N(Wx + b, variance x^2)."""
        mean, variance = f.linear(x, self.weight, self.bias), f.linear(x.square(), self.sparsity.exp())
        return mean + (variance + EPSILON).sqrt() * torch.randn_like(mean)


class GatedLinear(SparseLinear):
    """`sparsity` are the log odds of each weight's gate."""

    def effective(self) -> Tensor:
        """Weights times their median gate."""
        return self.weight * stretched(torch.sigmoid(self.sparsity))

    def term(self) -> Tensor:
        """Expected number of weights."""
        return is_open(self.sparsity).sum()

    def noisy(self, x: Tensor) -> Tensor:
        """One draw of all gates per step."""
        u = torch.rand_like(self.sparsity).clamp(EPSILON, 1 - 1e-6)
        gate = stretched(torch.sigmoid((torch.logit(u) + self.sparsity) / BETA))
        return f.linear(x, self.weight * gate, self.bias)


KINDS: Final[dict[str, tuple[type[SparseLinear], float]]] = {"ard": (ArdLinear, QUIET), "l0": (GatedLinear, OPEN)}


@register
class SparsityPrior(Regularizer[SparsityPriorConfig]):
    """Linear layers in; before other surgery, which may then work on their weights."""

    name = "sparsityPrior"
    stage = Stage.SURGERY
    sharing = Sharing.WHOLE
    order = FIRST
    annealed = "strength"

    def __init__(self, config: SparsityPriorConfig) -> None:
        super().__init__(config)
        self._layers: list[SparseLinear] = []
        self._zeros, self._weights = 0, 0

    def surgery(self, model: nn.Module, coefficient: Coefficient) -> None:
        """Replace the chosen linear layers."""
        kind, begin = KINDS[self.config.kind]
        chosen = [n for n, _ in model.named_parameters() if n.endswith("weight") and self.selector.takes(n)]
        owners = {name: model.get_submodule(name.rpartition(".")[0]) for name in chosen}
        linear = {n: m for n, m in owners.items() if isinstance(m, nn.Linear) and not is_parametrized(m)}
        others = [name for name in owners if name not in linear]
        if not linear or (others and self.config.target is not None):
            raise InvalidConfigError(
                f"regularizers.sparsityPrior.target: {self.config.kind} acts on linear layers, and {others[0] if others else 'no weight'} "
                "is not one of them; choose weights of linear layers, or use pruning"
            )
        for name, module in linear.items():
            parent, _, child = name.rpartition(".")[0].rpartition(".")
            model.get_submodule(parent).add_module(child, kind(module, begin))
        self._layers = [m for m in model.modules() if isinstance(m, SparseLinear)]

    def loss_terms(self, scores: Tensor, batch: Batch, step: Step) -> dict[str, Tensor]:
        """KL, or the expected number of weights."""
        return {self.config.kind: torch.stack([layer.term() for layer in self._layers]).sum()}

    def finish(self, model: nn.Module) -> None:
        """Plain layers with the weights as they were evaluated."""
        for name, layer in list(model.named_modules()):
            if not isinstance(layer, SparseLinear):
                continue
            plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
            plain.weight, plain.bias = nn.Parameter(layer.effective().detach().clone()), layer.bias
            self._zeros += int((plain.weight == 0).sum())
            self._weights += plain.weight.numel()
            parent, _, child = name.rpartition(".")
            model.get_submodule(parent).add_module(child, plain)

    def notes(self) -> dict[str, Any]:
        """Exact zeros of how many weights."""
        return {"zeros": self._zeros, "weights": self._weights}
