"""Every metric by subgroup, and how differently subgroups are treated (Hardt et al. 2016; Feldman et al. 2015)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from espalier_api.artifact import MetricValue

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Rows = npt.NDArray[np.int64]

MAX_GROUPS: Final = 50
RESAMPLES: Final = 200
FEWEST_ROWS: Final = 50
"""A group with fewer rows is reported and decides nothing: not the worst group, not a difference."""
ALL: Final = "*"
"""Stands for all groups of a column in the key of a difference, `<metric>/<column>=*`."""


def members(column: npt.NDArray[Any]) -> list[tuple[str, Rows]]:
    """The largest groups of a column with their rows, by name."""
    names, counts = np.unique(column.astype(str), return_counts=True)
    largest = sorted(names[np.argsort(-counts, kind="stable")][:MAX_GROUPS])
    return [(str(name), np.flatnonzero(column == name)) for name in largest]


@dataclass(frozen=True, slots=True)
class Rates:
    """Weighted rates of one group; NaN where there is nothing to count."""

    selected: float
    true_positive: float
    false_positive: float


def rates(called: npt.NDArray[np.bool_], actual: npt.NDArray[np.bool_], weight: Floats) -> Rates:
    """P(called), P(called | actual), P(called | not actual)."""

    def share(rows: npt.NDArray[np.bool_]) -> float:
        total = float(weight[rows].sum())
        return float(weight[rows & called].sum()) / total if total else float("nan")

    return Rates(share(np.ones(len(called), dtype=np.bool_)), share(actual), share(~actual))


def differences(
    called: npt.NDArray[np.bool_],
    actual: npt.NDArray[np.bool_],
    weight: Floats | None,
    column: npt.NDArray[Any],
    seed: int,
) -> dict[str, MetricValue]:
    """demographicParityDifference (largest minus smallest selection rate) and equalizedOddsDifference (the larger of the spreads of true
    and of false positive rates) over groups with at least 50 rows; empty with fewer than two such groups. Intervals resample rows
    within groups.
    """
    big = [rows for _, rows in members(column) if len(rows) >= FEWEST_ROWS]
    if len(big) < 2:  # noqa: PLR2004 - a difference has two sides
        return {}
    w = np.ones(len(called)) if weight is None else weight

    def spread_of(parts: list[Rows], attribute: str) -> float:
        values = [getattr(rates(called[r], actual[r], w[r]), attribute) for r in parts]
        finite = [v for v in values if np.isfinite(v)]
        return max(finite) - min(finite) if len(finite) > 1 else float("nan")

    def odds(parts: list[Rows]) -> float:
        both = [spread_of(parts, "true_positive"), spread_of(parts, "false_positive")]
        return max((v for v in both if np.isfinite(v)), default=float("nan"))

    found = {
        "demographicParityDifference": _within(lambda parts: spread_of(parts, "selected"), big, seed),
        "equalizedOddsDifference": _within(odds, big, seed),
    }
    return {name: value for name, value in found.items() if np.isfinite(value.value)}


def _within(statistic: Callable[[list[Rows]], float], groups: list[Rows], seed: int) -> MetricValue:
    """The statistic of groups, with the percentile interval of rows resampled within each group."""
    generator = np.random.default_rng(seed)
    drawn = [statistic([r[generator.integers(0, len(r), len(r))] for r in groups]) for _ in range(RESAMPLES)]
    finite = [v for v in drawn if np.isfinite(v)]
    low, high = np.quantile(finite, [0.025, 0.975]) if finite else (None, None)
    n = sum(map(len, groups))
    return MetricValue(
        value=statistic(groups),
        low=None if low is None else float(low),
        high=None if high is None else float(high),
        n=n,
    )
