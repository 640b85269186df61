"""Folds of rows: disjoint, complete, the same on every machine for one seed; and the data of each fold, scaled by itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from espalier_trainer import rng
from espalier_trainer.data import splits, windows
from espalier_trainer.errors import DataProblemError, InvalidConfigError
from espalier_trainer.prepared import fit_data

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy.typing as npt

    from espalier_trainer.data.dataset import Dataset
    from espalier_trainer.engines import FitData, Part
    from espalier_trainer.prepared import Prepared
    from espalier_trainer.preprocessing import Preprocessor

    Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Fold:
    """One fit's rows: `held` is judged, and is what the fit sees as validation."""

    data: FitData
    held: Dataset
    preprocessor: Preprocessor


def deal(data: Dataset, kind: str, count: int, seed: int) -> list[tuple[Rows, Rows]]:
    """`count` pairs (rows to fit, rows to judge), sorted.

    `stratified`: each class is dealt evenly, to within one row (random for a regression); `group`: the groups of the first group
    column stay together; `time`: everything older than a fold's rows fits, and the oldest rows are never judged. All others judge
    each row exactly once. Windows that share a raw row with a fold's judged ones do not fit it.
    """
    order = np.argsort(rng.keys(rng.derive(seed, "folds"), len(data)), kind="stable")
    if kind == "time":
        owner = _whole(data, "time", order, count + 1)
        pairs = [(np.flatnonzero(owner < i), np.flatnonzero(owner == i)) for i in range(1, count + 1)]
    else:
        owner = _stratified(data, order, count) if kind == "stratified" else _whole(data, kind, order, count)
        pairs = [(np.flatnonzero(owner != i), np.flatnonzero(owner == i)) for i in range(count)]
    if data.span is not None:
        pairs = [(windows.disjoint(data.span, fits, held), held) for fits, held in pairs]
    for number, (fits, held) in enumerate(pairs, 1):
        _refuse(data, kind, number, fits, held)
    return pairs


def _whole(data: Dataset, kind: str, order: Rows, count: int) -> npt.NDArray[np.int64]:
    return np.asarray(splits.assign(data, kind, (1 / count,) * count, order), dtype=np.int64)


def _stratified(data: Dataset, order: Rows, count: int) -> npt.NDArray[np.int64]:
    """Rows sorted by class, shuffled within, are dealt like cards."""
    owner = np.empty(len(data), dtype=np.int64)
    by_class = order if data.regression else order[np.argsort(data.y[order], kind="stable")]
    owner[by_class] = np.arange(len(data)) % count
    return owner


def _refuse(data: Dataset, kind: str, number: int, fits: Rows, held: Rows) -> None:
    if not len(fits) or not len(held):
        raise DataProblemError(f"folds: fold {number} ({kind}) would be empty; use fewer folds or add rows")
    if data.classes and len(absent := set(range(len(data.classes))) - set(np.unique(data.y[fits]).tolist())):
        raise DataProblemError(
            f"folds: fold {number} ({kind}) leaves no row of class {data.classes[min(absent)]!r} to fit; use fewer folds, kind stratified, "
            "or add rows"
        )


def joined(one: Dataset, other: Dataset) -> Dataset:
    """All rows of both, in this order."""

    def both(a: npt.NDArray[Any] | None, b: npt.NDArray[Any] | None) -> npt.NDArray[Any] | None:
        return None if a is None or b is None else np.concatenate([a, b])

    return replace(
        one,
        x=np.concatenate([one.x, other.x]),
        y=np.concatenate([one.y, other.y]),
        weight=both(one.weight, other.weight),
        sample_weight=both(one.sample_weight, other.sample_weight),
        groups={name: np.concatenate([values, other.groups[name]]) for name, values in one.groups.items()},
        time=both(one.time, other.time),
        span=both(one.span, other.span),
    )


def folds_of(prepared: Prepared, kind: str, count: int, seed: int, field: str) -> Iterator[Fold]:
    """Each fold of the training and validation rows, scaled by its own fitting rows: a fold's judge has leaked nothing.

    Test and calibration rows are in no fold. `field` names who asks.
    """
    if prepared.fit.references:
        raise InvalidConfigError(
            f"{field}: another model's answers are known for the job's own split only; use 1 fold, or drop the blocks that refer to "
            "other models"
        )
    pool = joined(prepared.parts["train"], prepared.parts["validation"])
    for fits, held in deal(pool, kind, count, seed):
        parts: Mapping[str, Dataset] = {
            **prepared.parts,
            "train": pool.take(fits),
            "validation": pool.take(held),
        }
        preprocessor = prepared.preprocessor.again(parts["train"])
        data = replace(fit_data(parts, preprocessor), extra=_again(prepared, preprocessor))
        yield Fold(data, parts["validation"], preprocessor)


def _again(prepared: Prepared, preprocessor: Preprocessor) -> dict[str, Part]:
    """Rows of other datasets, scaled by a fold's own rows instead of the job's."""
    extra = prepared.fit.extra.items()
    return {name: replace(part, x=preprocessor.apply(part.raw)) for name, part in extra if part.raw is not None}


def whole(prepared: Prepared) -> Fold:
    """The job's own split: fitted on the training part, judged on validation."""
    return Fold(prepared.fit, prepared.parts["validation"], prepared.preprocessor)
