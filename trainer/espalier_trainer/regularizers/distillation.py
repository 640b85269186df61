"""Distillation: each row's loss becomes (1 - alpha) loss + alpha T^2 KL(teacher_T || student_T), Hinton et al. 2015; for values
(1 - alpha) loss + alpha (student - teacher)^2 / 2. The teacher answers the clean row; where rows are blended (batchMixing), its soft
labels are blended with them. alpha = 0 is plain training, bit for bit.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from espalier_api.regularizers import Distillation as DistillationConfig
from espalier_trainer import references
from espalier_trainer.engines.torch import transfer
from espalier_trainer.peers import Sharing
from espalier_trainer.protocol import (
    FIRST,
    Batch,
    FitView,
    PlanContext,
    Reference,
    Regularizer,
    Stage,
    Step,
    register,
)

if TYPE_CHECKING:
    from torch import Tensor

    from espalier_trainer.schedule import Coefficient


@register
class Distillation(Regularizer[DistillationConfig]):
    """Soft labels of a teacher, put into DATA by row so that whatever happens to rows happens to them."""

    name = "distillation"
    stage = Stage.DATA
    sharing = Sharing.EXACT
    order = FIRST
    annealed = "alpha"
    selects = None

    def __init__(self, config: DistillationConfig) -> None:
        super().__init__(config)
        self._reference: Reference | None = None
        self._soft: Tensor | None = None

    def acts(self, hook: str) -> bool:
        """Without a share, or without a previous model, there is nothing to mix."""
        return super().acts(hook) and self.config.alpha > 0 and self._reference is not None

    def plan(self, context: PlanContext) -> None:
        """The teacher exists and is a model of the same question."""
        self._reference = references.of(context, self.name, self.config.teacher)
        transfer.refuse_temperature(self.config, self.name, regression=context.regression)

    def attach(self, view: FitView) -> None:
        """The teacher's soft labels (rows, classes) of all training rows, or its values (rows, 1)."""
        assert self._reference is not None  # noqa: S101 - acts() said so
        told = transfer.scores_of(self._reference, view)
        self._soft = told if view.regression else transfer.softened(told, self.config.temperature)

    def batch(self, batch: Batch, step: Step, coefficient: Coefficient) -> Batch:
        """Each row's soft labels, by its position."""
        assert self._soft is not None  # noqa: S101 - attach comes first
        assert batch.index is not None  # noqa: S101 - nothing blends rows before FIRST
        return replace(batch, extra={**batch.extra, self.name: self._soft[batch.index]})

    def mix_loss(self, rows: Tensor, scores: Tensor, batch: Batch, coefficient: Coefficient) -> Tensor:
        """(1 - alpha) hard + alpha soft, per row."""
        soft = batch.extra[self.name]
        if soft.shape[-1] == 1:
            term = 0.5 * (scores - soft).squeeze(-1).square()
        else:
            term = transfer.divergence(soft, scores, self.config.temperature)
        return rows.lerp(term, coefficient.tensor)

    def notes(self) -> dict[str, Any]:
        """Which teacher."""
        return {"teacher": self._reference.digest if self._reference else "none: this is the first version"}
