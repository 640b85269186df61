"""Optimizers by name, always without their own weight decay: penalties belong to blocks. Plus the step size that the prox needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.protocol import StepView

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class OptimizerSpec:
    """`kind` is sgd | adam | adamw; `options` are the constructor's keywords besides lr and weight_decay."""

    kind: str
    options: dict[str, Any] = field(default_factory=dict)


def build(spec: OptimizerSpec, params: Iterable[nn.Parameter], rate: float) -> torch.optim.Optimizer:
    """The optimizer, in torch's fused form (one pass over the weights; it pays for most blocks).

    `adamw` and `adam` are the same here, because decay is the block weightDecay.
    """
    parameters = list(params)
    if spec.kind == "sgd":
        return torch.optim.SGD(parameters, lr=rate, weight_decay=0.0, fused=True, **spec.options)
    if spec.kind in {"adam", "adamw"}:
        return torch.optim.Adam(parameters, lr=rate, weight_decay=0.0, fused=True, **spec.options)
    raise InvalidConfigError(f"engine.torch.optimizer.{spec.kind}: use sgd, adam or adamw")


class OptimizerView(StepView):
    """What STEP blocks may know of a torch optimizer."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    def set_rate(self, rate: float) -> None:
        """Change the learning rate for the next step."""
        self.learning_rate = rate
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def step_size(self, parameter: Tensor) -> Tensor | float:
        """How far one unit of a constant gradient moves each element.

        SGD: lr, with momentum mu and dampening d in the long run lr (1-d)/(1-mu). Adam: lr / (sqrt(v_hat) + eps), elementwise: the
        metric in which its proximal step is the minimizer of penalty plus quadratic model (reference, fact 1).
        """
        group = self.optimizer.param_groups[0]
        if "betas" not in group:
            momentum, dampening = group["momentum"], group["dampening"]
            return float(self.learning_rate * (1 - dampening) / (1 - momentum)) if momentum else self.learning_rate
        state = self.optimizer.state[parameter]
        correction = 1.0 - group["betas"][1] ** float(state["step"])
        second = state["max_exp_avg_sq"] if group["amsgrad"] else state["exp_avg_sq"]
        denominator: Tensor = (second / correction).sqrt_().add_(group["eps"])
        return denominator.reciprocal_().mul_(self.learning_rate)
