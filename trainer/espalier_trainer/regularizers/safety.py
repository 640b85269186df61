"""Safety: the loss on a second dataset of safe answers, so that tuning on the first does not unlearn them (guide: Scenario 3, use case 4).

The term is the mean loss of as many safety rows per step as a batch has (all of them, when there are no more), drawn without replacement,
under the data loss that is in force. With `excludeFromSmoothing` and labelSmoothing the labels of these rows stay hard: their loss is plain
cross-entropy of the unadjusted scores. What DATA blocks do to training rows (noise, augmentation) is not done to safety rows.

A quarter of the dataset is held out (data/safety.py): the share of it that is answered wrongly is the metric safetyViolation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from espalier_api.regularizers import Safety as SafetyConfig
from espalier_trainer.engines.torch import losses
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.protocol import Batch, FitView, PlanContext, Regularizer, Stage, Step, register

if TYPE_CHECKING:
    from torch import Tensor


@register
class Safety(Regularizer[SafetyConfig]):
    """A term of the objective, from rows of its own."""

    name = "safety"
    stage = Stage.LOSS
    annealed = "strength"
    selects = None

    def __init__(self, config: SafetyConfig) -> None:
        super().__init__(config)
        self._hard = False
        self._view: FitView | None = None

    def plan(self, context: PlanContext) -> None:
        """Needs its dataset, and classes to violate."""
        if context.regression:
            raise InvalidConfigError(
                "regularizers.safety: a violation is a wrong class, and a regression has none; remove the block"
            )
        if self.name not in context.extra:
            raise InvalidConfigError(
                f"regularizers.safety.dataset: {self.config.dataset} was not loaded for this fit; remove the block or what fits without it"
            )
        self._hard = self.config.exclude_from_smoothing and "labelSmoothing" in context.declared

    def attach(self, view: FitView) -> None:
        """Keep the rows and the way to score them."""
        self._view = view

    def loss_terms(self, scores: Tensor, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Mean loss of this step's safety rows."""
        assert self._view is not None  # noqa: S101 - attach comes first
        whole = self._view.extra[self.name]
        total, size = len(whole.y), len(batch.y)
        rows = torch.randperm(total, device=whole.x.device)[:size] if size < total else slice(None)
        safe = Batch(whole.x[rows], whole.y[rows])
        answers = self._view.forward(safe.x)
        if self._hard:
            return {"safety": losses.per_row(answers, safe, regression=False).mean()}
        return {"safety": self._view.rows(answers, safe).mean()}
