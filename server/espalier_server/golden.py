"""Does this machine's runtime answer as training's did? Asked once at start, on inputs that the trainer recorded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from espalier_api.artifact import (
    GOLDEN,
    GOLDEN_TOLERANCE,
    ONNX_INPUT,
    ONNX_LABEL,
    ONNX_PROBABILITIES,
    ONNX_VALUE,
)
from espalier_server.cost import Cost, measure
from espalier_server.errors import ArtifactError, ModelFailedError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from espalier_server.model import Answer, Model

VALUE_TOLERANCE = 1e-5
"""Regression only, of the largest recorded answer: one of a million has a float32 spacing of 0.06, no 1e-4 can hold there."""


@dataclass(frozen=True, slots=True)
class GoldenReport:
    """Rows compared, the largest absolute difference of any output, and what computing them costs here."""

    n: int
    max_abs_diff: float
    cost: Cost


def check(model: Model, path: Path) -> GoldenReport:
    """Run the recorded inputs; raises ArtifactError when any output differs or a label changes."""
    arrays = _read(path)
    rows = arrays.get(ONNX_INPUT, np.empty((0, 0)))
    if rows.ndim != 2 or len(rows) == 0 or rows.shape[1] != len(model.task.features):  # noqa: PLR2004 - rows and features
        raise ArtifactError(f"{GOLDEN}: {ONNX_INPUT} is {rows.shape}, needs [n, {len(model.task.features)}] with n > 0")
    inputs = np.ascontiguousarray(rows, dtype=np.float32)
    try:
        answer = model.run(inputs)
        difference = _compare(arrays, answer, len(rows))
        return GoldenReport(n=len(rows), max_abs_diff=difference, cost=measure(model, inputs))
    except ModelFailedError as error:
        raise ArtifactError(f"{GOLDEN}: {error}") from error


def _compare(arrays: dict[str, NDArray[np.generic]], answer: Answer, n: int) -> float:
    if answer.label is not None and answer.probabilities is not None:
        probabilities = _expected(arrays, ONNX_PROBABILITIES, answer.probabilities.shape)
        difference = _difference(probabilities, answer.probabilities, GOLDEN_TOLERANCE)
        _same_labels(_expected(arrays, ONNX_LABEL, (n,)), answer.label, probabilities)
        return difference
    assert answer.value is not None  # noqa: S101 - an Answer holds one or the other
    values = _expected(arrays, ONNX_VALUE, (n,))
    return _difference(values, answer.value, max(GOLDEN_TOLERANCE, VALUE_TOLERANCE * float(np.abs(values).max())))


def _same_labels(expected: NDArray[np.float64], seen: NDArray[np.int64], probabilities: NDArray[np.float64]) -> None:
    """Every label is the recorded one. Where two classes tie within the tolerance, rounding may decide either way."""
    rows = np.arange(len(seen))
    recorded = np.clip(expected, 0, probabilities.shape[1] - 1).astype(np.int64)
    tied = np.abs(probabilities[rows, recorded] - probabilities[rows, seen]) <= GOLDEN_TOLERANCE
    changed = np.flatnonzero((expected != seen) & ~tied)
    if changed.size:
        raise ArtifactError(f"{GOLDEN}: the label of row {changed[0]} differs ({changed.size} of {len(seen)} rows do)")


def _difference(expected: NDArray[np.float64], seen: NDArray[np.float32], tolerance: float) -> float:
    """The largest absolute difference; raises ArtifactError when one is beyond the tolerance."""
    difference = np.abs(expected - seen)
    beyond = ~(difference <= tolerance)  # negated, so that NaN counts as beyond
    if beyond.any():
        row = int(np.argwhere(beyond)[0][0])
        raise ArtifactError(
            f"{GOLDEN}: row {row} differs by {difference.max():.3g}, at most {tolerance:.3g} is accepted: "
            "this runtime does not compute what training measured"
        )
    return float(difference.max())


def _expected(arrays: dict[str, NDArray[np.generic]], name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    if name not in arrays:
        raise ArtifactError(f"{GOLDEN}: array {name!r} is missing")
    found = arrays[name]
    if found.size != int(np.prod(shape)) or found.dtype.kind not in "fiu":
        raise ArtifactError(f"{GOLDEN}: {name} is {found.dtype} {found.shape}, the model answers {shape}")
    return found.astype(np.float64).reshape(shape)


def _read(path: Path) -> dict[str, NDArray[np.generic]]:
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # zipfile, zlib, struct and numpy each raise their own; all of them mean the same
        raise ArtifactError(f"{GOLDEN}: cannot be read: {type(error).__name__}: {error}") from error
