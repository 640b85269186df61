"""One trial: a set of values as a validated job of its own, fitted on each fold, judged on rows that the fit did not see."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from espalier_trainer import rng
from espalier_trainer.errors import DivergedError, InvalidConfigError, ParityError
from espalier_trainer.jobfile import data_spec
from espalier_trainer.selection import build, halving, objective, space
from espalier_trainer.selection.pareto import SUCCEEDED
from espalier_trainer.selection.sessions import Short

if TYPE_CHECKING:
    from collections.abc import Sequence

    from espalier_api.search import Search
    from espalier_api.training import TrainingJob
    from espalier_trainer.prepared import Prepared
    from espalier_trainer.progress import Board
    from espalier_trainer.selection.folds import Fold
    from espalier_trainer.selection.rounds import Asked
    from espalier_trainer.session import Preemption

FAILED: Final = "Failed"
EXPECTED: Final = (InvalidConfigError, DivergedError, ParityError)
"""Ends of a trial that say something about its values; everything else ends the search."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What all trials of a search share."""

    job: TrainingJob
    search: Search
    prepared: Prepared
    folds: Sequence[Fold]
    board: Board
    preemption: Preemption

    def run(self, asked: Asked, done: int, total: int) -> dict[str, Any]:
        """Its record. Preemption and infrastructure failures pass through; `done` of `total` trials are over."""
        began = time.monotonic()
        record: dict[str, Any] = {"number": asked.number, "params": dict(asked.values), "status": SUCCEEDED}
        if asked.rung is not None:
            record |= {"rung": asked.rung, "configuration": asked.configuration}
        try:
            job, resource = self._candidate(asked)
            if resource is not None:
                record["resource"] = resource
            place, places = done * len(self.folds), total * len(self.folds)
            sessions = [Short(self.preemption, self.board.fit, place + i, places) for i in range(len(self.folds))]
            found = [self._fit(job, asked.configuration, index, each) for index, each in enumerate(sessions)]
            record |= _means(found)
        except EXPECTED as error:
            record |= {"status": FAILED, "exitCode": int(error.exit_code), "reason": str(error)[:500]}
        return record | {"seconds": round(time.monotonic() - began, 3)}

    def _candidate(self, asked: Asked) -> tuple[TrainingJob, int | None]:
        """The job with the trial's values, and how many epochs or rounds it was left by halving."""
        job = space.candidate(self.job, asked.values)
        if data_spec(job) != data_spec(self.job):
            raise InvalidConfigError("these values change which columns are read; all trials share one preparation")
        return (job, None) if asked.rung is None else halving.shortened(job, asked.share)

    def _fit(self, job: TrainingJob, configuration: int, index: int, session: Short) -> tuple[float, ...]:
        """The objective, and the second one, if there is one."""
        fold, second = self.folds[index], self.search.second_objective
        engine = build.engine(job)
        engine.plan(fold.data)
        fitted = engine.fit(fold.data, rng.derive(job.seed, "trial", configuration, index), session)
        told = objective.values(fitted, fold.held, fold.preprocessor, self.prepared.question.positive)
        found = objective.one(self.search.objective.metric, told)
        if second is None:
            return (found,)
        told |= objective.sizes(fitted, fold.preprocessor, fold.data.classes, second.metric)
        return found, objective.one(second.metric, told, "search.secondObjective.metric")


def _means(found: Sequence[tuple[float, ...]]) -> dict[str, Any]:
    """Objectives over folds. DivergedError when one is no number."""
    means = [sum(values) / len(values) for values in zip(*found, strict=True)]
    if not all(map(math.isfinite, means)):
        raise DivergedError("the objective is not a number")
    told: dict[str, Any] = dict(zip(("objective", "second"), means, strict=False))
    return told | ({"folds": [values[0] for values in found]} if len(found) > 1 else {})
