"""data.labelColumnNoiseAudit: how many labels are wrong, by confident learning (Northcutt, Jiang and Chuang 2021).

Every training and validation row is judged by a fit that has not seen it. A row counts as class j where its probability of j is at
least the mean that rows labelled j get, as the most probable such j if there are several, and not at all if there is none (eq. 1). The
counts by given label and by that class, scaled to the labels' frequencies (eq. 3), estimate the joint of given and true labels: what is
beside its diagonal is the noise. Rows are counted, never listed: no single label leaves the pod.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from espalier_trainer import rng
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.evaluation.calibration import softmax
from espalier_trainer.log import say
from espalier_trainer.selection import build, folds
from espalier_trainer.selection.sessions import Short

if TYPE_CHECKING:
    import numpy.typing as npt

    from espalier_api.training import TrainingJob
    from espalier_trainer.prepared import Prepared
    from espalier_trainer.progress import Board
    from espalier_trainer.selection.memory import Memory
    from espalier_trainer.session import Preemption

    Floats = npt.NDArray[np.float64]
    Labels = npt.NDArray[np.int64]

FILE: Final = "label_noise.json"
FIELD: Final = "data.labelColumnNoiseAudit"
FOLDS: Final = 5
ROUNDING: Final = 1e-12  # a mean of equal numbers may lie above each of them


def run(job: TrainingJob, prepared: Prepared, memory: Memory, board: Board, preemption: Preemption) -> dict[str, Any]:
    """What label_noise.json holds. Five fits more, of raw scores: an attempt that is cut among them begins them again, a later one does
    not, because the checkpoint has what they came to.
    """
    if memory.audit is not None:
        return memory.audit
    classes = prepared.parts["train"].classes
    if not classes:
        raise InvalidConfigError(f"R39: {FIELD}: it is about classes, and the task is a regression; set it to false")
    board.phase("CrossValidating")
    windows = prepared.parts["train"].span is not None  # neighbours share rows: deal them as the split does
    kind = job.data.split.strategy if windows and job.data.split.strategy in {"time", "group"} else "stratified"
    given, told = [], []
    for index, fold in enumerate(folds.folds_of(prepared, kind, FOLDS, job.seed, FIELD)):
        preemption.check(f"fold {index + 1} of {FOLDS} of the label audit")
        engine = build.engine(job)
        engine.plan(fold.data)
        fitted = engine.fit(fold.data, rng.derive(job.seed, "audit", index), Short(preemption, board.fit, index, FOLDS))
        given.append(fold.held.y)
        told.append(softmax(fitted.scores(fold.preprocessor.apply(fold.held.x))))
    found = summary(classes, joint(np.concatenate(told), np.concatenate(given)), sum(map(len, given)))
    say("label-audit", share=found["share"], rows=found["rows"])
    memory.audit = found
    memory.save()
    return found


def joint(p: Floats, given: Labels) -> Floats:
    """(classes, classes): estimated shares of rows by given label (first axis) and true one, from probabilities (rows, classes) of fits
    that have not seen the row.
    """
    classes = p.shape[1]
    thresholds = np.asarray(
        [p[given == k, k].mean() if (given == k).any() else np.inf for k in range(classes)], dtype=np.float64
    )
    confident = p >= thresholds - ROUNDING
    rows = confident.any(axis=1)
    likely = np.where(confident, p, -1.0).argmax(axis=1)
    counts = np.zeros((classes, classes))
    np.add.at(counts, (given[rows], likely[rows]), 1)
    labelled = np.bincount(given, minlength=classes).astype(np.float64)
    found = counts.sum(axis=1)
    alone = np.eye(classes) * labelled[:, None]  # a class of which no row is confident is taken at its word
    scaled = np.divide(counts * labelled[:, None], found[:, None], out=alone, where=found[:, None] > 0)
    return np.asarray(scaled / scaled.sum())


def summary(classes: tuple[str, ...], shares: Floats, rows: int) -> dict[str, Any]:
    """The share of wrong labels, overall and by given label, and the largest confusions."""
    labelled = shares.sum(axis=1)
    wrong = shares.copy()
    np.fill_diagonal(wrong, 0.0)
    order = [divmod(int(at), len(classes)) for at in np.argsort(-wrong, axis=None, kind="stable")[:10]]
    return {
        "share": float(wrong.sum()),
        "rows": rows,
        "folds": FOLDS,
        "byLabel": {
            name: float(wrong[k].sum() / labelled[k]) if labelled[k] else 0.0 for k, name in enumerate(classes)
        },
        "confusions": [
            {"given": classes[i], "likely": classes[j], "share": float(wrong[i, j])}
            for i, j in order
            if wrong[i, j] > 0
        ],
    }


def file(told: dict[str, Any]) -> bytes:
    """As bytes."""
    return (json.dumps(told, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
