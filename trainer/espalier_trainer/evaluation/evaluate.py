"""Everything that is recorded about one fitted model: test metrics, gaps, groups, diagnosis."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from espalier_trainer import rng
from espalier_trainer.diagnosis import Signals, diagnose
from espalier_trainer.evaluation import metrics
from espalier_trainer.evaluation.calibration import softmax
from espalier_trainer.protocol import PostContext

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from espalier_api.artifact import MetricValue
    from espalier_api.model import Diagnosis
    from espalier_trainer.data.dataset import Dataset
    from espalier_trainer.engines import Engine, Fitted
    from espalier_trainer.evaluation.baseline import Baseline
    from espalier_trainer.evaluation.calibration import Excess
    from espalier_trainer.preprocessing import Standardizer
    from espalier_trainer.protocol import ScoreTransform

MAX_GROUPS: Final = 50
GROUP_METRICS: Final = frozenset(
    {"accuracy", "balancedAccuracy", "f1", "precision", "recall", "logLoss", "brier", "rmse", "mae", "r2"}
)


@dataclass(slots=True)
class Evaluation:
    """What is known of one fit."""

    metrics: dict[str, MetricValue]
    groups: dict[str, MetricValue] = field(default_factory=dict)  # `<metric>/<column>=<group>`
    diagnosis: list[Diagnosis] = field(default_factory=list)
    temperature: float = 1.0
    notes: dict[str, Any] = field(default_factory=dict)
    # of the packaged fit only: a resumed run fits that one anew, so these need no place in a checkpoint
    transforms: tuple[ScoreTransform, ...] = ()
    files: dict[str, bytes] = field(default_factory=dict)


def evaluate(
    engine: Engine,
    fitted: Fitted,
    parts: Mapping[str, Dataset],
    standardizer: Standardizer,
    baseline: Baseline,
    positive: int | None,
    seed: int,
) -> Evaluation:
    """Judge a fit on its splits. POST blocks run here, because calibration is part of what is judged."""
    standardized = {name: standardizer.apply(part.x) for name, part in parts.items() if len(part)}
    scores = {name: fitted.scores(x) for name, x in standardized.items()}
    targets = {name: standardizer.target(parts[name].y) for name in scores}
    context = PostContext(scores, targets, x=standardized)
    own = getattr(fitted, "post_blocks", engine.post_blocks)  # a fit's own blocks know the fit
    for block in own():
        block.post(context)
    raw, scores = scores, dict(context.scores)
    test = parts["test"]
    told, excess = _test_metrics(scores["test"], test, standardizer, context.temperature, positive, seed)
    told |= _gaps(raw, targets, classes=len(test.classes), seed=seed)
    groups = {
        f"{name}/{column}={group}": value
        for column in test.groups
        for group, part, rows in _by_group(test, column)
        for name, value in _test_metrics(scores["test"][rows], part, standardizer, context.temperature, positive, seed)[
            0
        ].items()
        if name in GROUP_METRICS
    }
    signals = _signals(fitted, raw, targets, baseline, told, excess, context.temperature)
    notes = {**context.notes, **_null(excess)}
    return Evaluation(
        told, groups, diagnose(signals), context.temperature, notes, tuple(context.transforms), dict(context.files)
    )


def _null(excess: Excess | None) -> dict[str, Any]:
    if excess is None:
        return {}
    return {
        "calibrationNull": {
            "mean": excess.null_mean,
            "low": excess.null_low,
            "high": excess.null_high,
            "pValue": excess.p_value,
        }
    }


def _test_metrics(
    scores: npt.NDArray[np.float64],
    test: Dataset,
    standardizer: Standardizer,
    temperature: float,
    positive: int | None,
    seed: int,
) -> tuple[metrics.Metrics, Excess | None]:
    if test.classes:
        return metrics.classification(
            softmax(scores, temperature), test.y, test.weight, rng.derive(seed, "test"), positive
        )
    return metrics.regression(standardizer.value(scores), test.y, test.weight, rng.derive(seed, "test")), None


def _by_group(test: Dataset, column: str) -> list[tuple[str, Dataset, npt.NDArray[np.int64]]]:
    """The largest groups of a column, with their rows."""
    names, counts = np.unique(test.groups[column].astype(str), return_counts=True)
    largest = sorted(names[np.argsort(-counts, kind="stable")][:MAX_GROUPS])
    rows = {name: np.flatnonzero(test.groups[column] == name) for name in largest}
    return [(name, test.take(rows[name]), rows[name]) for name in largest]


def _gaps(
    scores: Mapping[str, npt.NDArray[np.float64]], targets: Mapping[str, npt.NDArray[Any]], *, classes: int, seed: int
) -> metrics.Metrics:
    """M1 with the shipped weights, before temperature: what calibration hides would hide overfitting too."""
    if "validation" not in scores:
        return {}
    losses = {name: metrics.row_losses(scores[name], targets[name]) for name in ("train", "validation")}
    told = {"validationGap": metrics.gap(losses["train"], losses["validation"], rng.derive(seed, "gap"))}
    if classes:
        wrong = {n: (scores[n].argmax(axis=1) != targets[n]).astype(np.float64) for n in losses}
        told["accuracyGap"] = metrics.gap(wrong["train"], wrong["validation"], rng.derive(seed, "gap"))
    return told


def _signals(
    fitted: Fitted,
    scores: Mapping[str, npt.NDArray[np.float64]],
    targets: Mapping[str, npt.NDArray[Any]],
    baseline: Baseline,
    told: metrics.Metrics,
    excess: Excess | None,
    temperature: float,
) -> Signals:
    losses = {
        n: float(metrics.row_losses(scores[n], targets[n]).mean()) for n in ("train", "validation") if n in scores
    }
    return Signals(
        train_loss=losses["train"],
        validation_loss=losses.get("validation"),
        baseline_train=baseline.train,
        baseline_validation=baseline.validation,
        gap=told.get("validationGap"),
        history=fitted.report.history,
        contributions=fitted.report.contributions,
        gradient_norms=fitted.report.gradient_norms,
        excess=excess,
        temperature=temperature,
        restored=bool(fitted.report.notes.get("earlyStopping.restored")),
    )
