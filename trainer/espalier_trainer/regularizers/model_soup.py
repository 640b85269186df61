"""Model soup: the shipped weights are the mean of several fits' weights (Wortsman et al. 2022). uniform: of all candidates.
greedy: candidates are taken from the best to the worst on the validation split, and each stays in the soup only if the soup
gets no worse there.

Weights can be averaged only between fits of one architecture, initialization and preprocessing; the artifacts of the candidates say so
(R27), and this fit inherits their preprocessor. Batch statistics are measured anew with the averaged weights (R26). The job's own fit
is not needed: it ends after its first epoch and is thrown away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from espalier_api.regularizers import ModelSoup as ModelSoupConfig
from espalier_trainer import references
from espalier_trainer.engines.torch import evaluator, losses, transfer
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.peers import Sharing
from espalier_trainer.protocol import (
    LAST,
    EpochReport,
    FitView,
    PlanContext,
    Reference,
    Regularizer,
    Stage,
    register,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    Weights = Mapping[str, Tensor]

SELECTING = ("earlyStopping", "weightAveraging", "pruning", "structuredPruning", "quantization")


def mean_of(members: Sequence[Weights]) -> dict[str, Tensor]:
    """The plain mean of weights by name, summed in double precision."""
    return {
        name: torch.stack([member[name].double() for member in members]).mean(0).to(first)
        for name, first in members[0].items()
    }


@register
class ModelSoup(Regularizer[ModelSoupConfig]):
    """Replaces the fit by an average of others."""

    name = "modelSoup"
    stage = Stage.SELECT
    sharing = Sharing.EXACT
    order = LAST
    selects = None

    def __init__(self, config: ModelSoupConfig) -> None:
        super().__init__(config)
        self._candidates: dict[str, Reference] = {}
        self._view: FitView | None = None
        self._told: dict[str, Any] = {}

    def strength(self) -> float:
        """Candidates, for the log."""
        return float(len(self.config.candidates))

    def plan(self, context: PlanContext) -> None:
        """Candidates exist and share our preprocessing, and nothing else chooses weights."""
        others = sorted(set(SELECTING) & context.declared)
        if others:
            raise InvalidConfigError(
                f"regularizers.modelSoup: {', '.join(others)} would change or choose the weights of a fit that the soup replaces; "
                f"declare {'it' if len(others) == 1 else 'them'} in the candidates"
            )
        if self.config.method == "greedy" and "validation" not in context.splits:
            raise InvalidConfigError("regularizers.modelSoup.method: greedy needs validation rows; use uniform")
        for name in self.config.candidates:
            found = references.of(context, self.name, name)
            if found is None or not found.weights or not found.same_preprocessing:
                what = (
                    "has no version yet"
                    if found is None
                    else "has no weights"
                    if not found.weights
                    else "sees other inputs"
                )
                raise InvalidConfigError(
                    f"R27: regularizers.modelSoup.candidates: {name} {what}; name networks of one specification"
                )
            self._candidates[name] = found

    def attach(self, view: FitView) -> None:
        """The network that the weights are for."""
        self._view = view
        for reference in self._candidates.values():
            transfer.weights_of(reference, view.parameters, self.name)

    def end_epoch(self, report: EpochReport, weights: Mapping[str, Tensor]) -> bool:
        """Stop: the job's own fit is thrown away."""
        return True

    def select(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The soup."""
        view = self._view
        assert view is not None  # noqa: S101 - a fit has attached its blocks
        members = {n: transfer.weights_of(r, view.parameters, self.name) for n, r in self._candidates.items()}
        losses_of = {name: self._loss(view, {**weights, **member}) for name, member in members.items()}
        chosen = list(members)
        if self.config.method == "greedy":
            chosen = self._greedy(view, weights, members, losses_of)
        soup = {**weights, **mean_of([members[name] for name in chosen])}
        soup |= evaluator.batch_statistics(view.model, soup, view.train.x)
        self._told = {"members": chosen, "validationLoss": self._loss(view, soup), "validationLossOf": losses_of}
        return soup

    def _greedy(
        self, view: FitView, weights: Weights, members: Mapping[str, Weights], losses_of: Mapping[str, float]
    ) -> list[str]:
        order = sorted(members, key=lambda name: (losses_of[name], name))
        chosen, best = order[:1], losses_of[order[0]]
        for name in order[1:]:
            loss = self._loss(view, {**weights, **mean_of([members[n] for n in (*chosen, name)])})
            if loss <= best:
                chosen, best = [*chosen, name], loss
        return chosen

    def _loss(self, view: FitView, state: Weights) -> float:
        """On validation rows, or on the training rows where a uniform soup has none; with batch statistics of these weights."""
        part = view.validation or view.train
        state = {**state, **evaluator.batch_statistics(view.model, state, view.train.x)}
        with torch.no_grad():
            scores = evaluator.scores(view.model, part.x, state)
            return float(losses.per_row(scores, part, regression=view.regression).mean())

    def notes(self) -> dict[str, Any]:
        """Who is in the soup, and its validation loss beside theirs."""
        return self._told
