"""Adversarial training: part of the loss is taken at the worst input that a search finds within a ball around each row.

fgsm (Goodfellow et al. 2015): one step of length epsilon along the gradient. pgd (Madry et al. 2018): `steps` steps of `stepSize` from a
random point of the ball, each projected back; the last point counts. trades (Zhang et al. 2019): the same search for the
largest KL(p(x) || p(x')) from x + 0.001 N(0, 1), and `mix` times that KL is added. For fgsm and pgd the loss of a row is
(1 - mix) l(x) + mix l(x'), with the data loss that is in force.

epsilon is in units of the scaled features: one standard deviation of the training rows each, or with data.preprocessing.scaling minMax
one range (8 of 255 grey levels are then 0.031). That scaling is the normalization that this system declares, and it is inside the
graph. A raw radius r around a feature of deviation s is epsilon = r / s. There is no clipping to a range of valid inputs: minMax knows
what training rows had, not what is valid. Features that are constant in training stay as they are: the served graph
silences them, so no attack reaches the network through them.

The search runs in evaluation mode, as in the authors' code of TRADES: no dropout mask hides the gradient, and running statistics of batch
normalization do not move. The loss at what was found is taken in training mode, like that at the row itself.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from espalier_api.regularizers import Adversarial as AdversarialConfig
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.protocol import Batch, FitView, PlanContext, Regularizer, Stage, register

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from espalier_trainer.schedule import Coefficient

TRADES_START: Final = 1e-3  # of the authors' code
TINY: Final = 1e-12


@dataclass(frozen=True, slots=True)
class Ball:
    """Inputs (rows, features) within `epsilon` of a row in the norm; `free` (features,) is 0 where an input must stay."""

    epsilon: float
    norm: Literal["linf", "l2"]
    free: Tensor | None = None

    def project(self, shift: Tensor) -> Tensor:
        """The nearest shift (rows, features) within the ball."""
        if self.free is not None:
            shift = shift * self.free
        if self.norm == "linf":
            return shift.clamp(-self.epsilon, self.epsilon)
        length = _length(shift).clamp_min(TINY)
        return shift * (self.epsilon / length).clamp_max(1.0)

    def steepest(self, gradient: Tensor) -> Tensor:
        """The step of length 1 in the norm that raises the linearized loss most; 0 where the gradient is 0."""
        if self.free is not None:
            gradient = gradient * self.free
        if self.norm == "linf":
            return gradient.sign()
        return gradient / _length(gradient).clamp_min(TINY)

    def anywhere(self, x: Tensor) -> Tensor:
        """Shifts (rows, features) drawn evenly from the ball."""
        if self.norm == "linf":
            return self.project((2 * torch.rand_like(x) - 1) * self.epsilon)
        direction = self.steepest(torch.randn_like(x))
        dimension = x.shape[-1] if self.free is None else self.free.sum().clamp_min(1.0)
        return direction * self.epsilon * torch.rand_like(x[:, :1]) ** (1.0 / dimension)


def _length(rows: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    return length


def ascend(loss: Callable[[Tensor], Tensor], x: Tensor, start: Tensor, ball: Ball, steps: int, size: float) -> Tensor:
    """Projected gradient ascent: x (rows, features) moved by at most the ball; `loss` gives (rows,) of moved inputs.

    Rows do not see each other, so the gradient of the sum is that of each row. Parameters get no gradient.
    """
    shift = start
    for _ in range(steps):
        gradient = torch.func.grad(lambda moved: loss(moved).sum())((x + shift).detach())
        shift = ball.project(shift + size * ball.steepest(gradient)).detach()
    return (x + shift).detach()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Every module in evaluation mode, and each back in its own afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def divergence(here: Tensor, there: Tensor) -> Tensor:
    """KL(softmax(here) || softmax(there)) of each row (rows,)."""
    log_p = F.log_softmax(here, dim=-1)
    return (log_p.exp() * (log_p - F.log_softmax(there, dim=-1))).sum(-1)


@register
class Adversarial(Regularizer[AdversarialConfig]):
    """Mixes the loss at the worst input found into the loss of each row."""

    name = "adversarial"
    stage = Stage.LOSS
    annealed = "mix"
    selects = None

    def __init__(self, config: AdversarialConfig) -> None:
        super().__init__(config)
        self._view: FitView | None = None
        self._ball = Ball(config.epsilon, config.norm)
        self._unit = ""

    def plan(self, context: PlanContext) -> None:
        """trades compares class probabilities."""
        self._unit = context.unit
        if context.regression and self.config.attack == "trades":
            raise InvalidConfigError(
                "regularizers.adversarial.attack: trades compares class probabilities, and a regression has none; use pgd or fgsm"
            )

    def attach(self, view: FitView) -> None:
        """Find the features that vary in training."""
        x = view.train.x
        self._view = view
        self._ball = Ball(self.config.epsilon, self.config.norm, (x != x[:1]).any(0).to(x.dtype))

    def mix_loss(self, rows: Tensor, scores: Tensor, batch: Batch, coefficient: Coefficient) -> Tensor:
        """(rows,)."""
        if coefficient.value == 0.0:  # annealed away: not even a forward pass
            return rows
        assert self._view is not None  # noqa: S101 - attach comes first
        worst = self.worst(batch)
        there = self._view.forward(worst)
        share = coefficient.tensor
        if self.config.attack == "trades":
            return rows + share * divergence(scores, there)
        return (1.0 - share) * rows + share * self._view.rows(there, replace(batch, x=worst))

    def worst(self, batch: Batch) -> Tensor:
        """(rows, features) found by the declared attack, detached."""
        view, config = self._view, self.config
        assert view is not None  # noqa: S101 - attach comes first
        x = batch.x.detach()
        with evaluating(view.model), torch.no_grad():  # func.grad differentiates inside; nothing outside is recorded

            def data_loss(moved: Tensor) -> Tensor:
                return view.rows(view.forward(moved), replace(batch, x=moved))

            match config.attack:
                case "fgsm":
                    return ascend(data_loss, x, torch.zeros_like(x), self._ball, 1, config.epsilon)
                case "pgd":
                    return ascend(data_loss, x, self._ball.anywhere(x), self._ball, config.steps, self._size)
                case _:
                    here = view.forward(x)
                    start = self._ball.project(TRADES_START * torch.randn_like(x))
                    return ascend(
                        lambda moved: divergence(here, view.forward(moved)),
                        x,
                        start,
                        self._ball,
                        config.steps,
                        self._size,
                    )

    @property
    def _size(self) -> float:
        return self.config.epsilon / 4 if self.config.step_size is None else self.config.step_size

    def notes(self) -> dict[str, Any]:
        """In which unit the ball is."""
        return {"epsilon": self.config.epsilon, "unit": self._unit, "norm": self.config.norm}
