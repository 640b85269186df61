"""crossValidation: the job's fit repeated on folds of its training and validation rows, before the fit that is shipped.

Raw scores, before calibration. The interval is Student's t over folds; folds share training rows, so it is too narrow by an unknown
amount (Bengio and Grandvalet 2004: no unbiased estimator of the variance exists), which the file says.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Final

from espalier_api.artifact import MetricValue
from espalier_trainer import rng
from espalier_trainer.errors import PreemptedError
from espalier_trainer.evaluation.intervals import mean_of_seeds
from espalier_trainer.log import say
from espalier_trainer.selection import build, folds, objective
from espalier_trainer.selection.sessions import Short

if TYPE_CHECKING:
    from espalier_api.regularizers.selection import CrossValidation
    from espalier_api.training import TrainingJob
    from espalier_trainer.prepared import Prepared
    from espalier_trainer.progress import Board
    from espalier_trainer.selection.memory import Memory
    from espalier_trainer.session import Preemption

FILE: Final = "cross_validation.json"
CAUTION: Final = "intervals are Student's t over folds, whose fits share rows: read them as lower bounds of the spread"


def run(job: TrainingJob, prepared: Prepared, memory: Memory, board: Board, preemption: Preemption) -> dict[str, Any]:
    """What cross_validation.json holds: each fold, and mean and interval of each metric."""
    config = job.regularizers.cross_validation
    assert config is not None  # noqa: S101 - the caller looked
    board.phase("CrossValidating")
    try:
        every = folds.folds_of(prepared, config.kind, config.folds, job.seed, "regularizers.crossValidation")
        for index, fold in enumerate(every):
            if index < len(memory.folds):
                continue  # an earlier attempt has it
            preemption.check(f"fold {index + 1} of {config.folds}")
            began, engine = time.monotonic(), build.engine(job)
            engine.plan(fold.data)
            session = Short(preemption, board.fit, index, config.folds)
            fitted = engine.fit(fold.data, rng.derive(job.seed, "fold", index), session)
            told = objective.values(fitted, fold.held, fold.preprocessor, prepared.question.positive)
            told.pop("standardError")
            rows = {"train": len(fold.data.train), "held": len(fold.held)}
            memory.folds.append({"metrics": told, "rows": rows, "seconds": round(time.monotonic() - began, 3)})
            memory.changed()
            say("fold", **memory.folds[-1])
    except PreemptedError:
        memory.save()
        raise
    memory.save()
    return summary(config, memory.folds)


def summary(config: CrossValidation, found: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over folds of what every fold has."""
    shared = set.intersection(*(set(fold["metrics"]) for fold in found))
    means = {
        name: mean_of_seeds([MetricValue(value=fold["metrics"][name], n=fold["rows"]["held"]) for fold in found])
        for name in sorted(shared)
    }
    told = {n: {"value": m.value, "low": m.low, "high": m.high, "folds": len(found)} for n, m in means.items()}
    return {**config.dump(), "metrics": told, "each": found, "caution": CAUTION}


def file(told: dict[str, Any]) -> bytes:
    """As bytes."""
    return (json.dumps(told, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
