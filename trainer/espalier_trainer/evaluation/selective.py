"""M5: answering only when sure. Thresholds with a guarantee, and what they cost (Geifman and El-Yaniv 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy.stats import beta

from espalier_trainer.evaluation.intervals import bootstrap, share_of

if TYPE_CHECKING:
    import numpy.typing as npt

    from espalier_api.artifact import MetricValue

    Floats = npt.NDArray[np.float64]

MAX_RISK: Final = 0.05
CONFIDENCE: Final = 0.95
CURVE_POINTS: Final = 101


def risk_bound(errors: int, n: int, confidence: float) -> float:
    """Clopper-Pearson's one-sided upper bound of an error rate: with this probability the true rate is not larger."""
    return 1.0 if errors >= n else float(beta.ppf(confidence, errors + 1, n - errors))


@dataclass(frozen=True, slots=True)
class Threshold:
    """Answer when the largest probability is at least `value`; `bound` holds for the risk among answers."""

    value: float
    bound: float
    coverage: float  # share answered of the rows that chose the threshold


def threshold_for(
    confidence: Floats, wrong: npt.NDArray[Any], max_risk: float = MAX_RISK, certainty: float = CONFIDENCE
) -> Threshold | None:
    """The threshold of largest coverage found whose risk among answers is at most `max_risk` with probability `certainty`.

    Selection with Guaranteed Risk: a look at answering everything, then a binary search over the m observed confidences; each of the
    ceil(log2 m) + 1 looks spends its share of 1 - certainty (union bound), so the guarantee survives the search. The rows must be
    independent of the fit. None when no threshold can be promised: without errors, 5 % at 95 % still takes some hundred rows.
    """
    n = len(confidence)
    order = np.argsort(-confidence, kind="stable")
    values, errors = confidence[order], np.cumsum(wrong[order] != 0)
    looks = max(1, int(np.ceil(np.log2(n)))) + 1
    share = 1.0 - (1.0 - certainty) / looks
    best: Threshold | None = None
    low, high, middle = 0, n - 1, n - 1
    for _ in range(looks):
        if low > high:
            break
        last = (
            int(np.searchsorted(-values, -values[middle], side="right")) - 1
        )  # equal confidences are answered together
        bound = risk_bound(int(errors[last]), last + 1, share)
        if bound <= max_risk:
            best = Threshold(float(values[middle]), bound, (last + 1) / n)
            low = last + 1
        else:
            high = middle - 1
        middle = (low + high) // 2
    return best


def risk_coverage(confidence: Floats, wrong: npt.NDArray[Any]) -> tuple[Floats, Floats]:
    """(coverage, risk) when the 1, 2, ..., n surest rows are answered; rows of equal confidence share the mean error of their tie."""
    order = np.argsort(-confidence, kind="stable")
    values, bad = confidence[order], wrong[order].astype(np.float64)
    _, start, inverse = np.unique(-values, return_index=True, return_inverse=True)
    sizes = np.diff(np.append(start, len(values)))
    bad = (np.add.reduceat(bad, start) / sizes)[inverse]
    count = np.arange(1, len(bad) + 1)
    return count / len(bad), np.cumsum(bad) / count


def aurc(confidence: Floats, wrong: npt.NDArray[Any]) -> float:
    """Area under the risk-coverage curve: the mean risk over all coverages (Geifman et al. 2019). 0 is perfect."""
    return float(risk_coverage(confidence, wrong)[1].mean())


def curve(confidence: Floats, wrong: npt.NDArray[Any]) -> list[list[float]]:
    """At most 101 evenly spaced points [coverage, risk] for metrics.json and the picture."""
    coverage, risk = risk_coverage(confidence, wrong)
    rows = np.unique(np.linspace(0, len(risk) - 1, min(len(risk), CURVE_POINTS)).astype(np.int64))
    return [[float(coverage[i]), float(risk[i])] for i in rows]


def measure(
    p: Floats, y: npt.NDArray[Any], weight: Floats | None, threshold: Threshold | None, seed: int
) -> dict[str, MetricValue]:
    """aurc, and with a threshold: the share that it refuses and the error rate among the answers, on rows that did not choose it."""
    confidence, wrong = p.max(axis=1), p.argmax(axis=1) != y
    told = {"aurc": bootstrap(lambda rows: aurc(confidence[rows], wrong[rows]), len(y), seed, 200)}
    if threshold is None:
        return told
    answered = confidence >= threshold.value
    told["rejectRate"] = share_of(~answered, weight)
    if answered.any():
        told["selectiveRisk"] = share_of(wrong[answered], None if weight is None else weight[answered])
    return told
