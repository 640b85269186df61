"""M4: how much the answer depends on chance: on the seed, on the member of an ensemble, on the sample, on the version."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from espalier_trainer.evaluation.intervals import bootstrap, share_of

if TYPE_CHECKING:
    import numpy.typing as npt

    from espalier_api.artifact import MetricValue

    Floats = npt.NDArray[np.float64]

KEPT_NUMBERS: Final = 20_000
KEPT_ROWS: Final = 512


def kept_rows(rows: int, outputs: int) -> npt.NDArray[np.int64]:
    """Evenly spaced test rows whose answers are remembered for the spread over seeds: they ride in checkpoints, so few."""
    count = max(1, min(rows, KEPT_ROWS, KEPT_NUMBERS // max(outputs, 1)))
    return np.unique(np.linspace(0, rows - 1, count).astype(np.int64))


def spread(members: Floats) -> Floats:
    """Standard deviation (ddof 1) per row of `members` (K, rows, outputs): of the value, or of the probability of the mean's class."""
    if members.shape[0] < 2:  # noqa: PLR2004 - one answer has no spread
        raise ValueError("spread: at least two members are needed")
    top = members.mean(axis=0).argmax(axis=1)
    chosen = members[:, np.arange(members.shape[1]), top]
    return np.asarray(chosen.std(axis=0, ddof=1))


def mutual_information(members: Floats) -> Floats:
    """Per row, in nats, of probabilities (K, rows, classes): entropy of the mean minus mean entropy (Houlsby et al. 2011)."""
    return np.asarray(np.maximum(_entropy(members.mean(axis=0)) - _entropy(members).mean(axis=0), 0.0))


def _entropy(p: Floats) -> Floats:
    return np.asarray(-(p * np.log(np.clip(p, 1e-300, None))).sum(axis=-1))


def measure(members: Floats, *, classification: bool, seed: int) -> dict[str, MetricValue]:
    """predictionVariance: mean over rows of the spread (a standard deviation, in the answer's unit); mutualInformation for classes."""
    deviations = spread(members)
    n = len(deviations)
    told = {"predictionVariance": bootstrap(lambda rows: float(deviations[rows].mean()), n, seed)}
    if classification:
        shared = mutual_information(members)
        told["mutualInformation"] = bootstrap(lambda rows: float(shared[rows].mean()), n, seed)
    return told


def churn(before: npt.NDArray[Any], now: npt.NDArray[Any], weight: Floats | None = None) -> MetricValue:
    """Share of rows whose predicted class changed between two versions (Milani Fard et al. 2016), with Wilson's interval."""
    return share_of(before != now, weight)
