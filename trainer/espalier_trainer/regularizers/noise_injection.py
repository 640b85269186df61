"""Noise injection: Gaussian noise of `std` times the scale of what it is added to. On the inputs of a linear model it is a ridge penalty
with alpha = n std^2 (Bishop 1995). Sites: input (std is in units of the scaled features: of
each one's deviation, or as data.preprocessing.scaling says), weight and activation (units of their root mean square), gradient (units
of each gradient's root mean square; Neelakantan et al. 2015).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from espalier_api.regularizers import NoiseInjection as NoiseInjectionConfig
from espalier_trainer.engines.torch.layers import insert, layer_names, weight_owners
from espalier_trainer.peers import Sharing
from espalier_trainer.protocol import MIDDLE, Batch, Params, PlanContext, Regularizer, Stage, Step, register
from espalier_trainer.targets import Selector

if TYPE_CHECKING:
    from espalier_trainer.schedule import Coefficient


_SITES: Final = {"batch": "input", "transform_grad": "gradient"}


def noisy(x: Tensor, std: Tensor) -> Tensor:
    """x + std * rms(x) * N(0, 1); the scale is not differentiated."""
    scale = x.detach().square().mean().sqrt()
    return x + std * scale * torch.randn_like(x)


class ActivationNoise(nn.Module):
    """Adds noise in training."""

    identity_in_evaluation = True

    def __init__(self, coefficient: Coefficient) -> None:
        super().__init__()
        self.coefficient = coefficient

    def forward(self, x: Tensor) -> Tensor:
        """Same shape; the identity in evaluation mode."""
        return noisy(x, self.coefficient.tensor) if self.training else x


class WeightNoise(nn.Module):
    """A parametrization: the weight is noisy in training and itself otherwise."""

    def __init__(self, coefficient: Coefficient) -> None:
        super().__init__()
        self.coefficient = coefficient

    def forward(self, weight: Tensor) -> Tensor:
        """Same shape."""
        return noisy(weight, self.coefficient.tensor) if self.training else weight


@register
class NoiseInjection(Regularizer[NoiseInjectionConfig]):
    """At one site. `target` globs over features (input), layers (activation) or parameters (weight, gradient)."""

    name = "noiseInjection"
    stage = Stage.DATA
    sharing = Sharing.EXACT
    order = MIDDLE
    annealed = "std"

    def __init__(self, config: NoiseInjectionConfig) -> None:
        super().__init__(config)
        site = config.site
        self.selects = {"input": "features", "activation": "layers"}.get(site, "parameters")
        if self.selects != "parameters":
            self.selector = Selector.of(config.target, default_exclude=())
        elif site == "gradient" and config.target is None:
            self.selector = Selector()
        self._mask: Tensor | None = None
        self._columns: list[float] | None = None

    def acts(self, hook: str) -> bool:
        """The site decides which hooks take part."""
        return super().acts(hook) and _SITES.get(hook, self.config.site) == self.config.site

    def plan(self, context: PlanContext) -> None:
        """Find the features that get noise."""
        if self.config.site == "input" and self.config.target is not None:
            chosen = set(self.selector.choose(context.features, self.name, "feature"))
            self._columns = [float(name in chosen) for name in context.features]

    def surgery(self, model: nn.Module, coefficient: Coefficient) -> None:
        """Activation: a module per layer. Weight: parametrize each selected weight."""
        if self.config.site == "activation":
            for layer in self.selector.choose(layer_names(model), self.name, "layer"):
                insert(model, layer, "noise", ActivationNoise(coefficient))
        if self.config.site == "weight":
            names = self.selector.choose([n for n, _ in model.named_parameters()], self.name, "parameter")
            for module, tensor in weight_owners(model, names, self.name):
                parametrize.register_parametrization(module, tensor, WeightNoise(coefficient))

    def batch(self, batch: Batch, step: Step, coefficient: Coefficient) -> Batch:
        """Site input."""
        noise = coefficient.tensor * torch.randn_like(batch.x)
        if self._columns is not None:
            if self._mask is None:
                self._mask = torch.tensor(self._columns, device=batch.x.device, dtype=batch.x.dtype)
            noise = noise * self._mask
        return replace(batch, x=batch.x + noise)

    def transform_grad(self, params: Params, step: Step, coefficient: Coefficient) -> None:
        """Site gradient."""
        for grad in params.grads:
            grad.copy_(noisy(grad, coefficient.tensor))
