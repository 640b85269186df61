"""Missing numbers become one number per feature, and perhaps a feature that says so; the same in numpy and in the graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from espalier_trainer.errors import DataProblemError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from espalier_api.preprocessing import Imputation as Declared
    from espalier_trainer.export.graph import Graph

    Numbers = npt.NDArray[np.float32]

SUFFIX = ":missing"
"""Of the name of a feature that is 1 where another one is missing."""


@dataclass(frozen=True, slots=True)
class Imputation:
    """`fill` (numbers,) stands in for NaN; `flagged` are the raw columns, by position, that have an indicator."""

    fill: Numbers
    flagged: tuple[int, ...]

    @classmethod
    def fit(cls, declared: Declared, names: tuple[str, ...], x: npt.NDArray[np.float64], numbers: int) -> Imputation:
        """From training rows (rows, raw columns), of which the first `numbers` are numbers.

        DataProblemError for a column without any value: nothing can be learned about it, and nothing could stand in.
        """
        missing = np.isnan(x)
        if (gone := np.flatnonzero(missing.all(axis=0))).size:
            raise DataProblemError(
                f"data.preprocessing.imputation: column {names[int(gone[0])]!r} has no value in any of {len(x)} training rows "
                f"({gone.size} such columns); add it to data.features.exclude or fix the snapshot"
            )
        flagged = np.flatnonzero(missing.any(axis=0)).tolist() if declared.indicators else []
        fill = [_fill(declared, x[~missing[:, i], i]) for i in range(numbers)]
        return cls(np.asarray(fill, dtype=np.float32), tuple(flagged))

    def again(self, declared: Declared, names: tuple[str, ...], x: npt.NDArray[np.float64]) -> Imputation:
        """Fitted to other rows, with the same indicators."""
        return Imputation(Imputation.fit(declared, names, x, len(self.fill)).fill, self.flagged)

    def apply(self, x: Numbers) -> Numbers:
        """Numbers (rows, numbers) without NaN."""
        return np.where(np.isnan(x), self.fill, x)

    def flags(self, x: Numbers) -> Numbers:
        """(rows, flagged): 1 where the raw column is missing."""
        return np.isnan(x[:, list(self.flagged)]).astype(np.float32)

    def append(self, graph: Graph, numbers: str) -> str:
        """`apply` as nodes."""
        return graph.add("Where", graph.add("IsNaN", numbers), graph.constant("fill", self.fill[None]), numbers)

    def append_flags(self, graph: Graph, raw: str) -> str:
        """`flags` as nodes."""
        columns = graph.constant("flagged", np.asarray(self.flagged, dtype=np.int64))
        missing = graph.add("IsNaN", graph.add("Gather", raw, columns, axis=1))
        return graph.add("Cast", missing, to=graph.FLOAT)

    def to_json(self, names: tuple[str, ...]) -> dict[str, Any]:
        """What was fitted."""
        return {"fill": self.fill.tolist(), "indicators": [names[i] for i in self.flagged]}

    @classmethod
    def from_json(cls, told: Mapping[str, Any], names: tuple[str, ...]) -> Imputation:
        """The inverse of `to_json`."""
        return cls(np.asarray(told["fill"], dtype=np.float32), tuple(names.index(name) for name in told["indicators"]))


def _fill(declared: Declared, known: npt.NDArray[np.float64]) -> float:
    match declared.strategy:
        case "mean":
            return float(known.mean())
        case "median":
            return float(np.median(known))
        case "mostFrequent":
            values, counts = np.unique(known, return_counts=True)
            return float(values[counts.argmax()])
        case "constant":
            assert declared.value is not None  # noqa: S101 - the API asks for it
            return declared.value
