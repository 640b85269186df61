"""Latent-space regularization: a term on what chosen layers put out, a (rows, units), mean over those layers.

activationL2: mean of a^2 (Merity et al. 2017). kl: per unit, with the batch's mean m and variance v, KL(N(m, v) ||
N(0, 1)) = (m^2 + v - 1 - ln v)/2. centre: half the squared distance to the batch mean of the row's class (after Wen
et al. 2016). varianceCovariance: VICReg's two terms (Bardes et al. 2022): mean of max(0, 1 - sqrt(v + 1e-4)) and the
squared off-diagonal covariances over the number of units.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from espalier_api.regularizers import Latent as LatentConfig
from espalier_trainer.engines.torch.layers import layer_names
from espalier_trainer.engines.torch.losses import shares
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.protocol import PlanContext, Regularizer, Stage, register
from espalier_trainer.targets import Selector

if TYPE_CHECKING:
    from torch import Tensor

    from espalier_trainer.protocol import Batch, FitView, Step

FLOOR: Final = 1e-6  # of a variance before its logarithm
VICREG_EPSILON: Final = 1e-4


def activation_l2(a: Tensor) -> Tensor:
    """Mean square of activations (rows, units)."""
    return a.square().mean()


def moment_kl(a: Tensor) -> Tensor:
    """Mean over units of KL(N(batch mean, batch variance) || N(0, 1))."""
    mean, variance = a.mean(0), a.var(0, unbiased=False).clamp_min(FLOOR)
    return 0.5 * (mean.square() + variance - 1.0 - variance.log()).mean()


def to_centres(a: Tensor, target: Tensor) -> Tensor:
    """Mean over rows of half the squared distance to the mean of the row's class; `target` (rows, classes) shares."""
    counts = target.sum(0).clamp_min(1e-12)
    centres = (target.T @ a) / counts[:, None]
    return 0.5 * (a - target @ centres).square().sum(-1).mean()


def variance_covariance(a: Tensor) -> Tensor:
    """VICReg's variance and covariance terms, both with factor 1."""
    centred = a - a.mean(0)
    covariance = centred.T @ centred / max(len(a) - 1, 1)
    off_diagonal = covariance - torch.diag(torch.diag(covariance))
    short = (1.0 - (torch.diag(covariance) + VICREG_EPSILON).sqrt()).clamp_min(0.0)
    return short.mean() + off_diagonal.square().sum() / a.shape[1]


@register
class Latent(Regularizer[LatentConfig]):
    """Adds the term of the chosen kind."""

    name = "latent"
    stage = Stage.LOSS
    annealed = "strength"
    selects = None

    def __init__(self, config: LatentConfig) -> None:
        super().__init__(config)
        self._outputs: dict[str, Tensor] = {}

    def plan(self, context: PlanContext) -> None:
        """Centres are of classes."""
        if self.config.kind == "centre" and context.regression:
            raise InvalidConfigError(
                "regularizers.latent.kind: centre needs classes; use activationL2, kl or varianceCovariance"
            )

    def attach(self, view: FitView) -> None:
        """Listen to the chosen layers during the batch's own pass."""
        chosen = Selector(include=(self.config.layer,)).choose(layer_names(view.model), self.name, "layer")

        def listen(name: str) -> Any:  # noqa: ANN401 - torch's hook signature
            def hook(module: Any, _inputs: Any, output: Tensor) -> None:  # noqa: ANN401
                if module.training and view.recording():
                    self._outputs[name] = output

            return hook

        for name in chosen:
            view.model.get_submodule(name).register_forward_hook(listen(name))

    def loss_terms(self, scores: Tensor, batch: Batch, step: Step) -> dict[str, Tensor]:
        """One term per layer, so that their sum is the mean over layers."""
        count = len(self._outputs)
        return {
            name: self._term(a.flatten(1).to(scores.dtype), scores, batch) / count for name, a in self._outputs.items()
        }

    def _term(self, a: Tensor, scores: Tensor, batch: Batch) -> Tensor:
        match self.config.kind:
            case "activationL2":
                return activation_l2(a)
            case "kl":
                return moment_kl(a)
            case "centre":
                return to_centres(a, shares(scores, batch.y))
            case _:
                return variance_covariance(a)
