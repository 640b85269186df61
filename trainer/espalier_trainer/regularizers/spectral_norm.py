"""Spectral norm: limits the largest singular value sigma of each selected weight, seen as the matrix (out, everything else).

penalty: adds strength/2 * sum sigma^2 (Yoshida and Miyato 2017), whose gradient is strength * sigma u v'. bound: the weight in use is
w * min(1, bound / sigma) (Miyato et al. 2018 divide always; Gouk et al. 2021 project like this). Both follow sigma by power iteration,
`powerIterations` steps of it per optimizer step; the shipped weight is cut by its exact sigma.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from espalier_api.regularizers import SpectralNorm as SpectralNormConfig
from espalier_trainer import rng
from espalier_trainer.engines.torch.layers import weight_owners
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.peers import Sharing
from espalier_trainer.protocol import LAST, Params, PlanContext, Regularizer, Stage, register
from espalier_trainer.targets import canonical

if TYPE_CHECKING:
    from collections.abc import Mapping

    from espalier_trainer.schedule import Coefficient

STRENGTH: Final = 0.01
BOUND: Final = 3.0
_HOOKS: Final = {"surgery": "bound", "finish": "bound", "penalty_grad": "penalty", "penalty_value": "penalty"}


def power_iteration(matrix: Tensor, v: Tensor, iterations: int) -> tuple[Tensor, Tensor, Tensor]:
    """(sigma, u, v) of `matrix` (out, in) from the right vector `v` (in,); converges to the largest singular triple.

    A matrix of zeros leaves `v` as it was: a zero vector would never find its way back.
    """
    u = F.normalize(matrix @ v, dim=0)
    for _ in range(iterations):
        turned = matrix.T @ u
        v = torch.where(turned.abs().sum() > 0, F.normalize(turned, dim=0), v)
        u = F.normalize(matrix @ v, dim=0)
    return torch.dot(u, matrix @ v), u, v


def start(size: int, like: Tensor) -> Tensor:
    """A unit vector (size,) that is the same on every machine."""
    keys = rng.keys(rng.derive(0, "spectral"), size).astype("float64") / 2.0**64 - 0.5
    return F.normalize(torch.from_numpy(keys).to(like), dim=0)


class SpectralBound(nn.Module):
    """A parametrization: w * min(1, bound / sigma)."""

    v: Tensor

    def __init__(self, weight: Tensor, bound: float, iterations: int) -> None:
        super().__init__()
        self.bound, self.iterations = bound, iterations
        matrix = weight.detach().flatten(1)
        self.register_buffer("v", power_iteration(matrix, start(matrix.shape[1], matrix), 30)[2])

    def forward(self, weight: Tensor) -> Tensor:
        """Same shape; follows sigma in training only, with gradients through sigma but not through the vectors."""
        matrix = weight.flatten(1)
        v: Tensor = self.v
        with torch.no_grad():
            _, u, v = power_iteration(matrix, v, self.iterations if self.training else 0)
            if self.training:
                self.v.copy_(v)
        sigma = torch.dot(u, matrix @ v.clone())
        return weight * (self.bound / torch.clamp(sigma, min=self.bound))


@register
class SpectralNorm(Regularizer[SpectralNormConfig]):
    """sigma of each weight."""

    name = "spectralNorm"
    stage = Stage.GRAD
    sharing = Sharing.EXACT
    order = LAST - 1  # the bound is outermost: it holds for the weight that is really used
    annealed = "strength"

    def __init__(self, config: SpectralNormConfig) -> None:
        super().__init__(config)
        self._vectors: dict[str, Tensor] = {}
        self._sigmas: dict[str, Tensor] = {}
        self._bounded: list[str] = []

    def strength(self) -> float:
        """Of the penalty; the bound in mode bound."""
        if self.config.mode == "bound":
            return self.config.bound or BOUND
        return self.config.strength or STRENGTH

    def acts(self, hook: str) -> bool:
        """The mode decides which hooks take part."""
        return super().acts(hook) and _HOOKS.get(hook, self.config.mode) == self.config.mode

    def plan(self, context: PlanContext) -> None:
        """A bound does not move."""
        if self.config.mode == "bound" and self.config.schedule is not None:
            raise InvalidConfigError(
                "regularizers.spectralNorm.schedule: mode bound has no strength; remove the schedule"
            )

    def surgery(self, model: nn.Module, coefficient: Coefficient) -> None:
        """bound: parametrize each selected matrix or kernel."""
        names = self.selector.choose([n for n, _ in model.named_parameters()], self.name, "parameter")
        for module, tensor in weight_owners(model, names, self.name):
            parametrization = SpectralBound(getattr(module, tensor), self.strength(), self.config.power_iterations)
            parametrize.register_parametrization(module, tensor, parametrization)
        self._bounded = sorted(set(map(canonical, names)))

    def _matrices(self, params: Params) -> list[tuple[str, Tensor, Tensor]]:
        """(name, matrix, gradient as a matrix) of everything that has two dimensions."""
        return [
            (name, p.detach().flatten(1), p.grad.flatten(1))
            for name, p in zip(params.names, params.values, strict=True)
            if p.dim() > 1 and p.grad is not None
        ]

    def penalty_grad(self, params: Params, coefficient: Coefficient) -> None:
        """strength * sigma u v' for each weight."""
        for name, matrix, grad in self._matrices(params):
            v = self._vectors.get(name)
            v = start(matrix.shape[1], matrix) if v is None else v
            sigma, u, v = power_iteration(matrix, v, self.config.power_iterations)
            self._vectors[name], self._sigmas[name] = v, sigma
            grad.add_(torch.outer(u, v) * (coefficient.tensor * sigma))

    def penalty_value(self, params: Params) -> Tensor:
        """sum sigma^2 / 2, as followed by the last step."""
        return torch.stack(list(self._sigmas.values())).square().sum() / 2

    def finish(self, model: nn.Module) -> None:
        """bound: cut each weight by its exact sigma, so that the bound holds in what is shipped."""
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name in self._bounded:
                    sigma = float(torch.linalg.matrix_norm(weight.flatten(1).double(), 2))
                    if sigma > self.strength():
                        weight.mul_(self.strength() / sigma)
                    self._sigmas[name] = torch.as_tensor(min(sigma, self.strength()))

    def notes(self) -> dict[str, Any]:
        """sigma of each weight: exact in mode bound, as last followed in mode penalty."""
        return {"sigma": {canonical(name): float(sigma) for name, sigma in self._sigmas.items()}}

    def state_dict(self) -> dict[str, Any]:
        """The right vectors."""
        return {"vectors": self._vectors, "sigmas": self._sigmas}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse."""
        self._vectors, self._sigmas = dict(state["vectors"]), dict(state["sigmas"])
