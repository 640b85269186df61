"""x -> (x - location) * factor per feature: by moments, range, quartiles, or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from espalier_api.preprocessing import Scaling

    Floats = npt.NDArray[np.float64]

UNITS: Final[dict[Scaling, str]] = {
    "standard": "standard deviations of each feature",
    "minMax": "ranges of each feature",
    "robust": "widths of each feature's middle half",
    "none": "the unit of each feature",
}
"""What 1 means after each scaling."""


def fit(kind: Scaling, x: Floats, untouched: npt.NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """(location, factor), each (features,), of training rows (rows, features); all in double precision. `untouched` (features,) stay.

    A feature that is constant has factor 0, whatever the scaling: nothing was learned about it, so no served value of it may speak.
    Where only the middle half is constant, robust takes the standard deviation.
    """
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    # a spread that float32 cannot tell from rounding of the mean is a constant
    varies = deviation > 1e-6 * np.maximum(np.abs(mean), 1e-12)
    location, spread = _measured(kind, x, mean, deviation)
    location, spread = np.where(untouched, 0.0, location), np.where(untouched, 1.0, spread)
    return location, np.divide(1.0, spread, out=np.zeros_like(spread), where=varies)


def _measured(kind: Scaling, x: Floats, mean: Floats, deviation: Floats) -> tuple[Floats, Floats]:
    match kind:
        case "standard":
            return mean, deviation
        case "minMax":
            return x.min(axis=0), np.ptp(x, axis=0)
        case "robust":
            low, middle, high = np.quantile(x, (0.25, 0.5, 0.75), axis=0)
            return middle, np.where(high > low, high - low, deviation)
        case "none":
            return np.zeros_like(mean), np.ones_like(mean)
