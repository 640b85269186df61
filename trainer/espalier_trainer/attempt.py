"""One attempt at a version: where it begins, what it saves on its way, and how its fits hear that it is time to go."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from espalier_api.artifact import MetricValue
from espalier_api.model import Diagnosis
from espalier_trainer import peers
from espalier_trainer.errors import PeerLostError, PreemptedError
from espalier_trainer.evaluation.evaluate import Evaluation
from espalier_trainer.log import say
from espalier_trainer.selection.team import Team
from espalier_trainer.session import Clock

if TYPE_CHECKING:
    from collections.abc import Mapping

    from espalier_api.training import TrainingJob
    from espalier_trainer.checkpoint import Checkpoints
    from espalier_trainer.run import World
    from espalier_trainer.selection.memory import Memory
    from espalier_trainer.selection.records import Records
    from espalier_trainer.session import Progress


@dataclass(slots=True)
class Start:
    """Where a run begins: at nothing, or where the attempt before it was ended."""

    checkpoints: Checkpoints | None
    memory: Memory  # of crossValidation
    records: Records | None = None  # of a search's trials
    team: Team = field(default_factory=Team)
    fit: Mapping[str, Any] | None = None  # state of the fit that was cut
    done: list[Evaluation] = field(default_factory=list)

    def described(self) -> str:
        """Short: several processes must begin at the same place."""
        step = None if self.fit is None else self.fit["step"]
        audited = "audited" if self.memory.audit else "not audited"
        return f"fit {len(self.done) + 1}, step {step or 0}, {len(self.memory.folds)} folds, {audited}"


def save(start: Start, fit: Mapping[str, Any] | None) -> None:
    """One object with the state of the fit in progress, what earlier fits came to, and what selection knows. The leader saves for all."""
    if not peers.current().leads:
        return
    assert start.checkpoints is not None  # noqa: S101 - who saves has asked
    done = [_saved(e) for e in start.done]
    start.checkpoints.save({"fit": fit, "done": done, "selection": start.memory.state()})


def evaluation_of(saved: Mapping[str, Any]) -> Evaluation:
    """The inverse of what `save` made of an evaluation."""
    return Evaluation(
        {n: MetricValue.model_validate(v) for n, v in saved["metrics"].items()},
        {n: MetricValue.model_validate(v) for n, v in saved["groups"].items()},
        [Diagnosis.model_validate(d) for d in saved["diagnosis"]],
        saved["temperature"],
        saved["notes"],
        None if saved["sample"] is None else np.asarray(saved["sample"]),
    )


def _saved(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "metrics": {n: v.dump() for n, v in evaluation.metrics.items()},
        "groups": {n: v.dump() for n, v in evaluation.groups.items()},
        "diagnosis": [d.dump() for d in evaluation.diagnosis],
        "temperature": evaluation.temperature,
        "notes": evaluation.notes,
        "sample": None if evaluation.sample is None else evaluation.sample.tolist(),
    }


class FitSession:
    """One of the fits of a run: checkpoints to the store, progress to the board, SIGTERM to an orderly end."""

    def __init__(self, job: TrainingJob, world: World, start: Start, index: int) -> None:
        self._world, self._start, self._state = world, start, start.fit
        self._index, self._count = index, job.seeds
        self._prefix = "" if index + 1 == job.seeds else f"seed-{job.seed + job.seeds - 1 - index}/"
        self._clock = Clock(job.checkpoint.interval.total_seconds())
        self._saved = self._leaving = False

    def restore(self) -> Mapping[str, Any] | None:
        """The state that the run found, for its own fit only."""
        return self._state

    def wants_checkpoint(self) -> bool:
        """At the interval and at SIGTERM; only the leader saves."""
        self._leaving = self._world.preemption.together()
        wanted = self._leaving or self._clock.due()
        return wanted and self._start.checkpoints is not None and peers.current().leads

    def save(self, state: Mapping[str, Any]) -> None:
        """The fit's state with everything else."""
        save(self._start, state)
        self._saved = True
        say("checkpoint", step=state["step"])

    def stop_if_preempted(self) -> None:
        """Exit 75; several processes leave at the same step, when the leader has saved it."""
        others = peers.current()
        if self._leaving or (others.size == 1 and self._world.preemption.requested):
            with contextlib.suppress(PeerLostError):  # it has left already
                others.any(flag=True)
            how = (
                "a checkpoint is saved"
                if self._saved or not others.leads
                else "nothing to save: this engine fits in one piece"
            )
            raise PreemptedError(f"SIGTERM while training; {how}, the next attempt goes on from there")

    def progress(self, now: Progress) -> None:
        """The fit's part of the whole."""
        self._world.board.fit(now.part(self._index, self._count))
        self._world.tracking.fit(now, self._prefix)
