"""L1: strength * ||w||_1, in one of two forms that reach its minimum. A subgradient never would (reference, fact 1).

proximal: a soft threshold after the optimizer's step, with exact zeros. With Adam it is strength * lr / (sqrt(v_hat)
+ eps) per element, the prox in Adam's own metric; a threshold of lr * strength would be another problem. Parikh and
Boyd 2014, 6.5.2. hadamard: w = u * v with strength/2 (u^2 + v^2), whose minimum over factorizations is strength |w|
(Hoff 2017). Smooth, without exact zeros.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch.nn.utils import parametrize

from espalier_api.regularizers import L1 as L1Config  # noqa: N811 - the block's name is its formula's
from espalier_trainer.engines.torch.layers import weight_owners
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.peers import Sharing
from espalier_trainer.protocol import FIRST, Params, PlanContext, Regularizer, Stage, StepView, register

if TYPE_CHECKING:
    from torch import Tensor, nn

    from espalier_trainer.schedule import Coefficient

_HOOKS: Final = {"after_step": "proximal", "surgery": "hadamard", "penalty_grad": "hadamard"}


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
    sharing = Sharing.EXACT
    order = FIRST  # the factors are innermost, and the prox comes before projections and averages
    annealed = "strength"

    def __init__(self, config: L1Config) -> None:
        super().__init__(config)
        self.factors = config.method == "hadamard"

    def plan(self, context: PlanContext) -> None:
        """Factors of factors are no L1 penalty."""
        if self.factors and "reparameterization" in context.declared:
            raise InvalidConfigError(
                "regularizers.l1.method: hadamard and the block reparameterization both put something in place of weights; "
                "use l1 with method proximal, or remove reparameterization"
            )

    def acts(self, hook: str) -> bool:
        """The method decides which hooks take part."""
        return super().acts(hook) and _HOOKS.get(hook, self.config.method) == self.config.method

    def surgery(self, model: nn.Module, coefficient: Coefficient) -> None:
        """hadamard: factors in place of each selected weight."""
        from espalier_trainer.regularizers.reparameterization import Hadamard  # noqa: PLC0415 - the other method needs no factors

        names = self.selector.choose([n for n, _ in model.named_parameters()], self.name, "parameter")
        for module, tensor in weight_owners(model, names, self.name):
            parametrize.register_parametrization(module, tensor, Hadamard())

    def penalty_grad(self, params: Params, coefficient: Coefficient) -> None:
        """hadamard: strength * (u, v)."""
        torch._foreach_add_(params.grads, params.values, alpha=coefficient.value)

    def after_step(self, params: Params, view: StepView, coefficient: Coefficient) -> None:
        """proximal: soft threshold in the optimizer's metric."""
        for weight in params.values:
            soft_threshold(weight, coefficient.value * view.step_size(weight))

    def penalty_value(self, params: Params) -> Tensor:
        """||w||_1, for factors its bound (||u||^2 + ||v||^2) / 2."""
        if self.config.method == "hadamard":
            return torch.stack(torch._foreach_norm(params.values)).square().sum() / 2  # noqa: SLF001
        return torch.stack(torch._foreach_norm(params.values, 1)).sum()  # noqa: SLF001
