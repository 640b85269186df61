"""JSON tensors of the Open Inference Protocol to rows for the model. Every refusal names the field; nothing here can
raise anything else.

The protocol allows `data` nested or flattened in row-major order; both are accepted, and only finite numbers that fit
float32 pass. Models whose manifest says `nullable` also take null, which is a missing value: NaN in the graph.
"""

from __future__ import annotations

import reprlib
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from espalier_api.artifact import ONNX_INPUT
from espalier_server.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

_INTEGERS: Final = ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")
_FLOATS: Final = ("FP32", "FP64", "FP16")
ACCEPTED: Final = (*_FLOATS, *_INTEGERS, "BOOL")
_RANGES: Final = {name: np.iinfo(name.lower()) for name in _INTEGERS}
_RANK: Final = 2


def decode(inputs: Any, features: int, max_rows: int, *, nullable: bool = False) -> NDArray[np.float32]:  # noqa: ANN401 - whatever JSON held
    """The one input tensor as float32 [rows, features], contiguous; null is NaN. Raises InvalidRequestError."""
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise InvalidRequestError("inputs", f"must be a list with one tensor named {ONNX_INPUT!r}")
    tensor: Mapping[str, Any] = inputs[0]
    if tensor.get("name") != ONNX_INPUT:
        raise InvalidRequestError("inputs[0].name", f"must be {ONNX_INPUT!r}, is {_short(tensor.get('name'))}")
    return numbers(tensor, "inputs[0]", features, max_rows, nullable=nullable)


def numbers(
    tensor: Mapping[str, Any], where: str, columns: int, max_rows: int, *, nullable: bool = False
) -> NDArray[np.float32]:
    """A tensor of numbers as float32 [rows, columns], contiguous; `where` names it in refusals."""
    datatype = tensor.get("datatype")
    if datatype not in ACCEPTED:
        raise InvalidRequestError(f"{where}.datatype", f"must be one of {', '.join(ACCEPTED)}, is {_short(datatype)}")
    rows = rows_of(tensor.get("shape"), columns, max_rows, where)
    flat = flatten(tensor.get("data"), rows, columns, where)
    _check_kinds(flat, datatype, where, nullable=nullable)
    with np.errstate(over="ignore"):
        found = np.array(flat, dtype=np.float64).astype(np.float32)  # no integer of JSON text is beyond a double
    finite = np.isfinite(found) | (np.isnan(found) if nullable else False)  # JSON has no NaN: it was null
    if not finite.all():
        at = int(np.flatnonzero(~finite)[0])
        raise InvalidRequestError(f"{where}.data[{at}]", f"must be finite and within FP32, is {_short(flat[at])}")
    return found.reshape(rows, columns)


def rows_of(shape: Any, columns: int, max_rows: int, where: str) -> int:  # noqa: ANN401 - whatever JSON held
    """How many rows a shape [rows, columns] tells."""
    well_formed = isinstance(shape, list) and len(shape) == _RANK and all(type(side) is int for side in shape)
    if not well_formed or shape[1] != columns:
        raise InvalidRequestError(f"{where}.shape", f"must be [rows, {columns}], is {_short(shape)}")
    rows: int = shape[0]
    if not 1 <= rows <= max_rows:
        raise InvalidRequestError(f"{where}.shape", f"{rows} rows; from 1 to {max_rows} (limits.maxBatch) are accepted")
    return rows


def flatten(data: Any, rows: int, columns: int, where: str) -> list[Any]:  # noqa: ANN401 - whatever JSON held
    """`data` as one list of rows * columns items. Python lists, not numpy, decide: numpy would guess types and
    allocate for text.
    """
    if not isinstance(data, list):
        raise InvalidRequestError(f"{where}.data", f"must be a list of {rows * columns} items, is {_short(data)}")
    if data and isinstance(data[0], list):
        for index, row in enumerate(data):
            if not isinstance(row, list) or len(row) != columns:
                raise InvalidRequestError(
                    f"{where}.data[{index}]", f"must be a list of {columns} items, is {_short(row)}"
                )
        wanted, found, flat = rows, len(data), list(chain.from_iterable(data))
    else:
        wanted, found, flat = rows * columns, len(data), data
    if found != wanted:
        raise InvalidRequestError(f"{where}.data", f"has {found} items, the shape [{rows}, {columns}] needs {wanted}")
    return flat


def _check_kinds(flat: list[Any], datatype: str, where: str, *, nullable: bool) -> None:
    """The items are of the kind that `datatype` promises: no text, no null unless `nullable`, no list, no fraction in an integer
    tensor.
    """
    there = [value for value in flat if value is not None] if nullable else flat
    if not there:
        return
    kinds = set(map(type, there))
    if datatype in _FLOATS:
        fits = kinds <= {int, float}
    elif datatype == "BOOL":
        fits = kinds <= {bool, int} and min(there) >= 0 and max(there) <= 1
    else:
        limits = _RANGES[datatype]
        fits = kinds == {int} and min(there) >= limits.min and max(there) <= limits.max
    if not fits:
        wrong = ((i, v) for i, v in enumerate(flat) if not _is_of(v, datatype) and not (nullable and v is None))
        at, value = next(wrong)
        raise InvalidRequestError(f"{where}.data[{at}]", f"must be a number of {datatype}, is {_short(value)}")


def _is_of(value: Any, datatype: str) -> bool:  # noqa: ANN401 - whatever JSON held
    if datatype in _FLOATS:
        return type(value) in {int, float}
    if datatype == "BOOL":
        return type(value) in {bool, int} and 0 <= value <= 1
    return type(value) is int and bool(_RANGES[datatype].min <= value <= _RANGES[datatype].max)


def _short(value: Any) -> str:  # noqa: ANN401 - whatever JSON held
    """A value as it may stand in a message: bounded, however large the value is."""
    return reprlib.repr(value)
