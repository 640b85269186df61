"""Standardization, fitted on training rows only and exported inside the graph: a server can neither forget nor repeat it.

Regression targets are standardized too, so that a strength means the same on cents as on millions; scores are turned back in the graph.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from espalier_trainer.data.dataset import Dataset


@dataclass(frozen=True, slots=True)
class Standardizer:
    """x -> (x - mean) * factor per feature, in float32 like the served graph; `target_*` is 0 and 1 for classification.

    A feature that is constant in training has factor 0: nothing was learned about it, so no served value of it may speak.
    """

    features: tuple[str, ...]
    mean: npt.NDArray[np.float32]
    factor: npt.NDArray[np.float32]
    target_mean: float = 0.0
    target_scale: float = 1.0

    @classmethod
    def fit(cls, train: Dataset) -> Standardizer:
        """Moments of the training rows in double precision."""
        x = train.x.astype(np.float64)
        mean, spread = x.mean(axis=0), x.std(axis=0)
        # a spread that float32 cannot tell from rounding of the mean is a constant
        varies = spread > 1e-6 * np.maximum(np.abs(mean), 1e-12)
        factor = np.divide(1.0, spread, out=np.zeros_like(spread), where=varies)
        target_mean, target_scale = 0.0, 1.0
        if train.regression:
            target_mean, target_scale = float(train.y.mean()), float(train.y.std()) or 1.0
        return cls(train.features, mean.astype(np.float32), factor.astype(np.float32), target_mean, target_scale)

    @property
    def spread(self) -> npt.NDArray[np.float32]:
        """1 / factor per feature, 0 where the factor is 0: raw x = standardized x * spread + mean."""
        return np.divide(1.0, self.factor, out=np.zeros_like(self.factor), where=self.factor != 0)

    def apply(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Raw (rows, features) to standardized, with the graph's own operations in its own precision."""
        return np.asarray((x - self.mean) * self.factor, dtype=np.float32)

    def target(self, y: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Class indices stay; values are standardized."""
        return y if y.dtype.kind == "i" else (y - self.target_mean) / self.target_scale

    def value(self, scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Standardized values (rows, 1) to the target's unit (rows,)."""
        return np.asarray(scores[:, 0] * self.target_scale + self.target_mean)

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Standardizer:
        """The inverse of `to_json`, for a fit that holds on to another model's weights.

        ValueError when its digest says that there was more.
        """
        steps, target = told["standardize"], told["target"]
        mean, factor = (np.asarray(steps[name], dtype=np.float32) for name in ("mean", "factor"))
        found = cls(tuple(told["features"]), mean, factor, float(target["mean"]), float(target["scale"]))
        if found.to_json()["digest"] != told["digest"]:
            raise ValueError("it holds steps that this release does not know")
        return found

    def to_json(self) -> dict[str, Any]:
        """What was done and a digest of it, for preprocessing.json."""
        steps = {
            "features": list(self.features),
            "standardize": {"mean": self.mean.tolist(), "factor": self.factor.tolist()},
            "target": {"mean": self.target_mean, "scale": self.target_scale},
        }
        digest = hashlib.sha256(json.dumps(steps, sort_keys=True).encode()).hexdigest()
        return {**steps, "insideGraph": True, "digest": f"sha256:{digest}"}
