"""What stands before every model, fitted on training rows only and exported inside the graph: a server can neither forget nor repeat it.

Regression targets are standardized too, so that a strength means the same on cents as on millions; scores are turned back in the graph.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from espalier_api.preprocessing import Preprocessing
from espalier_trainer.preprocessing import scaling

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from espalier_trainer.data.dataset import Dataset

DEFAULT: Final = Preprocessing()


@dataclass(frozen=True, slots=True)
class Standardizer:
    """x -> (x - location) * factor per feature, in float32 like the served graph; `target_*` is 0 and 1 for classification."""

    features: tuple[str, ...]
    location: npt.NDArray[np.float32]
    factor: npt.NDArray[np.float32]  # 0 for a feature that is constant in training
    target_mean: float = 0.0
    target_scale: float = 1.0
    declared: Preprocessing = DEFAULT

    @classmethod
    def fit(cls, train: Dataset, declared: Preprocessing | None = None) -> Standardizer:
        """From the training rows alone; nothing declared means standardization."""
        declared = declared or DEFAULT
        location, factor = scaling.fit(declared.scaling, train.x.astype(np.float64))
        target_mean, target_scale = 0.0, 1.0
        if train.regression:
            target_mean, target_scale = float(train.y.mean()), float(train.y.std()) or 1.0
        moved = location.astype(np.float32), factor.astype(np.float32)
        return cls(train.features, *moved, target_mean, target_scale, declared)

    @property
    def spread(self) -> npt.NDArray[np.float32]:
        """1 / factor per feature, 0 where the factor is 0: raw x = scaled x * spread + location."""
        return np.divide(1.0, self.factor, out=np.zeros_like(self.factor), where=self.factor != 0)

    @property
    def unit(self) -> str:
        """What 1 is after scaling, in words."""
        return scaling.UNITS[self.declared.scaling]

    def moments(self, scaled: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """(mean, deviation), each (features,), of scaled training rows; of standardized ones they are 0 and 1 by construction."""
        width = len(self.location)
        if self.declared.scaling == "standard":
            return np.zeros(width), np.ones(width)
        return scaled.mean(axis=0, dtype=np.float64), scaled.std(axis=0, dtype=np.float64)

    def apply(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Raw (rows, features) to scaled, with the graph's own operations in its own precision."""
        return np.asarray((x - self.location) * self.factor, dtype=np.float32)

    def target(self, y: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Class indices stay; values are standardized."""
        return y if y.dtype.kind == "i" else (y - self.target_mean) / self.target_scale

    def value(self, scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Standardized values (rows, 1) to the target's unit (rows,)."""
        return np.asarray(scores[:, 0] * self.target_scale + self.target_mean)

    def again(self, train: Dataset) -> Standardizer:
        """The same steps, fitted to other training rows."""
        return Standardizer.fit(train, self.declared)

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Standardizer:
        """The inverse of `to_json`, for a fit that holds on to another model's weights.

        ValueError when its digest says that there was more.
        """
        scale = told["scale"] if "scale" in told else {"kind": "standard", **told["standardize"]}
        location, factor = scale["location"] if "location" in scale else scale["mean"], scale["factor"]
        found = cls(
            tuple(told["features"]),
            np.asarray(location, dtype=np.float32),
            np.asarray(factor, dtype=np.float32),
            float(told["target"]["mean"]),
            float(told["target"]["scale"]),
            Preprocessing(scaling=scale["kind"]),
        )
        if found.to_json()["digest"] != told["digest"]:
            raise ValueError("it holds steps that this release does not know")
        return found

    def to_json(self) -> dict[str, Any]:
        """What was done and a digest of it, for preprocessing.json. Standardization alone is told as it always was, digest included."""
        steps: dict[str, Any] = {
            "features": list(self.features),
            **self._scale(),
            "target": {"mean": self.target_mean, "scale": self.target_scale},
        }
        digest = hashlib.sha256(json.dumps(steps, sort_keys=True).encode()).hexdigest()
        return {**steps, "insideGraph": True, "digest": f"sha256:{digest}"}

    def _scale(self) -> dict[str, Any]:
        location, factor = self.location.tolist(), self.factor.tolist()
        if self.declared.scaling == "standard":
            return {"standardize": {"mean": location, "factor": factor}}
        return {"scale": {"kind": self.declared.scaling, "location": location, "factor": factor}}
