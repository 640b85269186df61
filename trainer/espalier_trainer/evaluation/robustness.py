"""Accuracy under attack and under corruption. An attack that gets weaker with more room is broken, and its number is not told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, runtime_checkable

import numpy as np

from espalier_trainer import rng
from espalier_trainer.evaluation.intervals import bootstrap, share_of
from espalier_trainer.evaluation.metrics import row_losses

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    from espalier_api.artifact import MetricValue

    Floats = npt.NDArray[np.float64]
    Inputs = npt.NDArray[np.float32]
    Scores = Callable[[Inputs], Floats]

ROWS: Final = 1000
"""Test rows that are attacked or corrupted: evenly spaced, so the cost is bounded."""
NOISE: Final = (0.1, 0.3, 0.5)
"""Standard deviations of the noise, in standard deviations of each feature."""
LOST: Final = (0.1, 0.2, 0.3)
"""Shares of feature values replaced by the training mean."""
LADDER: Final = (1.0, 2.0, 4.0)
"""Multiples of epsilon on which the loss must rise."""


@runtime_checkable
class Differentiable(Protocol):
    """The optional capability of a Fitted whose scores have a gradient."""

    def input_gradient(self, x: npt.NDArray[np.float32], y: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """d loss / d x per row, in evaluation mode: scaled features (rows, features) and targets (rows,) to (rows, features).

        The loss of a row is its unpenalised cross-entropy or half its squared error; rows do not see each other.
        """
        ...


@dataclass(frozen=True, slots=True)
class Attack:
    """A ball around each row, in the unit of the scaled features."""

    epsilon: float
    norm: Literal["linf", "l2"] = "linf"
    steps: int = 10

    def scaled(self, factor: float) -> Attack:
        """The same attack with more room."""
        return Attack(self.epsilon * factor, self.norm, self.steps)


@dataclass(frozen=True, slots=True)
class Attacked:
    """What an attack found. `accuracy` counts a row as right when it is right at rest, under FGSM and under PGD."""

    accuracy: MetricValue
    fgsm: float
    pgd: float
    losses: tuple[float, ...]  # mean PGD loss at 1, 2 and 4 epsilon

    @property
    def masked(self) -> bool:
        """True when more room does not hurt more: gradients that point nowhere, not robustness (Athalye et al. 2018)."""
        return any(not after > before * (1 + 1e-6) for before, after in zip(self.losses, self.losses[1:], strict=False))


def fgsm(model: Differentiable, x: Inputs, y: npt.NDArray[Any], attack: Attack) -> Inputs:
    """One step to the border of the ball along the gradient (Goodfellow et al. 2015)."""
    return (x + attack.epsilon * _direction(model.input_gradient(x, y), attack.norm)).astype(np.float32)


def pgd(model: Differentiable, scores: Scores, x: Inputs, y: npt.NDArray[Any], attack: Attack, seed: int) -> Inputs:
    """Projected gradient ascent from a random start, steps of 2.5 epsilon/steps; the worst point seen per row (Madry et al. 2018)."""
    generator = np.random.default_rng(seed)
    start = _project(generator.uniform(-1, 1, x.shape) * attack.epsilon, attack)
    moved = (x + start).astype(np.float32)
    worst, highest = x.copy(), row_losses(scores(x), y)
    for step in range(attack.steps + 1):
        loss = row_losses(scores(moved), y)
        better = loss > highest
        worst[better], highest[better] = moved[better], loss[better]
        if step < attack.steps:
            ahead = moved + 2.5 * attack.epsilon / attack.steps * _direction(
                model.input_gradient(moved, y), attack.norm
            )
            moved = (x + _project(ahead - x, attack)).astype(np.float32)
    return worst


def _direction(gradient: npt.NDArray[Any], norm: str) -> Floats:
    """The step of length 1 in the norm that raises the linearized loss most."""
    g = np.asarray(gradient, dtype=np.float64)
    if norm == "linf":
        return np.asarray(np.sign(g))
    length = np.linalg.norm(g, axis=1, keepdims=True)
    return np.asarray(np.divide(g, length, out=np.zeros_like(g), where=length > 0))


def _project(shift: npt.NDArray[Any], attack: Attack) -> Floats:
    if attack.norm == "linf":
        return np.asarray(np.clip(shift, -attack.epsilon, attack.epsilon))
    length = np.linalg.norm(shift, axis=1, keepdims=True)
    return np.asarray(shift * np.minimum(1.0, attack.epsilon / np.maximum(length, 1e-12)))


def attacked(
    model: Differentiable, scores: Scores, x: Inputs, y: npt.NDArray[Any], attack: Attack, seed: int
) -> Attacked:
    """Classes under FGSM and PGD at epsilon, and the ladder of losses that shows whether the gradients can be trusted."""

    def right(inputs: Inputs) -> npt.NDArray[np.bool_]:
        return np.asarray(scores(inputs).argmax(axis=1) == y)

    ladder = [pgd(model, scores, x, y, attack.scaled(f), rng.derive(seed, "pgd")) for f in LADDER]
    at_rest, once, many = right(x), right(fgsm(model, x, y, attack)), right(ladder[0])
    losses = tuple(float(row_losses(scores(inputs), y).mean()) for inputs in ladder)
    return Attacked(share_of(at_rest & once & many, None), float(once.mean()), float(many.mean()), losses)


# --- corruptions ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Moments:
    """Of each feature in training, after scaling: what noise is measured by and what stands in for a lost value."""

    mean: Floats  # (features,)
    deviation: Floats  # (features,)

    @classmethod
    def standard(cls, features: int) -> Moments:
        """Those of standardized features."""
        return cls(np.zeros(features), np.ones(features))


def corruptions(x: Inputs, moments: Moments, seed: int) -> Iterator[tuple[str, float, Inputs]]:
    """(kind, severity, corrupted rows): Gaussian noise and lost features, three severities each, mildest first."""
    for severity in (
        NOISE if moments.deviation.any() else ()
    ):  # ids of tokens have no deviation that noise could be measured by
        generator = np.random.default_rng(rng.derive(seed, "gaussianNoise"))
        yield (
            "gaussianNoise",
            severity,
            (x + severity * moments.deviation * generator.normal(size=x.shape)).astype(np.float32),
        )
    for share in LOST:
        generator = np.random.default_rng(rng.derive(seed, "featureDropout"))
        yield "featureDropout", share, np.where(generator.random(x.shape) < share, moments.mean.astype(np.float32), x)


@dataclass(frozen=True, slots=True)
class Corrupted:
    """One corruption: mean quality (accuracy, or minus the root mean squared error) and its drop from the clean rows, paired by row."""

    kind: str
    severity: float
    quality: float
    drop: MetricValue


def corrupted(
    scores: Scores, x: Inputs, y: npt.NDArray[Any], moments: Moments, *, classes: int, seed: int
) -> tuple[MetricValue, list[Corrupted]]:
    """The suite's mean (corruptionAccuracy or corruptionRmse, standardized unit) and every corruption."""
    clean = _merit(scores(x), y, classes)
    told: list[Corrupted] = []
    merits: list[Floats] = []
    for kind, severity, inputs in corruptions(x, moments, seed):
        merit = _merit(scores(inputs), y, classes)
        merits.append(merit)
        told.append(Corrupted(kind, severity, _quality(merit, classes), _drop(clean, merit, classes, seed)))
    stacked = np.stack(merits)

    def mean(rows: npt.NDArray[np.int64]) -> float:
        return abs(float(np.mean([_quality(one[rows], classes) for one in stacked])))

    return bootstrap(mean, len(y), seed, 200), told


def _drop(clean: Floats, merit: Floats, classes: int, seed: int) -> MetricValue:
    return bootstrap(
        lambda rows: _quality(clean[rows], classes) - _quality(merit[rows], classes), len(clean), seed, 200
    )


def _merit(scores: Floats, y: npt.NDArray[Any], classes: int) -> Floats:
    """Per row: 1 when right, or minus the squared error."""
    merit = scores.argmax(axis=1) == y if classes else -((scores[:, 0] - y) ** 2)
    return np.asarray(merit, dtype=np.float64)


def _quality(merit: Floats, classes: int) -> float:
    mean = float(merit.mean())
    return mean if classes else -((-mean) ** 0.5)
