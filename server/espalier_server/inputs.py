"""The tensors of a request to rows for the graph: numbers as they are, names as their codes.

Models without columns of names have one tensor, `input`. Where the manifest lists categories, their values come as text in a second
tensor `categories`, BYTES [rows, columns], in the manifest's order; a model without any number has that one alone.
"""

from __future__ import annotations

import reprlib
from typing import TYPE_CHECKING, Any

import numpy as np

from espalier_api.artifact import CATEGORIES, ONNX_INPUT
from espalier_server import tensors
from espalier_server.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from espalier_api.artifact import ManifestTask

UNKNOWN = -1.0
"""Code of a value outside of the vocabulary."""


class InputReader:
    """Reads the inputs of one model. Made once; thread-safe, since nothing changes afterwards."""

    def __init__(self, task: ManifestTask) -> None:
        self._nullable = task.nullable
        self._columns = task.categories
        self._tokens = task.tokens
        self._numbers = len(task.features) - len(task.categories)
        self._codes = [_codes(column.values, nullable=task.nullable) for column in task.categories]
        self._names = [ONNX_INPUT] * bool(self._numbers) + [CATEGORIES] * bool(task.categories)

    def read(self, inputs: Any, max_rows: int) -> NDArray[np.float32]:  # noqa: ANN401 - whatever JSON held
        """float32 [rows, features], contiguous; null is NaN. Raises InvalidRequestError that names the field."""
        if not self._columns:
            rows = tensors.decode(inputs, self._numbers, max_rows, nullable=self._nullable)
            return rows if self._tokens is None else _ids(rows, self._tokens.vocabulary)
        found = self._found(inputs)
        parts = []
        if self._numbers:
            where, tensor = found[ONNX_INPUT]
            parts.append(tensors.numbers(tensor, where, self._numbers, max_rows, nullable=self._nullable))
        where, tensor = found[CATEGORIES]
        parts.append(self._named(tensor, where, max_rows))
        if len(parts[0]) != len(parts[-1]):
            raise InvalidRequestError(
                f"{where}.shape",
                f"has {len(parts[-1])} rows, {ONNX_INPUT} has {len(parts[0])}; both hold the same rows",
            )
        return np.concatenate(parts, axis=1)

    def _found(self, inputs: Any) -> dict[str, tuple[str, Mapping[str, Any]]]:  # noqa: ANN401 - whatever JSON held
        """(field, tensor) by name: each name exactly once, in any order."""
        wanted = " and ".join(map(repr, self._names))
        if not isinstance(inputs, list) or len(inputs) != len(self._names):
            raise InvalidRequestError("inputs", f"must be a list with one tensor each named {wanted}")
        found: dict[str, tuple[str, Mapping[str, Any]]] = {}
        for index, tensor in enumerate(inputs):
            name = tensor.get("name") if isinstance(tensor, dict) else None
            if name not in self._names or name in found:
                raise InvalidRequestError(
                    f"inputs[{index}].name", f"must be one of {wanted}, each once, is {reprlib.repr(name)}"
                )
            found[name] = (f"inputs[{index}]", tensor)
        return found

    def _named(self, tensor: Mapping[str, Any], where: str, max_rows: int) -> NDArray[np.float32]:
        """Text to codes."""
        if tensor.get("datatype") != "BYTES":
            raise InvalidRequestError(
                f"{where}.datatype", f"must be BYTES, is {reprlib.repr(tensor.get('datatype'))}; names are sent as text"
            )
        count = len(self._columns)
        rows = tensors.rows_of(tensor.get("shape"), count, max_rows, where)
        flat = tensors.flatten(tensor.get("data"), rows, count, where)
        codes = np.empty(len(flat), dtype=np.float32)
        for place, value in enumerate(flat):
            known = self._codes[place % count]
            code = known.get(value) if value is None or isinstance(value, str) else None
            codes[place] = self._refuse(value, place, where) if code is None else code
        return codes.reshape(rows, count)

    def _refuse(self, value: Any, place: int, where: str) -> float:  # noqa: ANN401 - whatever JSON held
        """The code of text that is no known value, unless the column refuses such; everything else is refused."""
        column = self._columns[place % len(self._columns)]
        if isinstance(value, str) and column.unknown == "ignore":
            return UNKNOWN
        if isinstance(value, str):
            what = (
                f"{reprlib.repr(value)} is none of the {len(column.values)} values of {column.name} that training had"
            )
        else:
            what = f"must be text (a value of {column.name}), is {reprlib.repr(value)}"
        raise InvalidRequestError(f"{where}.data[{place}]", what)


def _ids(rows: NDArray[np.float32], vocabulary: int) -> NDArray[np.float32]:
    """The rows, once every number is an id of a token."""
    bad = (rows != np.floor(rows)) | (rows < 0) | (rows >= vocabulary)
    if bad.any():
        at = int(np.argmax(bad))
        raise InvalidRequestError(
            f"inputs[0].data[{at}]",
            f"must be a token's id, a whole number from 0 to {vocabulary - 1}, is {rows.flat[at]:g}",
        )
    return rows


def _codes(values: tuple[str, ...], *, nullable: bool) -> dict[str | None, float]:
    """Every value's code; that of null, where it may be missing."""
    codes: dict[str | None, float] = {value: float(code) for code, value in enumerate(values)}
    return codes | {None: float("nan")} if nullable else codes
