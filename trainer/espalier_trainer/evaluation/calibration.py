"""Calibration: temperature, log loss, Brier score, ECE and its excess over what a perfectly calibrated model of that size would show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

BINS: Final = 15
RESAMPLES: Final = 200
_NEWTON_STEPS: Final = 100
_TEMPERATURES: Final = (0.05, 20.0)


def log_softmax(logits: Floats, temperature: float = 1.0) -> Floats:
    """Row-wise log probabilities of logits / T, shape (rows, classes)."""
    z = logits / temperature
    z = z - z.max(axis=1, keepdims=True)
    return np.asarray(z - np.log(np.exp(z).sum(axis=1, keepdims=True)))


def softmax(logits: Floats, temperature: float = 1.0) -> Floats:
    """Row-wise probabilities of logits / T."""
    return np.asarray(np.exp(log_softmax(logits, temperature)))


def log_loss(logits: Floats, y: npt.NDArray[Any], temperature: float = 1.0) -> float:
    """Mean negative log-likelihood of the labels."""
    return float(-log_softmax(logits, temperature)[np.arange(len(y)), y].mean())


def fit_temperature(logits: Floats, y: npt.NDArray[Any]) -> float:
    """The T > 0 that minimizes the log loss (Guo et al. 2017), within 0.05 to 20.

    The loss is convex in b = 1/T; Newton on b, kept inside a shrinking bracket, so it converges for any logits.
    """
    rows = np.arange(len(y))
    low, high = 1 / _TEMPERATURES[1], 1 / _TEMPERATURES[0]
    b = 1.0
    for _ in range(_NEWTON_STEPS):
        p = softmax(logits * b)
        mean = (p * logits).sum(axis=1)
        slope = float((mean - logits[rows, y]).mean())
        curve = float(((p * logits**2).sum(axis=1) - mean**2).mean())
        low, high = (b, high) if slope < 0 else (low, b)
        proposal = b - slope / curve if curve > 0 else (low + high) / 2
        following = proposal if low < proposal < high else (low + high) / 2
        if abs(following - b) < 1e-12 * b:
            break
        b = following
    return 1.0 / b


def brier(p: Floats, y: npt.NDArray[Any]) -> Floats:
    """Per-row squared distance to the one-hot label, in 0..2, shape (rows,)."""
    return np.asarray((p**2).sum(axis=1) - 2 * p[np.arange(len(y)), y] + 1.0)


def bin_of(confidence: Floats, bins: int = BINS) -> npt.NDArray[np.int64]:
    """Index of the equal-width bin, right-closed like Guo et al. (torchmetrics closes on the left): bin i is (i/b, (i+1)/b]."""
    edges = np.linspace(0.0, 1.0, bins + 1)
    return np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)


def ece(confidence: Floats, correct: Floats, bins: int = BINS) -> float:
    """Expected calibration error: the weighted gap between confidence and accuracy over bins (Naeini et al. 2015, Guo et al. 2017)."""
    index = bin_of(confidence, bins)
    gap = np.bincount(index, weights=confidence - correct, minlength=bins)
    return float(np.abs(gap).sum() / len(confidence))


def adaptive_ece(confidence: Floats, correct: Floats, bins: int = BINS) -> float:
    """ECE over bins of equally many rows instead of equal width (Nixon et al. 2019): no bin is empty, none holds nearly everything."""
    order = np.argsort(confidence, kind="stable")
    gaps = [
        abs(float((correct[rows] - confidence[rows]).sum())) for rows in np.array_split(order, min(bins, len(order)))
    ]
    return sum(gaps) / len(confidence)


def classwise_ece(p: Floats, y: npt.NDArray[Any], bins: int = BINS) -> float:
    """Mean over classes of the ECE of that class's own probability (Kull et al. 2019): also errors that the top label hides."""
    return float(np.mean([ece(p[:, k], (y == k).astype(np.float64), bins) for k in range(p.shape[1])]))


def reliability(p: Floats, y: npt.NDArray[Any], bins: int = BINS) -> list[list[float]]:
    """Per bin of top-label confidence that holds rows: [mean confidence, accuracy, rows]."""
    confidence, correct = p.max(axis=1), p.argmax(axis=1) == y
    index = bin_of(confidence, bins)
    inside = [index == i for i in range(bins)]
    return [[float(confidence[m].mean()), float(correct[m].mean()), float(m.sum())] for m in inside if m.any()]


@dataclass(frozen=True, slots=True)
class Excess:
    """ECE beside its null: what a perfectly calibrated model with the same confidences shows at this n."""

    ece: float
    null_mean: float
    null_low: float  # 2.5 % of the null
    null_high: float
    p_value: float  # share of the null at least this large, with the +1 of a permutation test

    @property
    def excess(self) -> float:
        """ECE minus the null's mean: 0 in expectation for a calibrated model of any size."""
        return self.ece - self.null_mean


def excess_ece(p: Floats, y: npt.NDArray[Any], seed: int, resamples: int = RESAMPLES) -> Excess:
    """Top-label ECE against labels resampled from the model's own probabilities (reference, M3)."""
    confidence = p.max(axis=1)
    observed = ece(confidence, (p.argmax(axis=1) == y).astype(np.float64))
    generator = np.random.default_rng(seed)
    # under the null the top label is right with probability `confidence`; nothing else enters top-label ECE
    index = bin_of(confidence)
    null = np.empty(resamples)
    for i in range(resamples):  # row by row: a matrix of all resamples would not fit a pod
        hit = generator.random(len(y)) < confidence
        null[i] = np.abs(np.bincount(index, weights=confidence - hit, minlength=BINS)).sum() / len(y)
    low, high = np.quantile(null, [0.025, 0.975])
    p_value = (1 + int((null >= observed).sum())) / (resamples + 1)
    return Excess(observed, float(null.mean()), float(low), float(high), p_value)
