"""Columns to arrays: features, target, weights, groups, time. Everything a model cannot learn from is refused here, by name."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import numpy as np

from espalier_trainer.data.tables import names_of
from espalier_trainer.errors import DataProblemError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from espalier_trainer.data.tables import Table


@dataclass(frozen=True, slots=True)
class DataSpec:
    """The part of `spec.data` and `spec.task` that says what the columns mean."""

    target: str
    regression: bool = False
    classes: tuple[str, ...] = ()  # empty: inferred, sorted
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    weight: str | None = None  # weighs rows in metrics
    sample_weight: str | None = None  # weighs rows in training
    sample_clip: tuple[float, float] = (0.0, float("inf"))
    groups: tuple[str, ...] = ()
    time: str | None = None
    excluded: tuple[str, ...] = ()  # columns that other blocks own
    nullable: bool = False  # features may lack values
    categories: tuple[str, ...] = ()  # patterns of features whose values are names
    tokens: tuple[int, int] | None = (
        None  # (vocabulary, length): every feature is an id below the former, and there are so many
    )


@dataclass(frozen=True, slots=True)
class Dataset:
    """`x` (n, features) float32 as a graph receives it: numbers, then codes of names, NaN where a value is missing;
    `y` (n,) int64 class index or float64 value.
    """

    features: tuple[str, ...]
    classes: tuple[str, ...]  # empty for regression
    x: npt.NDArray[np.float32]
    y: npt.NDArray[Any]
    weight: npt.NDArray[np.float64] | None = None  # (n,) of each row in metrics
    sample_weight: npt.NDArray[np.float64] | None = None  # (n,) of each row in training
    groups: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)  # column: (n,) text
    time: npt.NDArray[Any] | None = None
    vocabulary: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # column: what its codes 0, 1, … mean
    span: npt.NDArray[np.int64] | None = (
        None  # (n, 2): first and last raw row of each window, in the order of series and time
    )

    @property
    def regression(self) -> bool:
        """True when the target is a number, not a class."""
        return not self.classes

    def take(self, rows: npt.NDArray[np.int64]) -> Dataset:
        """The given rows, in the given order."""
        return replace(
            self,
            x=self.x[rows],
            y=self.y[rows],
            weight=None if self.weight is None else self.weight[rows],
            sample_weight=None if self.sample_weight is None else self.sample_weight[rows],
            groups={name: values[rows] for name, values in self.groups.items()},
            time=None if self.time is None else self.time[rows],
            span=None if self.span is None else self.span[rows],
        )

    def coded(self, vocabulary: Mapping[str, tuple[str, ...]]) -> Dataset:
        """The same values as codes of another vocabulary of the same columns; a value that it does not have is -1."""
        x = self.x.copy()
        for column, values in vocabulary.items():
            place = self.features.index(column)
            x[:, place] = translate(x[:, place], self.vocabulary[column], values)
        return replace(self, x=x, vocabulary=dict(vocabulary))

    def as_seen_by(
        self, features: Sequence[str], vocabulary: Mapping[str, tuple[str, ...]], *, nullable: bool
    ) -> npt.NDArray[np.float32] | None:
        """Rows (n, features) for another model's graph, in its codes; None when it has other columns or may not miss what is missing."""
        own = {name: name in self.vocabulary for name in self.features}
        if any(own.get(name) is not (name in vocabulary) for name in features):
            return None
        columns = [self.features.index(name) for name in features]
        x = self.coded({**self.vocabulary, **{name: vocabulary[name] for name in features if own[name]}}).x[:, columns]
        return None if not nullable and np.isnan(x).any() else np.ascontiguousarray(x)

    def __len__(self) -> int:
        return len(self.y)


def translate(codes: npt.NDArray[np.float32], old: Sequence[str], new: Sequence[str]) -> npt.NDArray[np.float32]:
    """Codes (rows,) of `old` as codes of `new`: -1 stays and stands for what `new` does not have, NaN stays."""
    index = {value: code for code, value in enumerate(new)}
    table = np.asarray([*(index.get(value, -1) for value in old), -1], dtype=np.float32)
    known = np.where(np.isnan(codes), -1, codes).astype(np.int64)
    return np.where(np.isnan(codes), codes, table[known])


def build(table: Table, spec: DataSpec) -> Dataset:
    """Check and convert; DataProblemError names file, column and row of the first bad value and how many there are."""
    if table.rows == 0:
        raise DataProblemError(f"data.snapshot: {', '.join(table.files)} hold no rows")
    for role, column in _named_columns(spec):
        if column not in table.columns:
            raise DataProblemError(
                f"data.{role}: no column {column!r} in {table.files[0]}; it has {names_of(sorted(table.columns))}"
            )
    chosen = _features(table, spec)
    if spec.tokens is not None:
        _check_tokens(table, chosen, *spec.tokens)
    names = _named(chosen, spec)
    features = (*(name for name in chosen if name not in names), *names)
    vocabulary: dict[str, tuple[str, ...]] = {}
    columns = [_feature(table, name, nullable=spec.nullable) for name in features[: len(features) - len(names)]]
    for name in names:
        codes, vocabulary[name] = _codes(table, name, nullable=spec.nullable)
        columns.append(codes)
    x = np.stack(columns, axis=1)
    target = table.columns[spec.target]
    classes: tuple[str, ...] = ()
    y: npt.NDArray[Any]
    if spec.regression:
        y = _numbers(table, spec.target, "target")
    else:
        y, classes = _labels(table, spec.target, target, spec.classes)
    weight = None if spec.weight is None else _weights(table, spec.weight)
    sample = None if spec.sample_weight is None else _weights(table, spec.sample_weight).clip(*spec.sample_clip)
    groups = {name: _group(table, name) for name in spec.groups}
    return Dataset(features, classes, x, y, weight, sample, groups, _time(table, spec), vocabulary)


def _named_columns(spec: DataSpec) -> list[tuple[str, str]]:
    named = [("target", spec.target), *(("groupColumns", g) for g in spec.groups)]
    named += [("weightColumn", spec.weight)] if spec.weight else []
    named += [("sampleWeighting.column", spec.sample_weight)] if spec.sample_weight else []
    return named + ([("timeColumn", spec.time)] if spec.time else [])


def _features(table: Table, spec: DataSpec) -> tuple[str, ...]:
    """Included and not excluded; target, weight, group and time columns never are features."""
    roles = {spec.target, spec.weight, spec.sample_weight, spec.time, *spec.groups, *spec.excluded}
    chosen = tuple(
        name
        for name in table.columns
        if name not in roles
        and any(fnmatchcase(name, glob) for glob in spec.include)
        and not any(fnmatchcase(name, glob) for glob in spec.exclude)
    )
    if not chosen:
        raise DataProblemError(
            f"data.features: include {list(spec.include)} and exclude {list(spec.exclude)} leave no feature of "
            f"{names_of(sorted(table.columns))}"
        )
    return chosen


def _check_tokens(table: Table, chosen: tuple[str, ...], vocabulary: int, length: int) -> None:
    """Ids are whole numbers of the vocabulary, in as many columns as a text has tokens."""
    if len(chosen) != length:
        raise DataProblemError(
            f"data.preprocessing.tokens.length: {length} tokens, and data.features leaves {len(chosen)} columns ({names_of(chosen)})"
        )
    for column in chosen:
        ids = _numbers(table, column, "token id")
        bad = (ids != np.floor(ids)) | (ids < 0) | (ids >= vocabulary)
        if bad.any():
            worst = ids[int(np.argmax(bad))]
            what = f"token id {table.shown(float(worst))} is no whole number from 0 to {vocabulary - 1}"
            raise _first(table, column, bad, what)


def _named(chosen: tuple[str, ...], spec: DataSpec) -> tuple[str, ...]:
    """Features whose values are names. A pattern that selects none is a mistake: its column would be taken for a number."""
    for glob in spec.categories:
        if not any(fnmatchcase(name, glob) for name in chosen):
            raise DataProblemError(
                f"data.preprocessing.categories.columns: {glob!r} selects none of the features {names_of(sorted(chosen))}"
            )
    return tuple(name for name in chosen if any(fnmatchcase(name, glob) for glob in spec.categories))


def _codes(table: Table, column: str, *, nullable: bool) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
    """(codes (rows,), NaN for missing; the values that they stand for) of all rows: provisional, until training rows are known."""
    told = _text(table.columns[column])
    missing = np.asarray([value is None for value in told], dtype=np.bool_)
    if missing.any() and not nullable:
        raise _first(
            table, column, missing, "feature is missing; declare data.preprocessing.imputation to allow missing values"
        )
    values = tuple(sorted(set(told[~missing]), key=_natural))
    index = {value: float(code) for code, value in enumerate(values)}
    return np.asarray([index.get(value, np.nan) for value in told], dtype=np.float32), values


def _first(table: Table, column: str, bad: npt.NDArray[np.bool_], what: str) -> DataProblemError:
    row = int(np.argmax(bad))
    return DataProblemError(f"{table.where(row)}, column {column!r}: {what} ({int(bad.sum())} of {table.rows} rows)")


def _numbers(table: Table, column: str, role: str, *, nullable: bool = False) -> npt.NDArray[np.float64]:
    values = table.columns[column]
    if nullable and values.dtype == object and all(value is None for value in values):
        return np.full(len(values), np.nan)  # a column without any value has no type
    if not (np.issubdtype(values.dtype, np.number) or values.dtype == np.bool_):
        sample = next((table.shown(v) for v in values if v is not None), "nothing")
        raise DataProblemError(
            f"{table.files[0]}, column {column!r}: a {role} must be numeric, found {sample}; "
            + (
                "name it in data.preprocessing.categories.columns or data.features.exclude"
                if role == "feature"
                else "fix the snapshot"
            )
        )
    numbers = values.astype(np.float64)
    if (bad := np.isinf(numbers) if nullable else ~np.isfinite(numbers)).any():
        what = "infinite" if nullable else "missing, NaN or infinite"
        remedy = "; declare data.preprocessing.imputation to allow missing values" if role == "feature" else ""
        raise _first(table, column, bad, f"{role} is {what}{'' if nullable else remedy}")
    return numbers


def _feature(table: Table, column: str, *, nullable: bool) -> npt.NDArray[np.float32]:
    numbers = _numbers(table, column, "feature", nullable=nullable)
    too_big = np.abs(numbers) > np.finfo(np.float32).max
    if too_big.any():
        raise _first(table, column, too_big, "feature does not fit 32-bit floats, which is what is served")
    return numbers.astype(np.float32)


def _text(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Class names as text: 1 and 1.0 are "1", True is "true", missing is None."""
    if np.issubdtype(values.dtype, np.integer):
        unique, inverse = np.unique(values, return_inverse=True)
        return np.asarray([str(v) for v in unique], dtype=object)[inverse]
    if values.dtype == np.bool_:
        return np.where(values, "true", "false").astype(object)
    if np.issubdtype(values.dtype, np.floating):
        unique, inverse = np.unique(values, return_inverse=True)
        told = [None if not np.isfinite(v) else str(int(v)) if v == int(v) else repr(float(v)) for v in unique]
        return np.asarray(told, dtype=object)[inverse]
    return np.asarray([None if v is None or v == "" else str(v) for v in values], dtype=object)


def _labels(
    table: Table, column: str, values: npt.NDArray[Any], declared: Sequence[str]
) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    told = _text(values)
    missing = np.asarray([v is None for v in told], dtype=np.bool_)
    if missing.any():
        raise _first(table, column, missing, "target is missing, NaN or infinite")
    found = sorted(set(told), key=_natural)
    classes = tuple(declared) or tuple(found)
    unknown = [name for name in found if name not in set(classes)]
    if unknown:
        bad = np.isin(told.astype(str), unknown)
        raise _first(
            table,
            column,
            bad,
            f"label {table.shown(str(told[int(np.argmax(bad))]))} is not in task.classes [{names_of(classes)}]",
        )
    if len(classes) < 2:  # noqa: PLR2004 - a classifier tells at least two things apart
        raise DataProblemError(f"column {column!r}: only one class ({found[0]!r}); nothing to classify")
    index = {name: i for i, name in enumerate(classes)}
    return np.asarray([index[v] for v in told], dtype=np.int64), classes


def _natural(name: str) -> tuple[int, float, str]:
    """Numbers by value, then text."""
    try:
        return (0, float(name), name)
    except ValueError:
        return (1, 0.0, name)


def _weights(table: Table, column: str) -> npt.NDArray[np.float64]:
    weights = _numbers(table, column, "weight")
    if (weights < 0).any():
        raise _first(table, column, weights < 0, "weight is negative")
    if weights.sum() == 0:
        raise DataProblemError(f"column {column!r}: all weights are 0")
    return weights


def _group(table: Table, column: str) -> npt.NDArray[Any]:
    return np.asarray(["missing" if v is None else v for v in _text(table.columns[column])], dtype=object)


def _time(table: Table, spec: DataSpec) -> npt.NDArray[Any] | None:
    if spec.time is None:
        return None
    values = table.columns[spec.time]
    if values.dtype == object:
        bad = np.asarray([v is None for v in values], dtype=np.bool_)
        values = values.astype(str)
    else:
        bad = (
            np.isnat(values) if np.issubdtype(values.dtype, np.datetime64) else ~np.isfinite(values.astype(np.float64))
        )
    if bad.any():
        raise _first(table, spec.time, bad, "time is missing")
    return values
