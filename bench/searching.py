"""A search as a training Job does it, without the Job: our proposals, our rules, one fit per trial, the winner by validation rows."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from espalier_api.search import Search
from espalier_trainer.errors import DivergedError, InvalidConfigError
from espalier_trainer.selection import build, proposals, space
from espalier_trainer.session import Alone

if TYPE_CHECKING:
    from collections.abc import Callable

    from espalier_api.training import TrainingJob
    from espalier_trainer.engines import FitData, Fitted

    Judge = Callable[[Fitted], tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class Winner:
    """The best trial, and what all of them cost. `failed` trials were refused by a rule or diverged; they count as trials."""

    fitted: Fitted
    params: dict[str, Any]
    objective: float
    trials: int
    failed: int
    cpu_seconds: float


def fit(told: TrainingJob, data: FitData, seed: int) -> Fitted:
    """One fit."""
    engine = build.engine(told)
    engine.plan(data)
    return engine.fit(data, seed, Alone())


def best_of(told: TrainingJob, data: FitData, seed: int, judge: Judge) -> Winner:
    """Run every trial of `told.search`. `judge` tells from validation rows what is maximized, then what breaks ties."""
    search = told.search
    if not isinstance(search, Search):
        raise TypeError("best_of: the job has no search")
    total, records = proposals.count(search), []
    best: tuple[tuple[float, ...], Fitted, dict[str, Any]] | None = None
    began = time.process_time()
    for number in range(total):
        values = proposals.propose(search, seed, records)
        record: dict[str, Any] = {"number": number, "params": values, "status": "Succeeded"}
        try:
            fitted = fit(space.candidate(told, values), data, seed)
        except (InvalidConfigError, DivergedError) as error:
            records.append(record | {"status": "Failed", "reason": str(error)})
            continue
        value = judge(fitted)
        records.append(record | {"objective": value[0]})
        if best is None or value > best[0]:
            best = value, fitted, dict(values)
    if best is None:
        raise RuntimeError(f"all {total} trials failed, the last one with: {records[-1]['reason']}")
    failed = sum(record["status"] == "Failed" for record in records)
    return Winner(best[1], best[2], best[0][0], total, failed, round(time.process_time() - began, 1))
