"""The metrics of one fit on one split, named as in the API (espalier_api.evaluation.MetricName)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from espalier_api.artifact import MetricValue
from espalier_trainer.evaluation import calibration
from espalier_trainer.evaluation.intervals import bootstrap, share_of

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

Metrics = dict[str, MetricValue]
BINARY: Final = 2


def classification(
    p: Floats, y: npt.NDArray[Any], weight: Floats | None, seed: int, positive: int | None = None
) -> tuple[Metrics, calibration.Excess]:
    """All metrics of probabilities (rows, classes) on labels (rows,). f1, precision and recall are of `positive`, else macro means."""
    predicted = p.argmax(axis=1)
    n, k = p.shape
    w = np.ones(n) if weight is None else weight
    losses = -np.log(np.clip(p[np.arange(n), y], 1e-300, None))
    squares = calibration.brier(p, y)
    excess = calibration.excess_ece(p, y, seed)

    def of_confusion(measure: str) -> MetricValue:
        return bootstrap(
            lambda rows: confusion_measures(y[rows], predicted[rows], w[rows], k, positive)[measure], n, seed
        )

    told: Metrics = {
        "accuracy": share_of(predicted == y, weight),
        "logLoss": bootstrap(lambda rows: float(np.average(losses[rows], weights=w[rows])), n, seed),
        "brier": bootstrap(lambda rows: float(np.average(squares[rows], weights=w[rows])), n, seed),
        "calibrationError": MetricValue(value=excess.ece, n=n),
        "calibrationErrorExcess": MetricValue(
            value=excess.excess, low=excess.ece - excess.null_high, high=excess.ece - excess.null_low, n=n
        ),
    }
    told |= {name: of_confusion(name) for name in ("balancedAccuracy", "f1", "precision", "recall")}
    if k == BINARY and len(np.unique(y)) == BINARY:
        one = 1 if positive is None else positive
        told["auroc"] = bootstrap(lambda rows: auroc(p[rows, one], y[rows] == one, w[rows]), n, seed, 200)
    return told, excess


def confusion_measures(
    y: npt.NDArray[Any], predicted: npt.NDArray[Any], w: Floats, k: int, positive: int | None
) -> dict[str, float]:
    """Numbers of the confusion matrix from class indices `y`, `predicted` (rows,), weights `w` (rows,) and `k` classes."""
    confusion = np.bincount(y * k + predicted, weights=w, minlength=k * k).reshape(k, k)
    hits, actual, called = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    present = actual > 0
    recall = np.divide(hits, actual, out=np.zeros(k), where=present)
    precision = np.divide(hits, called, out=np.zeros(k), where=called > 0)
    both = recall + precision
    f1 = np.divide(2 * recall * precision, both, out=np.zeros(k), where=both > 0)
    pick = np.flatnonzero(present) if positive is None else np.asarray([positive])
    return {
        "balancedAccuracy": float(recall[present].mean()),
        "f1": float(f1[pick].mean()),
        "precision": float(precision[pick].mean()),
        "recall": float(recall[pick].mean()),
    }


def auroc(score: Floats, positive: npt.NDArray[np.bool_], weight: Floats) -> float:
    """Weighted area under the ROC curve; ties count half. NaN when one class is missing."""
    order = np.argsort(score, kind="stable")
    score, positive, weight = score[order], positive[order], weight[order]
    _, start, inverse = np.unique(score, return_index=True, return_inverse=True)
    negative_weight = np.where(positive, 0.0, weight)
    per_value = np.add.reduceat(negative_weight, start)
    below = np.cumsum(per_value) - per_value
    area = float((weight * positive * (below[inverse] + per_value[inverse] / 2)).sum())
    total = float((weight * positive).sum() * negative_weight.sum())
    return area / total if total else float("nan")


def regression(predicted: Floats, y: Floats, weight: Floats | None, seed: int) -> Metrics:
    """rmse and mae in the target's unit, r2."""
    n = len(y)
    w = np.ones(n) if weight is None else weight
    residual = predicted - y

    def rmse(rows: npt.NDArray[np.int64]) -> float:
        return float(np.sqrt(np.average(residual[rows] ** 2, weights=w[rows])))

    def mae(rows: npt.NDArray[np.int64]) -> float:
        return float(np.average(np.abs(residual[rows]), weights=w[rows]))

    def r2(rows: npt.NDArray[np.int64]) -> float:
        mean = np.average(y[rows], weights=w[rows])
        spread = np.average((y[rows] - mean) ** 2, weights=w[rows])
        return float(1 - np.average(residual[rows] ** 2, weights=w[rows]) / spread) if spread > 0 else float("nan")

    told = {"rmse": bootstrap(rmse, n, seed), "mae": bootstrap(mae, n, seed), "r2": bootstrap(r2, n, seed)}
    return {name: value for name, value in told.items() if np.isfinite(value.value)}


def row_losses(scores: Floats, y: npt.NDArray[Any]) -> Floats:
    """Unpenalised per-row loss of scores: cross-entropy for logits, half the squared error for values; shape (rows,)."""
    if scores.shape[1] == 1:
        return np.asarray(0.5 * (scores[:, 0] - y) ** 2)
    return np.asarray(-calibration.log_softmax(scores)[np.arange(len(y)), y])


def gap(train: Floats, validation: Floats, seed: int) -> MetricValue:
    """M1: mean validation loss minus mean training loss, on equal counts of rows, both in evaluation mode; bootstrap interval."""
    n = min(len(train), len(validation))
    generator = np.random.default_rng(seed)
    a, b = (v[generator.permutation(len(v))[:n]] for v in (train, validation))
    spread = bootstrap(lambda rows: float(b[rows].mean() - a[generator.integers(0, n, n)].mean()), n, seed)
    return spread.model_copy(update={"value": float(b.mean() - a.mean())})
