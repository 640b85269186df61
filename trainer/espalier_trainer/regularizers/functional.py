"""Functional regularization: a penalty for disagreeing with an earlier model. kl: strength T^2 KL(prior_T || ours_T), learning without
forgetting (Li and Hoiem 2016); mse: strength/2 times the mean squared difference of outputs, scores without their row's constant;
l2sp: strength/2 ||w - w_prior||^2 from a start at the prior (Li et al. 2018). For values kl is mse: two Gaussians of unit variance.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import torch

from espalier_api.regularizers import Functional as FunctionalConfig
from espalier_trainer import references
from espalier_trainer.engines.torch import losses, transfer
from espalier_trainer.peers import Sharing
from espalier_trainer.protocol import (
    FIRST,
    Batch,
    FitView,
    Params,
    PlanContext,
    Reference,
    Regularizer,
    Stage,
    Step,
    register,
)
from espalier_trainer.targets import Selector

if TYPE_CHECKING:
    from torch import Tensor

    from espalier_trainer.schedule import Coefficient

OF_WEIGHTS: Final = frozenset({"attach", "penalty_grad", "penalty_value"})
OF_OUTPUTS: Final = frozenset({"attach", "batch", "loss_terms"})


@register
class Functional(Regularizer[FunctionalConfig]):
    """Stays near the prior's predictions, or near its weights."""

    name = "functional"
    stage = Stage.DATA
    sharing = Sharing.EXACT
    order = FIRST
    annealed = "strength"

    def __init__(self, config: FunctionalConfig) -> None:
        super().__init__(config)
        self.selector = Selector()  # l2sp: every weight has a place in the prior
        self._reference: Reference | None = None
        self._told: Tensor | None = None
        self._start: dict[str, Tensor] = {}

    def acts(self, hook: str) -> bool:
        """Either of outputs or of weights; not at all in a first version."""
        return (
            self._reference is not None
            and super().acts(hook)
            and hook in (OF_WEIGHTS if self.config.kind == "l2sp" else OF_OUTPUTS)
        )

    def plan(self, context: PlanContext) -> None:
        """The prior exists."""
        self._reference = references.of(context, self.name, self.config.prior)
        transfer.refuse_temperature(self.config, self.name, regression=context.regression)

    def attach(self, view: FitView) -> None:
        """The prior's answers to all training rows, or its weights as start and centre."""
        assert self._reference is not None  # noqa: S101 - acts() said so
        if self.config.kind == "l2sp":
            self._start = transfer.start_at(self._reference, view, self.name)
            return
        told = transfer.scores_of(self._reference, view)
        of_shares = self.config.kind == "kl" and not view.regression
        self._told = transfer.softened(told, self.config.temperature) if of_shares else transfer.centred(told)

    def batch(self, batch: Batch, step: Step, coefficient: Coefficient) -> Batch:
        """Each row's answer of the prior, by its position."""
        assert self._told is not None  # noqa: S101 - attach comes first
        assert batch.index is not None  # noqa: S101 - nothing blends rows before FIRST
        return replace(batch, extra={**batch.extra, self.name: self._told[batch.index]})

    def loss_terms(self, scores: Tensor, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Mean over the rows of the batch."""
        told = batch.extra[self.name]
        if self.config.kind == "kl" and told.shape[-1] > 1:
            rows = transfer.divergence(told, scores, self.config.temperature)
        else:
            rows = 0.5 * (transfer.centred(scores) - told).square().mean(-1)
        return {"disagreement": losses.mean(rows, batch.weight)}

    def penalty_grad(self, params: Params, coefficient: Coefficient) -> None:
        """grad += strength (w - w_prior)."""
        away = torch._foreach_sub(params.values, [self._start[n] for n in params.names])  # noqa: SLF001 - torch's own fused form
        torch._foreach_add_(params.grads, away, alpha=coefficient.value)

    def penalty_value(self, params: Params) -> Tensor:
        """||w - w_prior||^2 / 2."""
        away = torch._foreach_sub(params.values, [self._start[n] for n in params.names])  # noqa: SLF001 - torch's own fused form
        return transfer.norm(away).square() / 2

    def notes(self) -> dict[str, Any]:
        """Which prior."""
        return {"prior": self._reference.digest if self._reference else "none: this is the first version"}
