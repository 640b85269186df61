"""95 % intervals: Wilson for shares, bootstrap for everything else. Weighted rows count by their effective number (Kish 1965)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from espalier_api.artifact import MetricValue

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

Z: Final = 1.959963984540054
RESAMPLES: Final = 500
FEWEST_RESAMPLES: Final = 100
DRAWS: Final = 50_000_000  # resampled rows per statistic: a million rows get by with a hundred resamples
# two-sided 97.5 % quantiles of Student's t for 1..30 degrees of freedom
_T975: Final = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


def wilson(share: float, n: float) -> tuple[float, float]:
    """Wilson's score interval of a share of n independent rows (1927)."""
    centre = share + Z * Z / (2 * n)
    half = Z * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    scale = 1 + Z * Z / n
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def effective(weight: npt.NDArray[np.float64] | None, n: int) -> float:
    """Number of equally weighted rows that tell as much."""
    return float(n) if weight is None else float(weight.sum() ** 2 / (weight**2).sum())


def share_of(hits: npt.NDArray[Any], weight: npt.NDArray[np.float64] | None) -> MetricValue:
    """A (weighted) share of rows with Wilson's interval."""
    value = float(np.average(hits, weights=weight))
    low, high = wilson(value, effective(weight, len(hits)))
    return MetricValue(value=value, low=low, high=high, n=len(hits))


def bootstrap(
    statistic: Callable[[npt.NDArray[np.int64]], float], n: int, seed: int, resamples: int = RESAMPLES
) -> MetricValue:
    """`statistic` of row indices on all rows, with the percentile interval over resampled rows. NaN resamples are left out."""
    generator = np.random.default_rng(seed)
    count = max(FEWEST_RESAMPLES, min(resamples, DRAWS // n))
    values = np.asarray([statistic(generator.integers(0, n, n)) for _ in range(count)])
    values = values[np.isfinite(values)]
    value = statistic(np.arange(n))
    if len(values) == 0:
        return MetricValue(value=value, n=n)
    low, high = np.quantile(values, [0.025, 0.975])
    return MetricValue(value=value, low=float(low), high=float(high), n=n)


def mean_of_seeds(values: Sequence[MetricValue]) -> MetricValue:
    """The mean over repeated fits. With several fits the interval is Student's t over them: what another seed would give."""
    if len(values) == 1:
        return values[0]
    numbers = np.asarray([v.value for v in values])
    k = len(numbers)
    t = _T975[k - 2] if k - 2 < len(_T975) else Z
    half = t * float(numbers.std(ddof=1)) / math.sqrt(k)
    mean = float(numbers.mean())
    return MetricValue(value=mean, low=mean - half, high=mean + half, n=values[0].n)
