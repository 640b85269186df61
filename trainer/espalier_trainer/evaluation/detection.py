"""M9: a class against the rest at the served threshold: false positives, hits, and the quality of the ranking."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from espalier_trainer.evaluation.intervals import bootstrap, share_of

if TYPE_CHECKING:
    import numpy.typing as npt

    from espalier_api.artifact import MetricValue

    Floats = npt.NDArray[np.float64]


def measure(p: Floats, y: npt.NDArray[Any], weight: Floats | None, positive: int, seed: int) -> dict[str, MetricValue]:
    """falsePositiveRate FP/(FP+TN) and recall TP/(TP+FN) of class `positive` with Wilson's intervals, averagePrecision.

    The served threshold is the graph's own ArgMax. A rate without rows to count is left out. An interval tighter than alpha needs
    about 3/alpha negatives.
    """
    called, actual = p.argmax(axis=1) == positive, y == positive
    told = {
        name: share_of(called[rows], None if weight is None else weight[rows])
        for name, rows in (("falsePositiveRate", ~actual), ("recall", actual))
        if rows.any()
    }
    if actual.any():
        w = np.ones(len(y)) if weight is None else weight
        told["averagePrecision"] = bootstrap(
            lambda rows: average_precision(p[rows, positive], actual[rows], w[rows]), len(y), seed, 200
        )
    return told


def average_precision(score: Floats, positive: npt.NDArray[np.bool_], weight: Floats) -> float:
    """Sum over thresholds of (R_n - R_(n-1)) P_n, without interpolation; equal scores are one threshold. NaN without positives."""
    order = np.argsort(-score, kind="stable")
    score, hit, w = score[order], (positive * weight)[order], weight[order]
    last = np.append(np.flatnonzero(np.diff(score)), len(score) - 1)
    hits, called = np.cumsum(hit)[last], np.cumsum(w)[last]
    if hits[-1] == 0:
        return float("nan")
    precision = np.divide(hits, called, out=np.zeros_like(hits), where=called > 0)
    return float((np.diff(np.append(0.0, hits)) * precision).sum() / hits[-1])
