"""How a fit behaves off the beaten track: refusing, attacked, corrupted, on safety rows, between members, beside its predecessor."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from espalier_trainer import rng
from espalier_trainer.evaluation import robustness, selective, variance
from espalier_trainer.evaluation.calibration import softmax
from espalier_trainer.evaluation.intervals import share_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from espalier_api.artifact import MetricValue
    from espalier_trainer.data.dataset import Dataset
    from espalier_trainer.engines import Fitted, Part
    from espalier_trainer.evaluation.predecessor import Predecessor
    from espalier_trainer.evaluation.robustness import Attack, Corrupted, Moments
    from espalier_trainer.evaluation.selective import Threshold
    from espalier_trainer.protocol import ScoreTransform

    Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Question:
    """What a job asks about each of its fits."""

    positive: int | None = None  # index of task.positiveClass
    attack: Attack | None = None
    max_risk: float = selective.MAX_RISK
    certainty: float = selective.CONFIDENCE
    safety: Part | None = None  # scaled rows on which every error is a violation
    predecessor: Predecessor | None = None


@dataclass(frozen=True, slots=True)
class Subject:
    """A judged fit: what POST blocks made of its scores, and the test split."""

    fitted: Fitted
    transforms: Sequence[ScoreTransform]
    temperature: float
    test: Dataset
    x: npt.NDArray[np.float32]  # the test split, scaled
    y: npt.NDArray[Any]  # class index or standardized value
    p: Floats | None  # probabilities of the test split; None for a regression
    moments: Moments  # of the scaled training features

    def scores(self, x: npt.NDArray[np.float32]) -> Floats:
        """Final scores of scaled rows, before temperature."""
        scores = self.fitted.scores(x)
        for transform in self.transforms:
            scores = transform.apply(scores)
        return scores


@dataclass(slots=True)
class Findings:
    """Numbers for metrics.json, facts for its notes, signals for the diagnosis."""

    metrics: dict[str, MetricValue] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    corruptions: list[Corrupted] = field(default_factory=list)


def examine(subject: Subject, question: Question, threshold: Threshold | None, seed: int) -> Findings:
    """Everything that applies to this fit and this question."""
    found = Findings()
    if subject.p is not None:
        _refusing(subject, threshold, found, seed)
        _attacked(subject, question.attack, found, seed)
        _safe(subject, question.safety, found)
        _beside(subject, question.predecessor, found)
    _corrupted(subject, found, seed)
    _members(subject, found, seed)
    return found


def threshold(scores: Floats, y: npt.NDArray[Any], temperature: float, question: Question) -> Threshold | None:
    """Chosen on rows that neither trained the model nor judge it: final scores of the calibration or validation split."""
    p = softmax(scores, temperature)
    return selective.threshold_for(p.max(axis=1), p.argmax(axis=1) != y, question.max_risk, question.certainty)


def _refusing(subject: Subject, chosen: Threshold | None, found: Findings, seed: int) -> None:
    assert subject.p is not None  # noqa: S101 - the caller asked
    y = subject.test.y
    found.metrics |= selective.measure(subject.p, y, subject.test.weight, chosen, rng.derive(seed, "select"))
    confidence, wrong = subject.p.max(axis=1), subject.p.argmax(axis=1) != y
    found.notes["riskCoverage"] = selective.curve(confidence, wrong)
    found.notes["selective"] = (
        {"reason": "no threshold can promise the risk: too few or too many wrong rows in calibration or validation"}
        if chosen is None
        else {"threshold": chosen.value, "riskBound": chosen.bound, "coverage": chosen.coverage}
    )


def _sample(rows: int) -> npt.NDArray[np.int64]:
    return np.unique(np.linspace(0, rows - 1, min(rows, robustness.ROWS)).astype(np.int64))


def _attacked(subject: Subject, attack: Attack | None, found: Findings, seed: int) -> None:
    """robustAccuracy, unless the gradients cannot be trusted: then a note says so and no gate can be met by the number."""
    if attack is None:
        return
    told: dict[str, Any] = {"epsilon": attack.epsilon, "norm": attack.norm, "steps": attack.steps}
    found.notes["robustness"] = told
    if not isinstance(subject.fitted, robustness.Differentiable):
        told["reason"] = "this engine has no input gradients; corruptions are measured instead"
        return
    rows = _sample(len(subject.test))
    result = robustness.attacked(subject.fitted, subject.scores, subject.x[rows], subject.y[rows], attack, seed)
    told |= {"fgsmAccuracy": result.fgsm, "pgdAccuracy": result.pgd, "losses": list(result.losses)}
    told["gradientMasking"] = result.masked
    if result.masked:
        told["reason"] = "the loss does not rise with epsilon: the attack fails, which says nothing about robustness"
    else:
        found.metrics["robustAccuracy"] = result.accuracy


def _corrupted(subject: Subject, found: Findings, seed: int) -> None:
    rows = _sample(len(subject.test))
    classes = len(subject.test.classes)
    mean, found.corruptions = robustness.corrupted(
        subject.scores,
        subject.x[rows],
        subject.y[rows],
        subject.moments,
        classes=classes,
        seed=rng.derive(seed, "corrupt"),
    )
    found.metrics["corruptionAccuracy" if classes else "corruptionRmse"] = mean
    found.notes["corruptions"] = [
        {"kind": c.kind, "severity": c.severity, "quality": c.quality, "drop": c.drop.dump()} for c in found.corruptions
    ]


def _safe(subject: Subject, safety: Part | None, found: Findings) -> None:
    if safety is not None and len(safety):
        violated = subject.scores(safety.x).argmax(axis=1) != safety.y
        found.metrics["safetyViolation"] = share_of(violated, None)


def _beside(subject: Subject, predecessor: Predecessor | None, found: Findings) -> None:
    if predecessor is None:
        return
    test = subject.test
    before = predecessor.predicted(test)
    if before is None:
        found.notes["churn"] = (
            f"{predecessor.version} cannot answer these rows: other features, missing values, or no usable graph"
        )
        return
    assert subject.p is not None  # noqa: S101 - the caller asked
    found.metrics["churn"] = variance.churn(before, subject.p.argmax(axis=1), test.weight)
    found.notes["churn"] = f"beside {predecessor.version}"


def _members(subject: Subject, found: Findings, seed: int) -> None:
    """M4 within one fit: engines of ensembles and of sampled networks tell their members' scores (K, rows, outputs)."""
    ask = getattr(subject.fitted, "member_scores", None)
    members = None if ask is None else ask(subject.x)
    if members is None or len(members) < 2:  # noqa: PLR2004 - one member has no spread
        return
    answers = np.asarray(members, dtype=np.float64)
    if subject.p is not None:
        answers = np.stack([softmax(one, subject.temperature) for one in answers])
    found.metrics |= variance.measure(answers, classification=subject.p is not None, seed=rng.derive(seed, "members"))
    found.notes["predictionVariance"] = f"over {len(members)} members of one fit"
