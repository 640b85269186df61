"""A search inside one training Job: trials one after another, each a validated job of its own, judged on rows it was not fitted on.

Trials are functions of (search, seed, trials before), and their results ride in the checkpoint: a killed search goes on with the trial that
was cut, and ends with the same winner. The winner is then fitted once more like any job.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from espalier_api.training import SearchSummary
from espalier_trainer import rng
from espalier_trainer.errors import DivergedError, InvalidConfigError, ParityError, PreemptedError
from espalier_trainer.jobfile import data_spec
from espalier_trainer.log import say
from espalier_trainer.selection import build, folds, objective, proposals, space
from espalier_trainer.selection.sessions import Short

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from espalier_api.search import Objective
    from espalier_api.training import TrainingJob
    from espalier_trainer.prepared import Prepared
    from espalier_trainer.progress import Board
    from espalier_trainer.selection.memory import Memory
    from espalier_trainer.session import Preemption

FILE: Final = "search.json"
FAILED, SUCCEEDED = "Failed", "Succeeded"
EXPECTED: Final = (InvalidConfigError, DivergedError, ParityError)
"""Ends of a trial that say something about its values; everything else ends the search."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a search came to."""

    job: TrainingJob
    """The winner's; `search` stays, for the lineage."""
    file: bytes
    summary: SearchSummary


def run(job: TrainingJob, prepared: Prepared, memory: Memory, board: Board, preemption: Preemption) -> Found:
    """All trials that are left, and the best one. InvalidConfigError when more fail than `maxFailed`, or all."""
    assert job.search is not None  # noqa: S101 - the caller looked
    search = job.search
    space.check_paths(search)
    total, trials = proposals.count(search), memory.trials
    fold_kind = job.data.split.strategy
    each = (
        [folds.whole(prepared)]
        if search.folds == 1
        else list(folds.folds_of(prepared, fold_kind, search.folds, job.seed, "search.folds"))
    )
    _need_rows(each)
    board.phase("Searching")
    try:
        while len(trials) < total:
            preemption.check(f"trial {len(trials) + 1} of {total}")
            board.trials(len(trials), total, _best_value(trials, search.objective))
            trial = _Trial(job, prepared, each, len(trials), total)
            trials.append(trial.run(proposals.propose(search, job.seed, trials), board, preemption))
            memory.changed()
            say("trial", **trials[-1])
            _refuse_failures(trials, search.max_failed)
    except PreemptedError:
        memory.save()
        raise
    best = best_of(trials, search.objective)
    if best is None:
        raise InvalidConfigError(f"search: all {total} trials failed, the last one with: {trials[-1]['reason']}")
    memory.save()
    board.trials(total, total, best["objective"])
    return Found(_winner(job, best), _file(job, trials, best), _summary(job, trials, best))


def _need_rows(each: Sequence[folds.Fold]) -> None:
    if not all(len(fold.held) for fold in each):
        raise InvalidConfigError(
            "search: data.split.validation is 0, and trials are judged there; raise it, or use folds"
        )


@dataclass(frozen=True, slots=True)
class _Trial:
    """One set of values, fitted on each fold."""

    job: TrainingJob
    prepared: Prepared
    folds: Sequence[folds.Fold]
    number: int
    total: int

    def run(self, values: Mapping[str, float | str], board: Board, preemption: Preemption) -> dict[str, Any]:
        """Its record for search.json. Preemption and infrastructure failures pass through."""
        began = time.monotonic()
        record: dict[str, Any] = {"number": self.number, "params": dict(values), "status": SUCCEEDED}
        try:
            found = [self._fit(index, values, board, preemption) for index in range(len(self.folds))]
            record["objective"] = sum(found) / len(found)
            if not math.isfinite(record["objective"]):
                raise DivergedError("the objective is not a number")
            if len(found) > 1:
                record["folds"] = found
        except EXPECTED as error:
            record.pop("objective", None)
            record |= {"status": FAILED, "exitCode": int(error.exit_code), "reason": str(error)[:500]}
        return record | {"seconds": round(time.monotonic() - began, 3)}

    def _fit(self, index: int, values: Mapping[str, float | str], board: Board, preemption: Preemption) -> float:
        assert self.job.search is not None  # noqa: S101 - the caller looked
        job = space.candidate(self.job, values)
        if data_spec(job) != data_spec(self.job):
            raise InvalidConfigError("these values change which columns are read; all trials share one preparation")
        fold, count = self.folds[index], len(self.folds)
        engine = build.engine(job)
        engine.plan(fold.data)
        session = Short(preemption, board.fit, self.number * count + index, self.total * count)
        fitted = engine.fit(fold.data, rng.derive(job.seed, "trial", self.number, index), session)
        told = objective.values(fitted, fold.held, fold.standardizer, self.prepared.question.positive)
        return objective.one(self.job.search.objective.metric, told)


def best_of(trials: Sequence[Mapping[str, Any]], asked: Objective) -> Mapping[str, Any] | None:
    """The best trial that succeeded, the earliest of equals; None when none did."""
    succeeded = [trial for trial in trials if trial["status"] == SUCCEEDED]
    sign = 1.0 if asked.goal == "minimize" else -1.0
    return min(succeeded, key=lambda trial: (sign * trial["objective"], trial["number"]), default=None)


def _best_value(trials: Sequence[Mapping[str, Any]], asked: Objective) -> float | None:
    best = best_of(trials, asked)
    return None if best is None else float(best["objective"])


def _refuse_failures(trials: Sequence[Mapping[str, Any]], most: int) -> None:
    failed = [trial for trial in trials if trial["status"] == FAILED]
    if len(failed) > most:
        first = failed[0]
        raise InvalidConfigError(
            f"search: {len(failed)} of {len(trials)} trials failed and maxFailed is {most}; trial {first['number']} with "
            f"{first['params']}: {first['reason']}. Narrow the space or raise search.maxFailed"
        )


def _winner(job: TrainingJob, best: Mapping[str, Any]) -> TrainingJob:
    return space.candidate(job, best["params"])


def _file(job: TrainingJob, trials: Sequence[Mapping[str, Any]], best: Mapping[str, Any]) -> bytes:
    assert job.search is not None  # noqa: S101 - the caller looked
    told = {"search": job.search.dump(), "seed": job.seed, "trials": list(trials), "best": best}
    return (json.dumps(told, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def _summary(job: TrainingJob, trials: Sequence[Mapping[str, Any]], best: Mapping[str, Any]) -> SearchSummary:
    assert job.search is not None  # noqa: S101 - the caller looked
    return SearchSummary(
        trials=len(trials),
        failed=sum(trial["status"] == FAILED for trial in trials),
        metric=job.search.objective.metric,
        best=best["objective"],
        number=best["number"],
    )
