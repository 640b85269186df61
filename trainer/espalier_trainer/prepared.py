"""Rows that are ready to be fitted: splits of one snapshot, scaled by what is known of their training rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from espalier_trainer.engines import FitData, Part

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from espalier_trainer.data.dataset import Dataset
    from espalier_trainer.evaluation.stress import Question
    from espalier_trainer.preprocessing import Preprocessor
    from espalier_trainer.protocol import Reference


@dataclass(frozen=True, slots=True)
class Prepared:
    """Data that is ready to be fitted."""

    parts: Mapping[str, Dataset]
    preprocessor: Preprocessor
    fit: FitData
    question: Question
    snapshot_digest: str
    content_sha256: str
    purged: int = 0  # windows left out, because they share raw rows with another part


def fit_data(
    parts: Mapping[str, Dataset], preprocessor: Preprocessor, references: Mapping[str, Reference] | None = None
) -> FitData:
    """What engines see of the splits: scaled, weights of training rows with mean 1, groups as codes."""
    coded, train = group_codes(parts), parts["train"]

    def part(name: str) -> Part:
        one = parts[name]
        weight = None if one.sample_weight is None else one.sample_weight / one.sample_weight.mean()
        groups = {column: codes[name] for column, codes in coded.items()}
        x, y = preprocessor.apply(one.x), preprocessor.target(one.y)
        return Part(x, y, weight if name == "train" else None, groups)

    return FitData(
        train=part("train"),
        validation=part("validation") if len(parts["validation"]) else None,
        classes=len(train.classes),
        features=preprocessor.names,
        splits=frozenset(name for name, one in parts.items() if len(one)),
        target_scale=preprocessor.target_scale,
        location=preprocessor.location,
        scale=preprocessor.spread,
        unit=preprocessor.unit,
        tokens=preprocessor.declared.tokens,
        references=references or {},
    )


def group_codes(parts: Mapping[str, Dataset]) -> dict[str, dict[str, npt.NDArray[np.int64]]]:
    """Per group column and split: the position of each row's group among the sorted groups of the whole snapshot."""
    codes: dict[str, dict[str, npt.NDArray[np.int64]]] = {}
    for column in parts["train"].groups:
        known = np.unique(np.concatenate([one.groups[column].astype(str) for one in parts.values()]))
        codes[column] = {n: np.searchsorted(known, one.groups[column].astype(str)) for n, one in parts.items()}
    return codes
