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
from espalier_trainer.errors import DataProblemError
from espalier_trainer.preprocessing import scaling
from espalier_trainer.preprocessing.encoding import Encoding
from espalier_trainer.preprocessing.imputation import SUFFIX, Imputation

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from espalier_trainer.data.dataset import Dataset
    from espalier_trainer.export.graph import Graph

DEFAULT: Final = Preprocessing()


@dataclass(frozen=True, slots=True)
class Preprocessor:
    """Raw columns -> impute, encode -> x -> (x - location) * factor per feature, in float32 like the served graph;
    `target_*` is 0 and 1 for classification.
    """

    features: tuple[str, ...]  # raw columns, as the graph gets them: numbers, then codes of names
    location: npt.NDArray[np.float32]  # of each of `names`
    factor: npt.NDArray[np.float32]  # 0 for a feature that is constant in training
    target_mean: float = 0.0
    target_scale: float = 1.0
    declared: Preprocessing = DEFAULT
    imputation: Imputation | None = None
    encoding: Encoding | None = None

    @classmethod
    def fit(cls, train: Dataset, declared: Preprocessing | None = None) -> Preprocessor:
        """From the training rows alone; nothing declared means standardization."""
        declared = declared or DEFAULT
        imputation: Imputation | None = None
        encoding: Encoding | None = None
        if (gaps := declared.imputation) is not None:
            numbers = len(train.features) - len(train.vocabulary)
            imputation = Imputation.fit(gaps, train.features, train.x.astype(np.float64), numbers)
        if declared.categories is not None:
            usual = gaps is not None and gaps.strategy == "mostFrequent"
            encoding = Encoding.fit(declared.categories, train, usual=usual)
            train = train.coded(encoding.vocabulary)
        return cls._scaled(train, declared, imputation, encoding)

    @classmethod
    def _scaled(
        cls, train: Dataset, declared: Preprocessing, imputation: Imputation | None, encoding: Encoding | None
    ) -> Preprocessor:
        """The steps before are known; what they make of the training rows decides the scale."""
        if declared.tokens is not None:  # ids stay, constant ones too
            width = len(train.features)
            return cls(
                train.features, np.zeros(width, np.float32), np.ones(width, np.float32), *_target(train), declared
            )
        nothing = np.empty(0, dtype=np.float32)
        steps = cls(train.features, nothing, nothing, declared=declared, imputation=imputation, encoding=encoding)
        location, factor = scaling.fit(declared.scaling, steps.unscaled(train.x).astype(np.float64), steps.untouched)
        moved = location.astype(np.float32), factor.astype(np.float32)
        return cls(train.features, *moved, *_target(train), declared, imputation, encoding)

    def coded(self, data: Dataset, part: str) -> Dataset:
        """`data` in the codes that the graph expects. DataProblemError for a value that may not be unknown; `part` names the rows."""
        if self.encoding is None:
            return data
        coded = data.coded(self.encoding.vocabulary)
        if self.declared.categories is not None and self.declared.categories.unknown == "error":
            for column in self.encoding.columns:
                place = self.features.index(column.name)
                if (unknown := coded.x[:, place] < 0).any():
                    value = data.vocabulary[column.name][int(data.x[unknown, place][0])]
                    raise DataProblemError(
                        f"data.preprocessing.categories: column {column.name!r}: {value!r} is in {part} but in no training row "
                        f"({int(unknown.sum())} of {len(data)} rows hold such values); set unknown: ignore, or add rows"
                    )
        return coded

    @property
    def numbers(self) -> int:
        """How many of the raw columns are numbers; the others are codes."""
        return len(self.features) - (0 if self.encoding is None else len(self.encoding.columns))

    @property
    def names(self) -> tuple[str, ...]:
        """Of the features that a model sees: what `target` globs over."""
        encoded = () if self.encoding is None else self.encoding.columns
        flagged = () if self.imputation is None else self.imputation.flagged
        return (
            *self.features[: self.numbers],
            *(name for column in encoded for name in column.features),
            *(f"{self.features[i]}{SUFFIX}" for i in flagged),
        )

    @property
    def untouched(self) -> npt.NDArray[np.bool_]:
        """(names,): True for features that are 0 or 1 and stay so."""
        ordinal = {column.name for column in self.encoding.columns if column.ordinal} if self.encoding else set()
        measured = {*self.features[: self.numbers], *ordinal}
        return np.asarray([name not in measured for name in self.names], dtype=np.bool_)

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
        if self.declared.tokens is not None:  # what stands in for a lost token; there is no noise
            return np.full(width, float(self.declared.tokens.padding)), np.zeros(width)
        if self.declared.scaling == "standard":
            return np.zeros(width), np.ones(width)
        return scaled.mean(axis=0, dtype=np.float64), scaled.std(axis=0, dtype=np.float64)

    def apply(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Raw (rows, columns) to what models see (rows, names), with the graph's own operations in its own precision."""
        return np.asarray((self.unscaled(x) - self.location) * self.factor, dtype=np.float32)

    def unscaled(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Everything but the last step: raw (rows, columns) to (rows, names)."""
        if self.imputation is None and self.encoding is None:
            return x
        numbers = x[:, : self.numbers]
        found = [numbers if self.imputation is None else self.imputation.apply(numbers)]
        if self.encoding is not None:
            found += [column.apply(x[:, self.numbers + i]) for i, column in enumerate(self.encoding.columns)]
        if self.imputation is not None:
            found.append(self.imputation.flags(x))
        return np.concatenate(found, axis=1)

    def append(self, graph: Graph, raw: str) -> str:
        """`apply` as nodes."""
        centred = graph.add("Sub", self._append(graph, raw), graph.constant("location", self.location))
        return graph.add("Mul", centred, graph.constant("factor", self.factor))

    def _append(self, graph: Graph, raw: str) -> str:
        """`unscaled` as nodes."""
        numbers, found = raw, []
        if self.encoding is not None:
            places = graph.constant("numbers", np.arange(self.numbers, dtype=np.int64))
            numbers = graph.add("Gather", raw, places, axis=1) if self.numbers else ""
        if numbers:
            found.append(numbers if self.imputation is None else self.imputation.append(graph, numbers))
        for i, column in enumerate(self.encoding.columns if self.encoding else ()):
            place = graph.constant("column", np.asarray([self.numbers + i], dtype=np.int64))
            found.append(column.append(graph, graph.add("Gather", raw, place, axis=1)))
        if self.imputation is not None and self.imputation.flagged:
            found.append(self.imputation.append_flags(graph, raw))
        return found[0] if len(found) == 1 else graph.add("Concat", *found, axis=1)

    def target(self, y: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Class indices stay; values are standardized."""
        return y if y.dtype.kind == "i" else (y - self.target_mean) / self.target_scale

    def value(self, scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Standardized values (rows, 1) to the target's unit (rows,)."""
        return np.asarray(scores[:, 0] * self.target_scale + self.target_mean)

    def again(self, train: Dataset) -> Preprocessor:
        """The same steps, fitted to other training rows, with the same `names`."""
        imputation, encoding, declared = self.imputation, self.encoding, self.declared
        if imputation is not None and declared.imputation is not None:
            imputation = imputation.again(declared.imputation, train.features, train.x.astype(np.float64))
        if encoding is not None and declared.categories is not None:
            encoding = encoding.again(declared.categories, train)
        return self._scaled(train, declared, imputation, encoding)

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Preprocessor:
        """The inverse of `to_json`, for a fit that holds on to another model's weights.

        ValueError when its digest says that there was more.
        """
        declared = told.get("declared", {})
        features, imputed, encoded = tuple(told["features"]), told.get("impute"), told.get("encode")
        scale = told["scale"] if "scale" in told else {"kind": "standard", **told["standardize"]}
        location, factor = scale["location"] if "location" in scale else scale["mean"], scale["factor"]
        found = cls(
            features,
            np.asarray(location, dtype=np.float32),
            np.asarray(factor, dtype=np.float32),
            float(told["target"]["mean"]),
            float(told["target"]["scale"]),
            Preprocessing.model_validate({**declared, "scaling": scale["kind"]}),
            None if imputed is None else Imputation.from_json(imputed, features),
            None if encoded is None else Encoding.from_json(encoded, features),
        )
        if found.to_json()["digest"] != told["digest"]:
            raise ValueError("it holds steps that this release does not know")
        return found

    def to_json(self) -> dict[str, Any]:
        """What was done and a digest of it, for preprocessing.json. Standardization alone is told as it always was, digest included."""
        steps: dict[str, Any] = {
            "features": list(self.features),
            **self._steps(),
            "target": {"mean": self.target_mean, "scale": self.target_scale},
        }
        digest = hashlib.sha256(json.dumps(steps, sort_keys=True).encode()).hexdigest()
        return {**steps, "insideGraph": True, "digest": f"sha256:{digest}"}

    def _steps(self) -> dict[str, Any]:
        location, factor = self.location.tolist(), self.factor.tolist()
        told: dict[str, Any] = {"scale": {"kind": self.declared.scaling, "location": location, "factor": factor}}
        if self.declared.scaling == "standard":
            told = {"standardize": {"mean": location, "factor": factor}}
        if self.imputation is not None:
            told["impute"] = self.imputation.to_json(self.features)
        if self.encoding is not None:
            told["encode"] = self.encoding.to_json()
        more = self.declared != Preprocessing(scaling=self.declared.scaling)
        return {**told, "declared": self.declared.dump()} if more else told


def _target(train: Dataset) -> tuple[float, float]:
    """(mean, scale) that standardize a number; (0, 1) for classes."""
    return (float(train.y.mean()), float(train.y.std()) or 1.0) if train.regression else (0.0, 1.0)
