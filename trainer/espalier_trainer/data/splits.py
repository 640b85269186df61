"""Train, validation, calibration and test: disjoint, complete, and the same on every machine for one seed.

Rows are ordered by a keyed hash of their index (rng.keys), not by a library's shuffle, so no upgrade can move a row from test to
train. `stratified` keeps class shares (it is random for regression), `group` keeps the groups of the first group column together,
`time` puts the newest rows into test and never cuts through equal times.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from espalier_trainer import rng
from espalier_trainer.errors import DataProblemError

if TYPE_CHECKING:
    import numpy.typing as npt

    from espalier_api.data import Split
    from espalier_trainer.data.dataset import Dataset

NAMES: Final = ("train", "validation", "calibration", "test")


Splits = dict[str, "npt.NDArray[np.int64]"]


def split(data: Dataset, spec: Split) -> Splits:
    """Row indices (sorted) by split name; a split that was asked for and would be empty is a data problem."""
    fractions = (1.0 - spec.validation - spec.calibration - spec.test, spec.validation, spec.calibration, spec.test)
    if fractions[0] <= 0:
        raise DataProblemError(
            f"data.split: validation + calibration + test = {1 - fractions[0]:.3g} leave nothing to train on"
        )
    order = np.argsort(rng.keys(rng.derive(spec.seed, "split"), len(data)), kind="stable")
    owner = assign(data, spec.strategy, fractions, order)
    splits = {name: np.flatnonzero(owner == i) for i, name in enumerate(NAMES)}
    for name, fraction in zip(NAMES, fractions, strict=True):
        if fraction > 0 and len(splits[name]) == 0:
            raise DataProblemError(
                f"data.split: {name} ({fraction:.3g} of {len(data)} rows, {spec.strategy}) is empty; add rows or raise the fraction"
            )
    refuse_unseen_classes(data, splits["train"])
    return splits


def assign(
    data: Dataset, strategy: str, fractions: tuple[float, ...], order: npt.NDArray[np.int64]
) -> npt.NDArray[np.int8]:
    """Which of the fractions each row (n,) belongs to; `order` is a permutation that decides what the strategy leaves to chance."""
    return _STRATEGIES[strategy](data, order, fractions)


def refuse_unseen_classes(data: Dataset, train: npt.NDArray[np.int64]) -> None:
    """A class without a training row cannot be learned."""
    seen = set(np.unique(data.y[train]).tolist()) if data.classes else set()
    absent = [name for i, name in enumerate(data.classes) if i not in seen]
    if absent:
        raise DataProblemError(
            f"data.split: no training row of class {', '.join(map(repr, absent[:8]))}; add rows or remove the class from task.classes"
        )


def _sizes(n: int, fractions: tuple[float, ...]) -> list[int]:
    """Largest-remainder rounding: sizes sum to n, each within one row of its fraction."""
    exact = [n * f for f in fractions]
    sizes = [int(e + 1e-9) for e in exact]
    by_remainder = sorted(range(len(sizes)), key=lambda i: (sizes[i] - exact[i], i))
    for i in by_remainder[: n - sum(sizes)]:
        sizes[i] += 1
    return sizes


def _deal(rows: npt.NDArray[np.int64], fractions: tuple[float, ...], owner: npt.NDArray[np.int8]) -> None:
    edges = np.cumsum(_sizes(len(rows), fractions))[:-1]
    for i, part in enumerate(np.split(rows, edges)):
        owner[part] = i


def _random(data: Dataset, order: npt.NDArray[np.int64], fractions: tuple[float, ...]) -> npt.NDArray[np.int8]:
    owner = np.zeros(len(data), dtype=np.int8)
    _deal(order, fractions, owner)
    return owner


def _stratified(data: Dataset, order: npt.NDArray[np.int64], fractions: tuple[float, ...]) -> npt.NDArray[np.int8]:
    """Interleave the classes evenly, then cut: shares and exact total sizes are kept at once."""
    if data.regression:
        return _random(data, order, fractions)
    owner = np.zeros(len(data), dtype=np.int8)
    strata = data.y[order]
    # position of each row inside its stratum, as a fraction: sorting by it interleaves the strata evenly
    position = np.empty(len(order))
    for value in np.unique(strata):
        members = np.flatnonzero(strata == value)
        position[members] = (np.arange(len(members)) + 0.5) / len(members)
    _deal(order[np.argsort(position, kind="stable")], fractions, owner)
    return owner


def _group(data: Dataset, order: npt.NDArray[np.int64], fractions: tuple[float, ...]) -> npt.NDArray[np.int8]:
    """Whole groups, largest first, each to the split that lacks most rows."""
    if not data.groups:
        raise DataProblemError("data.split.strategy group needs data.groupColumns")
    names, member = np.unique(next(iter(data.groups.values())).astype(str), return_inverse=True)
    sizes = np.bincount(member, minlength=len(names))
    rank = np.empty(len(names), dtype=np.int64)
    first_seen = dict.fromkeys(member[order].tolist())
    rank[list(first_seen)] = np.arange(len(names))
    lacking = np.asarray(fractions) * len(data)
    assigned = np.zeros(len(names), dtype=np.int8)
    for group in np.lexsort((rank, -sizes)):
        taker = int(np.argmax(lacking))
        assigned[group] = taker
        lacking[taker] -= sizes[group]
    return np.asarray(assigned[member])


def _time(
    data: Dataset,
    order: npt.NDArray[np.int64],  # noqa: ARG001 - time decides the order
    fractions: tuple[float, ...],
) -> npt.NDArray[np.int8]:
    """Oldest rows train, newest test; a boundary inside equal times moves forward so that no instant is on both sides."""
    if data.time is None:
        raise DataProblemError("data.split.strategy time needs data.timeColumn")
    _, instant = np.unique(data.time, return_inverse=True)
    by_time = np.argsort(instant, kind="stable")
    ordered = instant[by_time]
    owner = np.zeros(len(data), dtype=np.int8)
    for i, edge in enumerate(np.cumsum(_sizes(len(data), fractions))[:-1]):
        start = int(edge)
        if 0 < start < len(ordered) and ordered[start - 1] == ordered[start]:
            start = int(np.searchsorted(ordered, ordered[start], side="right"))
        owner[by_time[start:]] = i + 1
    return owner


_STRATEGIES: Final = {"stratified": _stratified, "random": _random, "group": _group, "time": _time}
