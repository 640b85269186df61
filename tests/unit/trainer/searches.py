"""Searches over small jobs, and workers that take turns in one process instead of waiting for each other."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from espalier_api import artifact
from espalier_api.search import Search
from espalier_trainer.progress import Board
from espalier_trainer.run import World, run
from espalier_trainer.selection.team import Pace
from espalier_trainer.storage import FolderStore
from tests.unit.trainer import jobs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from espalier_api.training import TrainingJob, TrainingResult

LOG: dict[str, Any] = {"logUniform": {"min": 1e-6, "max": 1e-1}}
LINEAR: dict[str, Any] = {"sklearn": {"estimator": "logisticRegression"}}


def searching(space: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    return {"method": "random", "trials": 4, "space": space or {"regularizers.l2.strength": LOG}, **changes}


def search(space: dict[str, Any] | None = None, **changes: Any) -> Search:
    return Search.model_validate(searching(space, **changes))


def told(folder: Path) -> dict[str, Any]:
    """search.json of the published version."""
    found: dict[str, Any] = json.loads((folder / jobs.VERSION / "search.json").read_bytes())
    return found


def outcome(folder: Path) -> dict[str, Any]:
    """All of search.json but what the clock says, and the bytes of the weights that ship."""
    found = told(folder)
    trials = [{k: v for k, v in trial.items() if k != "seconds"} for trial in found["trials"]]
    weights = (folder / jobs.VERSION / artifact.MODEL_WEIGHTS).read_bytes()
    return {**found, "trials": trials, "best": found["best"]["number"], "weights": weights}


class Leaves(Exception):  # noqa: N818 - a worker that is sent away, no error
    """Raised where a worker would wait."""


def _leave(_: float) -> None:
    raise Leaves


class Turns:
    """The workers of a search in one process. Whenever the first one would wait, the others run until they would; then they are gone, and
    start afresh the next time, as pods do that were evicted.
    """

    def __init__(self, folder: Path, job: TrainingJob) -> None:
        assert job.search is not None
        self.folder, self.job, self.count = folder, job, job.search.workers
        self.helped: dict[int, TrainingResult] = {}

    def run(self) -> TrainingResult:
        """The first worker's result."""
        return run(self.job, self.world(0, self._others))

    def alone(self) -> TrainingResult:
        """One process that runs all trials, as `espalier train` does."""
        return run(self.job, self.world(None))

    def world(self, index: int | None, sleep: Callable[[float], None] = _leave) -> World:
        """Of one worker."""

        def store(uri: str, _: str) -> FolderStore:
            return FolderStore(self.folder / uri.removeprefix("s3://"))

        return World(store, Board(self.job), worker=index, pace=Pace(sleep=sleep))

    def _others(self, _: float) -> None:
        for index in range(1, self.count):
            if index not in self.helped:
                try:
                    self.helped[index] = run(self.job, self.world(index))
                except Leaves:
                    continue
