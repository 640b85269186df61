"""Codes of names become 0/1 features or places in an order, by one table per column: the same in numpy and in the graph.

A table has a row per code, then one for unknown values, then one for missing ones. A vocabulary is that of the training rows; a fold
keeps its job's vocabulary, so that features have the same names, and what its own rows do not know gets the row of unknown values.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from espalier_trainer.errors import DataProblemError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from espalier_api.preprocessing import Categories
    from espalier_trainer.data.dataset import Dataset
    from espalier_trainer.export.graph import Graph

    Numbers = npt.NDArray[np.float32]
    Known = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of names. `known` (values,) are those that the fitted rows have; `usual` is the code that a missing value gets."""

    name: str
    values: tuple[str, ...]
    known: Known
    usual: int | None
    ordinal: bool

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features that it becomes."""
        return (self.name,) if self.ordinal else tuple(f"{self.name}={value}" for value in self.values)

    @property
    def table(self) -> Numbers:
        """(values + 2, features): what each code becomes, then an unknown value, then a missing one."""
        if self.ordinal:
            places = np.where(self.known, np.cumsum(self.known) - 1, -1)
            rows = np.append(places, -1)[:, None].astype(np.float32)
        else:
            rows = np.vstack([np.diag(self.known.astype(np.float32)), np.zeros((1, len(self.values)), np.float32)])
        return np.vstack([rows, rows[-1 if self.usual is None else self.usual][None]])

    def apply(self, codes: Numbers) -> Numbers:
        """(rows,) codes to (rows, features)."""
        count, missing = len(self.values), np.isnan(codes)
        known = (codes >= 0) & (codes < count)
        place = np.where(missing, count + 1, np.where(known, codes, count)).astype(np.int64)
        return self.table[place]

    def append(self, graph: Graph, codes: str) -> str:
        """`apply` as nodes, on codes (rows, 1)."""
        count = len(self.values)
        known = graph.add(
            "And",
            graph.add("GreaterOrEqual", codes, graph.scalar(0)),
            graph.add("Less", codes, graph.scalar(count)),
        )
        place = graph.add("Where", known, codes, graph.scalar(count))
        place = graph.add("Where", graph.add("IsNaN", codes), graph.scalar(count + 1), place)
        rows = graph.add(
            "Gather", graph.constant("table", self.table), graph.add("Cast", place, to=graph.INT64), axis=0
        )
        return graph.add("Flatten", rows, axis=1)


@dataclass(frozen=True, slots=True)
class Encoding:
    """All columns of names, in order: the last of the raw columns."""

    columns: tuple[Column, ...]

    @classmethod
    def fit(cls, declared: Categories, train: Dataset, *, usual: bool) -> Encoding:
        """The vocabulary of training rows. `usual`: missing values are taken as the most frequent one.

        DataProblemError for more values than declared, or none.
        """
        return cls(tuple(_column(declared, train, name, usual=usual) for name in train.vocabulary))

    def again(self, declared: Categories, train: Dataset) -> Encoding:
        """What other training rows, coded by this vocabulary, know of it."""
        columns = [
            replace(column, known=_counts(train, column.name) >= declared.min_count, usual=_usual(train, column.name))
            if column.usual is not None
            else replace(column, known=_counts(train, column.name) >= declared.min_count)
            for column in self.columns
        ]
        return Encoding(tuple(columns))

    @property
    def vocabulary(self) -> dict[str, tuple[str, ...]]:
        """Values by column, in the order of their codes."""
        return {column.name: column.values for column in self.columns}

    def to_json(self) -> dict[str, Any]:
        """What was fitted. Folds are never told, so every value is known."""
        return {
            column.name: {
                "values": list(column.values),
                "usual": None if column.usual is None else column.values[column.usual],
                "ordinal": column.ordinal,
            }
            for column in self.columns
        }

    @classmethod
    def from_json(cls, told: Mapping[str, Any], order: tuple[str, ...]) -> Encoding:
        """The inverse of `to_json`; `order` lists all raw columns."""
        columns = []
        for name in (name for name in order if name in told):
            values, usual = tuple(told[name]["values"]), told[name]["usual"]
            place = None if usual is None else values.index(usual)
            columns.append(Column(name, values, np.ones(len(values), dtype=np.bool_), place, told[name]["ordinal"]))
        return cls(tuple(columns))


def _counts(train: Dataset, column: str) -> npt.NDArray[np.int64]:
    """Training rows of each value of the vocabulary that `train` is coded by."""
    codes = train.x[:, train.features.index(column)]
    return np.bincount(codes[codes >= 0].astype(np.int64), minlength=len(train.vocabulary[column]))


def _usual(train: Dataset, column: str) -> int:
    return int(_counts(train, column).argmax())


def _column(declared: Categories, train: Dataset, name: str, *, usual: bool) -> Column:
    counts = _counts(train, name)
    kept = np.flatnonzero(counts >= declared.min_count)
    if not len(kept):
        raise DataProblemError(
            f"data.preprocessing.categories: column {name!r} has no value in {declared.min_count} of the {len(train)} training rows; "
            "lower minCount or add it to data.features.exclude"
        )
    if len(kept) > declared.max_categories:
        raise DataProblemError(
            f"data.preprocessing.categories: column {name!r} has {len(kept)} values in the training rows, at most "
            f"{declared.max_categories} (maxCategories) are taken; raise it, set minCount, or add the column to data.features.exclude"
        )
    values = tuple(train.vocabulary[name][code] for code in kept)
    place = int(counts[kept].argmax()) if usual else None
    return Column(name, values, np.ones(len(values), dtype=np.bool_), place, declared.encoding == "ordinal")
