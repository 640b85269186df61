"""Class rebalancing: rare classes get a say in training, and POST takes out of the scores exactly what training put in.

pi are the classes' shares of the training rows, f the trained scores, p(y|x) the truth. Training minimizes cross-entropy, whose optimum
is where the softmax of what the loss sees is the distribution that it sees; solved for f, up to a constant per row:

| method | the loss sees | optimum | priorCorrection adds |
|---|---|---|---|
| logitAdjustment (Menon et al. 2021) | scores f + tau log pi | f = log p(y|x) - tau log pi | tau log pi |
| inverse | rows weighted by w = pi^-tau | f = log p(y|x) + log w | -log w |
| effectiveNumber (Cui et al. 2019) | w = E^-tau, E = (1 - b^n_k) / (1 - b), b = 1 - 1/n | f = log p(y|x) + log w | -log w |
| oversample | rows drawn with shares q ~ pi^(1 - tau) | f = log p(y|x) + log q - log pi | log pi - log q |

So for each method the served softmax is p(y|x) with the true prior. The correction needs no estimate: it undoes the very numbers that were
used, so it is exact with weighted rows, too. tau 0 is no rebalancing, tau 1 the method as published. Weights have mean 1 over the training
rows and multiply the loss of each row; they are not normalized per batch, because a batch without the rare class would then
pull towards the others as strongly as a balanced one, and neither the optimum nor its correction would hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from espalier_api.regularizers import ClassRebalancing as ClassRebalancingConfig
from espalier_trainer import rng
from espalier_trainer.engines.classical import class_weights
from espalier_trainer.engines.torch.losses import shares
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.peers import Sharing
from espalier_trainer.protocol import (
    MIDDLE,
    Batch,
    FitView,
    PlanContext,
    PostContext,
    Regularizer,
    Stage,
    register,
)

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

    from espalier_trainer.export.graph import Graph
    from espalier_trainer.schedule import Coefficient

    Floats = npt.NDArray[np.float64]

_HOOKS = {
    "adjust_scores": {"logitAdjustment"},
    "mix_loss": {"inverse", "effectiveNumber"},
    "draw": {"oversample"},
}


def row_weights(counts: Floats, method: str, tau: float) -> Floats:
    """(classes,) weights of rows by class, mean 1 over the rows that `counts` (classes,) counts."""
    raw = class_weights(method, counts) ** tau
    return np.asarray(raw * counts.sum() / (raw * counts).sum())


def drawn_counts(counts: Floats, tau: float) -> npt.NDArray[np.int64]:
    """(classes,) rows of each class in an epoch: shares ~ pi^(1 - tau), as many rows as there are, by largest remainders."""
    n = int(counts.sum())
    share = (counts / n) ** (1.0 - tau)
    exact = n * share / share.sum()
    found: npt.NDArray[np.int64] = np.floor(exact).astype(np.int64)
    found[np.argsort(found - exact, kind="stable")[: n - int(found.sum())]] += 1
    found = np.maximum(found, 1)
    found[np.argmax(found)] -= int(found.sum()) - n
    return found


@dataclass(frozen=True, slots=True)
class Shift:
    """Scores plus a constant per class (classes,)."""

    by: Floats

    def apply(self, scores: Floats) -> Floats:
        """(rows, classes)."""
        return scores + self.by

    def graph(self, graph: Graph, scores: str) -> str:
        """The same in float32."""
        return graph.add("Add", scores, graph.constant("prior", self.by.astype(np.float32)))


@register
class ClassRebalancing(Regularizer[ClassRebalancingConfig]):
    """Acts on scores, on losses of rows or on which rows are drawn; corrects in POST, before temperature."""

    name = "classRebalancing"
    stage = Stage.LOSS
    sharing = Sharing.EXACT
    order = MIDDLE + 10  # weights multiply what other blocks have mixed into a row's loss
    selects = None

    def __init__(self, config: ClassRebalancingConfig) -> None:
        super().__init__(config)
        self._counts: Floats = np.ones(0)
        self._by_class: list[npt.NDArray[np.int64]] = []
        self._device: Tensor | None = None

    def strength(self) -> float:
        """tau, for the log."""
        return self.config.tau

    def acts(self, hook: str) -> bool:
        """The method decides where; priorCorrection whether POST has anything to do."""
        if hook == "post":
            return self.config.prior_correction
        return super().acts(hook) and self.config.method in _HOOKS.get(hook, {self.config.method})

    def plan(self, context: PlanContext) -> None:
        """Needs classes, and rows of each of them."""
        if context.regression:
            raise InvalidConfigError(
                "regularizers.classRebalancing: a regression has no classes to rebalance; remove the block"
            )
        self._counts = np.asarray(context.class_counts, dtype=np.float64)
        if len(self._counts) != context.classes or not (self._counts > 0).all():
            raise InvalidConfigError(
                f"regularizers.classRebalancing: training rows per class are {list(context.class_counts)}, and a class without rows "
                "has no weight; drop it from task.classes or add rows"
            )

    @property
    def offset(self) -> Floats:
        """(classes,) what must be added to trained scores so that their softmax has the true prior; sums to 0."""
        prior = self._counts / self._counts.sum()
        tau = self.config.tau
        match self.config.method:
            case "logitAdjustment":
                by = tau * np.log(prior)
            case "oversample":
                drawn = drawn_counts(self._counts, tau).astype(np.float64)
                by = np.log(prior) - np.log(drawn / drawn.sum())
            case method:
                by = -np.log(row_weights(self._counts, method, tau))
        return np.asarray(by - by.mean())

    def attach(self, view: FitView) -> None:
        """Move the numbers to the device; for oversample sort the rows by class."""
        y = view.train.y
        if self.config.method == "oversample":
            labels = y.cpu().numpy()
            self._by_class = [np.flatnonzero(labels == k) for k in range(len(self._counts))]
            return
        numbers = (
            self.config.tau * np.log(self._counts / self._counts.sum())
            if self.config.method == "logitAdjustment"
            else row_weights(self._counts, self.config.method, self.config.tau)
        )
        self._device = torch.as_tensor(numbers, dtype=view.train.x.dtype, device=y.device)

    def draw(self, seed: int, rows: int) -> npt.NDArray[np.int64]:
        """Each class's rows in turn, in a new order each epoch, as often as its share says; (rows,)."""
        drawn = drawn_counts(self._counts, self.config.tau)
        chosen = [
            np.resize(members[rng.permutation(rng.derive(seed, "class", k), len(members))], int(count))
            for k, (members, count) in enumerate(zip(self._by_class, drawn, strict=True))
        ]
        joined = np.concatenate(chosen)
        return joined[rng.permutation(rng.derive(seed, "mix"), len(joined))]

    def adjust_scores(self, scores: Tensor, batch: Batch, coefficient: Coefficient) -> Tensor:
        """logitAdjustment: f + tau log pi."""
        assert self._device is not None  # noqa: S101 - attach comes first
        return scores + self._device

    def mix_loss(self, rows: Tensor, scores: Tensor, batch: Batch, coefficient: Coefficient) -> Tensor:
        """inverse, effectiveNumber: w times the loss of each row; a blended row has the blend of its classes' weights."""
        assert self._device is not None  # noqa: S101 - attach comes first
        if batch.y.is_floating_point():
            return rows * (shares(scores, batch.y) @ self._device)
        return rows * self._device[batch.y]

    def post(self, context: PostContext) -> None:
        """Back to the true prior."""
        context.transform(Shift(self.offset))

    def notes(self) -> dict[str, Any]:
        """The numbers that were used, by class index."""
        prior = self._counts / self._counts.sum()
        return {"prior": prior.tolist(), "offset": self.offset.tolist(), "corrected": self.config.prior_correction}
