"""Reads parquet, csv and npz files into columns, and remembers which file and row every value came from."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as papq

from espalier_trainer.errors import DataProblemError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

Columns = dict[str, "npt.NDArray[Any]"]


@dataclass(frozen=True, slots=True)
class Table:
    """Equal columns of all files, concatenated in the order of the files' keys."""

    columns: Mapping[str, npt.NDArray[Any]]
    files: tuple[str, ...]
    starts: npt.NDArray[np.int64]  # the first row of each file, shape (files,)
    private: bool = False  # no value may be told (R37)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(next(iter(self.columns.values()))) if self.columns else 0

    def shown(self, value: object) -> str:
        """A value as messages may tell it."""
        return "a value that privacy hides" if self.private else repr(value)

    def where(self, row: int) -> str:
        """`file, row` of a global row index, counted from 0 within its file, for messages."""
        file = int(np.searchsorted(self.starts, row, side="right")) - 1
        return f"{self.files[file]}, row {row - int(self.starts[file])}"


def read(paths: Mapping[str, Path]) -> Table:
    """All data files of a snapshot, keyed by their name in it. They must be of one format and have the same columns."""
    data = {name: path for name, path in sorted(paths.items()) if _suffix(name) in READERS}
    if not data:
        raise DataProblemError(
            f"data.snapshot: no data files among {', '.join(sorted(paths)) or 'nothing'}; "
            f"expected files ending in {', '.join(READERS)}"
        )
    formats = {_suffix(name) for name in data}
    if len(formats) > 1:
        raise DataProblemError(
            f"data.snapshot: files of several formats ({', '.join(sorted(formats))}); keep one format below the prefix"
        )
    parts = {name: READERS[_suffix(name)](name, path) for name, path in data.items()}
    return _concatenate(parts)


def _suffix(name: str) -> str:
    """The reader's suffix; files whose name starts with `.` or `_` are other tools' markers, not data."""
    base = name.rsplit("/", 1)[-1]
    return "" if base.startswith((".", "_")) else "." + base.rsplit(".", 1)[-1].lower()


def _concatenate(parts: Mapping[str, Columns]) -> Table:
    names = list(parts)
    first = parts[names[0]]
    for name in names[1:]:
        missing, extra = set(first) - set(parts[name]), set(parts[name]) - set(first)
        if missing or extra:
            raise DataProblemError(
                f"{name}: columns differ from {names[0]}: missing {sorted(missing) or 'none'}, unexpected {sorted(extra) or 'none'}"
            )
        for column in first:
            kinds = _kind(first[column]), _kind(parts[name][column])
            if kinds[0] != kinds[1]:
                raise DataProblemError(f"{name}: column {column!r} is {kinds[1]}, but it is {kinds[0]} in {names[0]}")
    lengths = [len(next(iter(part.values()), ())) for part in parts.values()]
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
    columns = {column: np.concatenate([part[column] for part in parts.values()]) for column in first}
    return Table(columns, tuple(names), starts)


def _kind(column: npt.NDArray[Any]) -> str:
    if np.issubdtype(column.dtype, np.number) or column.dtype == np.bool_:
        return "numeric"
    return "a time" if np.issubdtype(column.dtype, np.datetime64) else "text"


def _from_arrow(name: str, table: pa.Table) -> Columns:
    if len(set(table.column_names)) != len(table.column_names):
        twice = sorted({c for c in table.column_names if table.column_names.count(c) > 1})
        raise DataProblemError(f"{name}: column {twice[0]!r} appears more than once")
    return {column: _from_chunked(name, column, table.column(column)) for column in table.column_names}


def _from_chunked(name: str, column: str, values: pa.ChunkedArray) -> npt.NDArray[Any]:
    """Numbers as float64 (nulls become NaN) or int64, times as datetime64[ns], everything else as text (nulls become None)."""
    kind = values.type
    if pa.types.is_dictionary(kind):
        values, kind = values.cast(kind.value_type), kind.value_type
    if pa.types.is_decimal(kind):
        values = values.cast(pa.float64())
        kind = values.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return np.asarray(values.cast(pa.timestamp("ns")).to_numpy())
    if pa.types.is_integer(kind) and values.null_count == 0:
        return np.asarray(values.to_numpy()).astype(np.int64)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or (pa.types.is_boolean(kind) and values.null_count):
        return np.asarray(values.cast(pa.float64()).to_numpy())
    if pa.types.is_boolean(kind):
        return np.asarray(values.to_numpy()).astype(np.bool_)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind):
        return np.asarray(values.to_pylist(), dtype=object)
    raise DataProblemError(f"{name}: column {column!r} has type {kind}; use numbers, booleans, text or times")


def _parquet(name: str, path: Path) -> Columns:
    try:
        return _from_arrow(name, papq.ParquetFile(path).read())
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(name, "parquet", error) from error


def _csv(name: str, path: Path) -> Columns:
    try:
        return _from_arrow(name, pacsv.read_csv(path, convert_options=pacsv.ConvertOptions(strings_can_be_null=True)))
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(name, "csv", error) from error


def _npz(name: str, path: Path) -> Columns:
    """1-D arrays are columns; a 2-D array `a` of width k is the columns a_0 … a_{k-1}. Object arrays are refused: they are pickles."""
    columns: Columns = {}
    try:
        with path.open("rb") as source, np.load(source, allow_pickle=False) as archive:
            for key in archive.files:
                columns |= _npz_columns(name, key, archive[key])
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise _unreadable(name, "npz", error) from error
    lengths = {column: len(values) for column, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise DataProblemError(f"{name}: arrays differ in length: {lengths}")
    return columns


def _npz_columns(name: str, key: str, array: npt.NDArray[Any]) -> Columns:
    if array.dtype.kind in "US":
        array = array.astype(str).astype(object)
    if array.dtype.kind == "f":
        array = array.astype(np.float64)
    if array.dtype.kind in "iu":
        array = array.astype(np.int64)
    if array.ndim == 1:
        return {key: array}
    if array.ndim == _MATRIX:
        return {f"{key}_{i}": array[:, i] for i in range(array.shape[1])}
    raise DataProblemError(f"{name}: array {key!r} has {array.ndim} dimensions; use 1 (a column) or 2 (rows x columns)")


def _unreadable(name: str, kind: str, error: Exception) -> DataProblemError:
    detail = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    return DataProblemError(f"{name}: not a readable {kind} file (truncated or corrupt?): {detail}")


_MATRIX: Final = 2
READERS: Final[Mapping[str, Callable[[str, Path], Columns]]] = {".parquet": _parquet, ".csv": _csv, ".npz": _npz}


def names_of(columns: Sequence[str], limit: int = 12) -> str:
    """A bounded list of column names for a message."""
    return ", ".join(columns[:limit]) + (f" and {len(columns) - limit} more" if len(columns) > limit else "")
