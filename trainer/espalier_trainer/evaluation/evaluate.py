"""Everything that is recorded about one fitted model: test metrics, gaps, groups, diagnosis."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from espalier_api.artifact import MetricValue
from espalier_trainer import rng
from espalier_trainer.diagnosis import Signals, diagnose
from espalier_trainer.evaluation import calibration, detection, groups, metrics, selective, variance
from espalier_trainer.evaluation.calibration import softmax
from espalier_trainer.evaluation.robustness import Moments
from espalier_trainer.evaluation.stress import Subject, examine, threshold
from espalier_trainer.protocol import PostContext

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from espalier_api.model import Diagnosis
    from espalier_trainer.data.dataset import Dataset
    from espalier_trainer.engines import Engine, Fitted
    from espalier_trainer.evaluation.baseline import Baseline
    from espalier_trainer.evaluation.calibration import Excess
    from espalier_trainer.evaluation.predecessor import Predecessor
    from espalier_trainer.evaluation.selective import Threshold
    from espalier_trainer.evaluation.stress import Question
    from espalier_trainer.preprocessing import Preprocessor
    from espalier_trainer.protocol import ScoreTransform

    Floats = npt.NDArray[np.float64]

BINARY: Final = 2
GROUP_METRICS: Final = frozenset(
    {
        *("accuracy", "balancedAccuracy", "f1", "precision", "recall", "falsePositiveRate", "averagePrecision"),
        *("logLoss", "brier", "rejectRate", "selectiveRisk", "rmse", "mae", "r2"),
    }
)


@dataclass(slots=True)
class Evaluation:
    """What is known of one fit."""

    metrics: dict[str, MetricValue]
    groups: dict[str, MetricValue] = field(default_factory=dict)  # `<metric>/<column>=<group>`
    diagnosis: list[Diagnosis] = field(default_factory=list)
    temperature: float = 1.0
    notes: dict[str, Any] = field(default_factory=dict)
    sample: Floats | None = None  # answers (rows, outputs) on a few test rows, for the spread over seeds
    # of the packaged fit only: a resumed run fits that one anew, so these need no place in a checkpoint
    transforms: tuple[ScoreTransform, ...] = ()
    files: dict[str, bytes] = field(default_factory=dict)
    min_confidence: float | None = None
    preprocessing: str = ""  # digest of what stood before the model when it was judged
    reliability: list[list[float]] = field(default_factory=list)  # per bin: mean confidence, accuracy, rows


def evaluate(
    engine: Engine,
    fitted: Fitted,
    parts: Mapping[str, Dataset],
    preprocessor: Preprocessor,
    baseline: Baseline,
    seed: int,
    question: Question,
) -> Evaluation:
    """Judge a fit on its splits. POST blocks run here, because calibration is part of what is judged."""
    scaled = {name: preprocessor.apply(part.x) for name, part in parts.items() if len(part)}
    raw = {name: fitted.scores(x) for name, x in scaled.items()}
    targets = {name: preprocessor.target(parts[name].y) for name in raw}
    context = PostContext(raw, targets, x=scaled)
    own = getattr(fitted, "post_blocks", engine.post_blocks)  # a fit's own blocks know the fit
    for block in own():
        block.post(context)
    scores, test = dict(context.scores), parts["test"]
    judge = _Judge(
        test, preprocessor, context.temperature, question, _threshold(scores, targets, context, question), seed
    )
    told, excess = judge.of(scores["test"], test)
    p = softmax(scores["test"], context.temperature) if test.classes else None
    told |= _gaps(raw, targets, classes=len(test.classes), seed=seed)
    subject = Subject(
        fitted,
        tuple(context.transforms),
        context.temperature,
        test,
        scaled["test"],
        targets["test"],
        p,
        Moments(*preprocessor.moments(scaled["train"])),
    )
    found = examine(subject, question, judge.threshold, rng.derive(seed, "stress"))
    told |= found.metrics | _budget(fitted)
    unequal, by_group = judge.groups(scores["test"])
    signals = _signals(fitted, raw, targets, baseline, told, excess, context.temperature)
    quality = "accuracy" if test.classes else "standard deviations of the target"
    signals = replace(signals, corruptions=found.corruptions, quality=quality, **_before(told, question.predecessor))
    answers = preprocessor.value(scores["test"])[:, None] if p is None else p
    return Evaluation(
        metrics=told | unequal,
        groups=by_group,
        diagnosis=diagnose(signals),
        temperature=context.temperature,
        notes={**context.notes, **_null(excess), **found.notes},
        sample=answers[variance.kept_rows(*answers.shape)],
        transforms=tuple(context.transforms),
        files=dict(context.files),
        min_confidence=context.min_confidence,
        preprocessing=preprocessor.to_json()["digest"],
        reliability=[] if p is None else calibration.reliability(p, test.y),
    )


def _threshold(
    scores: Mapping[str, Floats], targets: Mapping[str, npt.NDArray[Any]], context: PostContext, question: Question
) -> Threshold | None:
    """From the calibration split, else from validation; None for a regression or without either."""
    split = next((name for name in ("calibration", "validation") if name in scores), None)
    if split is None or targets[split].dtype.kind != "i":
        return None
    return threshold(scores[split], targets[split], context.temperature, question)


def _before(told: metrics.Metrics, predecessor: Predecessor | None) -> dict[str, Any]:
    """What F6 and F8 compare."""
    return {
        "safety": told.get("safetyViolation"),
        "previous_safety": None if predecessor is None else predecessor.metrics.get("safetyViolation"),
        "previous_temperature": None if predecessor is None else predecessor.temperature,
    }


@dataclass(frozen=True, slots=True)
class _Judge:
    """Measures rows of the test split, all of them or those of a group."""

    test: Dataset
    preprocessor: Preprocessor
    temperature: float
    question: Question
    threshold: Threshold | None
    seed: int

    def of(self, scores: Floats, rows: Dataset) -> tuple[metrics.Metrics, Excess | None]:
        """Metrics of final scores on the given rows."""
        seed = rng.derive(self.seed, "test")
        if not rows.classes:
            return metrics.regression(self.preprocessor.value(scores), rows.y, rows.weight, seed), None
        p, positive = softmax(scores, self.temperature), self.question.positive
        told, excess = metrics.classification(p, rows.y, rows.weight, seed, positive)
        confidence, right = p.max(axis=1), (p.argmax(axis=1) == rows.y).astype(np.float64)
        told["adaptiveCalibrationError"] = MetricValue(value=calibration.adaptive_ece(confidence, right), n=len(rows))
        told["classwiseCalibrationError"] = MetricValue(value=calibration.classwise_ece(p, rows.y), n=len(rows))
        if (one := self._positive(rows)) is not None:
            rates = detection.measure(p, rows.y, rows.weight, one, seed)
            told |= {n: v for n, v in rates.items() if n != "recall" or positive is not None}
        return told, excess

    def _positive(self, rows: Dataset) -> int | None:
        """The declared class, or the second of two."""
        declared = self.question.positive
        return 1 if declared is None and len(rows.classes) == BINARY else declared

    def groups(self, scores: Floats) -> tuple[metrics.Metrics, metrics.Metrics]:
        """(the largest differences of any column, everything by `<metric>/<column>=<group>`)."""
        by_group: metrics.Metrics = {}
        worst: metrics.Metrics = {}
        for column, values in self.test.groups.items():
            for name, rows in groups.members(values):
                part = self.test.take(rows)
                told = self.of(scores[rows], part)[0] | self._refused(scores[rows], part)
                by_group |= {f"{m}/{column}={name}": v for m, v in told.items() if m in GROUP_METRICS}
            if (one := self._positive(self.test)) is not None:
                called, actual = scores.argmax(axis=1) == one, self.test.y == one
                apart = groups.differences(called, actual, self.test.weight, values, rng.derive(self.seed, "groups"))
                by_group |= {f"{m}/{column}={groups.ALL}": v for m, v in apart.items()}
                worst |= {m: v for m, v in apart.items() if m not in worst or v.value > worst[m].value}
        return worst, by_group

    def _refused(self, scores: Floats, rows: Dataset) -> metrics.Metrics:
        if not rows.classes:
            return {}
        return selective.measure(softmax(scores, self.temperature), rows.y, rows.weight, self.threshold, self.seed)


def _budget(fitted: Fitted) -> metrics.Metrics:
    """What the block privacy spent on this fit's weights; its delta is in the notes."""
    spent = fitted.report.notes.get("privacy.epsilon")
    return {} if spent is None else {"privacyEpsilon": MetricValue(value=float(spent))}


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
