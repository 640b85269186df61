"""Fairness: groups of one column are treated alike, as a term that shrinks a gap or as more weight for the group that fares worst.

demographicParity: the mean over pairs of groups of half the squared distance between the groups' mean predictions; with two classes and
two groups that is the squared difference of mean positive probabilities, the smooth form of fairlearn's `demographic_parity_difference`.
A regression has one mean value per group, and its squared difference. equalizedOdds: the same among rows of one true class, averaged over
classes: the smooth form of differences of true and false positive rates (Hardt et al. 2016). Groups (or classes) with
no row in a batch are left out of its term; a batch with one group has the term 0. The gaps are means over the batch, so they
are estimated with a bias of the order of 1 / rows of the smallest group (R36).

groupDRO (Sagawa et al. 2020): group weights q climb by exponentiated gradient, q_g <- q_g exp(0.01 L_g) normalized, and sum_g q_g L_g is
the loss of a mixture in which the worst group counts most. The data loss becomes (mean + strength * sum_g q_g L_g) / (1 + strength), so
that strength 0 is the plain fit, 1 is half of each, and large ones approach Sagawa's objective at the same scale. q is state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
import torch.nn.functional as F

from espalier_api.regularizers import Fairness as FairnessConfig
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.peers import Sharing
from espalier_trainer.protocol import LAST, Batch, FitView, PlanContext, Regularizer, Stage, Step, register

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from espalier_trainer.schedule import Coefficient

STEP_SIZE: Final = 0.01  # of group weights, as in the authors' experiments


def spread(predictions: Tensor, cells: Tensor, count: int, rows: Tensor | None = None) -> Tensor:
    """Mean over pairs of cells of half the squared distance of their mean predictions (scalar); 0 with fewer than two cells.

    `predictions` (rows, outputs), `cells` (rows,) codes below `count`, `rows` (rows,) 1 for rows that take part. The mean over pairs of
    |a - b|^2 / 2 is the unbiased variance of the means, summed over outputs.
    """
    member = F.one_hot(cells, count).to(predictions.dtype)  # (rows, count)
    if rows is not None:
        member = member * rows[:, None]
    sizes = member.sum(0)
    there = (sizes > 0).to(predictions.dtype)
    means = (member.T @ predictions) / sizes.clamp_min(1.0)[:, None]
    cells_there = there.sum()
    centre = (means * there[:, None]).sum(0) / cells_there.clamp_min(1.0)
    squares = ((means - centre).square() * there[:, None]).sum()
    return squares / (cells_there - 1.0).clamp_min(1.0)


@register
class Fairness(Regularizer[FairnessConfig]):
    """A term (gaps) or weights of rows (groupDRO)."""

    name = "fairness"
    stage = Stage.LOSS
    sharing = Sharing.EXACT
    order = LAST  # groupDRO weighs what all other blocks made of a row's loss
    annealed = "strength"
    selects = None

    def __init__(self, config: FairnessConfig) -> None:
        super().__init__(config)
        self._regression = False
        self._count = 0
        self._present: Tensor | None = None  # (groups,) 1 for groups with training rows
        self._log_weights: Tensor | None = None  # (groups,) of groupDRO, not normalized

    def acts(self, hook: str) -> bool:
        """groupDRO weighs rows, the others add a term."""
        if hook in {"mix_loss", "loss_terms"}:
            return (hook == "mix_loss") == (self.config.kind == "groupDRO")
        return super().acts(hook)

    def plan(self, context: PlanContext) -> None:
        """Rows must carry the column, and each must be of one group."""
        column, kind = self.config.column, self.config.kind
        if column not in context.groups:
            raise InvalidConfigError(
                f"regularizers.fairness.column: training rows carry no groups of {column!r}; name a column of the snapshot"
            )
        if context.regression and kind == "equalizedOdds":
            raise InvalidConfigError(
                "regularizers.fairness.kind: equalizedOdds compares rates of classes, and a regression has none; "
                "use demographicParity or groupDRO"
            )
        if "batchMixing" in context.declared:
            raise InvalidConfigError(
                "regularizers.fairness: batchMixing blends rows of different groups; drop one of the two"
            )
        self._regression = context.regression

    def attach(self, view: FitView) -> None:
        """Which groups there are."""
        codes = view.train.groups[self.config.column]
        sizes = torch.bincount(codes)
        self._count = len(sizes)
        self._present = (sizes > 0).to(view.train.x.dtype)
        if int((sizes > 0).sum()) < 2:  # noqa: PLR2004 - a gap has two sides
            raise InvalidConfigError(
                f"regularizers.fairness.column: all training rows are of one group of {self.config.column!r}; remove the block"
            )
        self._log_weights = torch.zeros_like(self._present)

    def loss_terms(self, scores: Tensor, batch: Batch, step: Step) -> dict[str, Tensor]:
        """The gap of this batch."""
        groups = batch.groups[self.config.column]
        if self._regression:
            return {"gap": 2.0 * spread(scores, groups, self._count)}
        p = F.softmax(scores, dim=-1)
        if self.config.kind == "demographicParity":
            return {"gap": spread(p, groups, self._count)}
        by_class = [spread(p, groups, self._count, (batch.y == k).to(p.dtype)) for k in range(p.shape[-1])]
        return {"gap": torch.stack(by_class).mean()}

    def mix_loss(self, rows: Tensor, scores: Tensor, batch: Batch, coefficient: Coefficient) -> Tensor:
        """groupDRO: rows scaled so that their (weighted) mean is (mean + strength sum_g q_g L_g) / (1 + strength)."""
        assert self._log_weights is not None  # noqa: S101 - attach comes first
        codes = batch.groups[self.config.column]
        weight = torch.ones_like(rows) if batch.weight is None else batch.weight
        member = F.one_hot(codes, self._count).to(rows.dtype) * weight[:, None]
        sizes = member.sum(0)
        losses = (rows.detach() @ member) / sizes.clamp_min(1e-12)
        self._log_weights = self._log_weights + STEP_SIZE * losses
        share = self._shares() * weight.sum() / sizes.clamp_min(1e-12)
        strength = coefficient.tensor
        return rows * (1.0 + strength * share[codes]) / (1.0 + strength)

    def _shares(self) -> Tensor:
        """(groups,) q, summing to 1 over groups with training rows."""
        assert self._log_weights is not None  # noqa: S101 - attach comes first
        assert self._present is not None  # noqa: S101 - attach comes first
        return torch.softmax(self._log_weights.masked_fill(self._present == 0, -torch.inf), 0)

    def notes(self) -> dict[str, Any]:
        """Where the weight went, by group code."""
        return {"groupWeights": self._shares().tolist()} if self.config.kind == "groupDRO" else {}

    def state_dict(self) -> dict[str, Any]:
        """The group weights."""
        return {"logWeights": self._log_weights} if self.config.kind == "groupDRO" else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse."""
        if "logWeights" in state and self._log_weights is not None:
            self._log_weights = state["logWeights"].to(self._log_weights)
