"""Rows in the order of time become windows: one example of the last rows of a series, with the target some rows ahead.

Windows overlap, so two of them may hold the same raw row. What is judged must share none with what was fitted: after a split,
`purge` takes windows out of the earlier part wherever they reach into a later one (Lopez de Prado 2018, ch. 7).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from espalier_trainer.errors import DataProblemError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from espalier_api.preprocessing import Windows
    from espalier_trainer.data.dataset import Dataset

    Rows = npt.NDArray[np.int64]


def names(columns: tuple[str, ...], length: int) -> tuple[str, ...]:
    """`a@t-2`, `a@t-1`, `a@t`, then those of the next column: as pixels of an image [columns, 1, length]."""
    return tuple(f"{name}@t-{back}" if back else f"{name}@t" for name in columns for back in range(length - 1, -1, -1))


def build(rows: Dataset, declared: Windows) -> Dataset:
    """One example per window; target, weight, groups and time are those of the row `horizon` steps after its last one.

    Series are the groups of the first group column (one series without any). DataProblemError when two rows of a series have one
    time, for then no order is theirs, and when every series is too short.
    """
    order, ends = _order(rows)
    reach = declared.length + declared.horizon
    starts = np.concatenate(
        [
            np.arange(first, last - reach + 1, declared.stride, dtype=np.int64)
            for first, last in zip([0, *ends[:-1]], ends, strict=True)
        ]
    )
    if not len(starts):
        raise DataProblemError(
            f"data.preprocessing.windows: the longest of {len(ends)} series has {int(np.diff([0, *ends]).max())} rows, and a window takes "
            f"length + horizon = {reach}; shorten it or add rows"
        )
    targets = starts + reach - 1
    sorted_x = rows.x[order]
    views = sliding_window_view(sorted_x, declared.length, axis=0)[starts]  # (windows, columns, length)
    return replace(
        rows.take(order[targets]),
        features=names(rows.features, declared.length),
        x=np.ascontiguousarray(views.reshape(len(starts), -1)),
        span=np.stack([starts, targets], axis=1),
    )


def _order(rows: Dataset) -> tuple[Rows, list[int]]:
    """(rows by series and time, the end of each series in that order)."""
    assert rows.time is not None  # noqa: S101 - the API asks for timeColumn
    group = next(iter(rows.groups.values())).astype(str) if rows.groups else np.zeros(len(rows), dtype=np.int64)
    known, series = np.unique(group, return_inverse=True)
    _, instant = np.unique(rows.time, return_inverse=True)
    order = np.lexsort((instant, series))
    same = (np.diff(series[order]) == 0) & (np.diff(instant[order]) == 0)
    if same.any():
        at = order[int(np.argmax(same))]
        whose = f"series {known[series[at]]!s}" if rows.groups else "the series"
        raise DataProblemError(
            f"data.preprocessing.windows: two rows of {whose} have the time {rows.time[at]!s} ({int(same.sum())} such pairs), so their "
            "order is unknown; name the column that tells series apart first in data.groupColumns, or fix data.timeColumn"
        )
    return order, [*(np.flatnonzero(np.diff(series[order])) + 1).tolist(), len(rows)]


def disjoint(span: npt.NDArray[np.int64], rows: Rows, others: Rows) -> Rows:
    """Those of the windows `rows` that share no raw row with any of the windows `others`."""
    edges = np.zeros(int(span.max()) + 2, dtype=np.int64)
    np.add.at(edges, span[others, 0], 1)
    np.add.at(edges, span[others, 1] + 1, -1)
    covered = np.concatenate([[0], np.cumsum(np.cumsum(edges)[:-1] > 0)])  # how many rows before each are in others
    free: Rows = rows[covered[span[rows, 1] + 1] == covered[span[rows, 0]]]
    return free


def purge(data: Dataset, parts: Mapping[str, Rows]) -> dict[str, Rows]:
    """The parts without the windows that share a raw row with a later part; the last part stays whole.

    DataProblemError when a part that had windows has none left.
    """
    if data.span is None:
        return dict(parts)
    kept: dict[str, Rows] = {}
    order = list(parts)
    for place, name in enumerate(order):
        later = np.concatenate([parts[each] for each in order[place + 1 :]] or [np.empty(0, dtype=np.int64)])
        kept[name] = disjoint(data.span, parts[name], later)
        if len(parts[name]) and not len(kept[name]):
            raise DataProblemError(
                f"data.preprocessing.windows: every window of the {name} part shares rows with another part; use split.strategy time or "
                "group, or a stride of at least length + horizon"
            )
    return kept
