"""What rounding cost and what it bought: the served graph in integers beside its twin in floats, on the whole test split."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from espalier_api.artifact import GOLDEN_TOLERANCE, MODEL_INT8, MODEL_ONNX, ONNX_LABEL, ONNX_PROBABILITIES, ONNX_VALUE

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from espalier_api.artifact import MetricValue

    Answers = Mapping[str, npt.NDArray[Any]]

MOST_MOVED: Final = 0.01
"""Share of rows that two correct runtimes may answer differently: one that sums floats in another order puts a value that
lies between two steps on the other one now and then. A wrong graph moves most rows.
"""


def steady(expected: Answers, found: Answers, spread: float) -> npt.NDArray[np.bool_]:
    """(rows,): both answer the same within the golden tolerance, values in units of `spread`. Labels follow probabilities."""
    same = np.ones(len(next(iter(expected.values()))), dtype=np.bool_)
    for name in set(expected) - {ONNX_LABEL}:
        apart = np.abs(np.asarray(found[name]) - expected[name]).reshape(len(same), -1).max(axis=1)
        same &= apart <= GOLDEN_TOLERANCE * spread
    return same


def compare(floats: Answers, integers: Answers, y: npt.NDArray[Any]) -> dict[str, float]:
    """Of test rows with targets `y` (rows,), class indices or raw values: how often or how far the two disagree, and what it costs.

    disagreement: share of rows with another label, or root mean square difference in standard deviations of the target;
    accuracyDrop: of the float twin's accuracy; rmseRise: in the target's unit. Both may be negative.
    """
    if ONNX_VALUE in floats:
        one, other = floats[ONNX_VALUE][:, 0].astype(np.float64), integers[ONNX_VALUE][:, 0].astype(np.float64)
        unit = float(y.std()) or 1.0
        rise = np.sqrt(np.mean((other - y) ** 2)) - np.sqrt(np.mean((one - y) ** 2))
        return {
            "disagreement": float(np.sqrt(np.mean((other - one) ** 2))) / unit,
            "largestDifference": float(np.abs(other - one).max()),
            "rmseRise": float(rise),
        }
    one, other = floats[ONNX_LABEL], integers[ONNX_LABEL]
    return {
        "disagreement": float((one != other).mean()),
        "largestDifference": float(np.abs(floats[ONNX_PROBABILITIES] - integers[ONNX_PROBABILITIES]).max()),
        "accuracyDrop": float((one == y).mean() - (other == y).mean()),
    }


def summary(
    sizes: Mapping[str, int],
    latency: Mapping[str, Mapping[str, MetricValue]],
    compared: Mapping[str, float],
    moved: float,
) -> dict[str, Any]:
    """The note in metrics.json; `sizes` and `latency` by file name, `moved` the share of rows that runtimes may differ on."""
    return {
        "served": MODEL_INT8,
        "sizeRatio": sizes[MODEL_INT8] / sizes[MODEL_ONNX],
        **compared,
        "rowsBetweenSteps": moved,
        "latencySeconds": {
            name: {key: value.value for key, value in each.items()} for name, each in sorted(latency.items())
        },
    }
