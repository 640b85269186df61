"""What a version must prove: repeats and gates. Gates are judged by the operator from recorded results and never retrain."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from espalier_api.base import ApiModel, Cel
from espalier_api.regularizers.block import Column

MetricName = Literal[
    "accuracy", "balancedAccuracy", "f1", "precision", "recall", "falsePositiveRate", "auroc", "averagePrecision", "logLoss", "brier",
    "rmse", "mae", "r2",
    "validationGap", "accuracyGap",
    "calibrationError", "calibrationErrorExcess", "adaptiveCalibrationError", "classwiseCalibrationError",
    "predictionVariance", "mutualInformation", "churn",
    "rejectRate", "selectiveRisk", "aurc",
    "demographicParityDifference", "equalizedOddsDifference",
    "robustAccuracy", "corruptionAccuracy", "corruptionRmse", "safetyViolation",
    "latencyP50Seconds", "latencyP95Seconds", "latencyP99Seconds", "artifactBytes", "peakMemoryBytes",
]  # fmt: skip
"""Numbers that a trainer records. Ratios are 0-1, times are seconds, sizes are bytes."""

HIGHER_IS_BETTER = frozenset(
    {
        "accuracy",
        "balancedAccuracy",
        "f1",
        "precision",
        "recall",
        "auroc",
        "averagePrecision",
        "r2",
        "robustAccuracy",
        "corruptionAccuracy",
    }
)
"""For all other metrics smaller is better."""

BUDGETED = frozenset({"artifactBytes", "latencyP95Seconds", "peakMemoryBytes"})
"""Resources: a gate's `max` on one of them is its budget, and exceeding it is diagnosed (F5)."""


class Gate(ApiModel):
    """One bound on one number of the test part."""

    metric: MetricName
    """Which number."""
    min: float | None = None
    """Smallest accepted value."""
    max: float | None = None
    """Largest accepted value."""
    vs: Literal["champion"] | None = None
    """Compare with the champion's recorded number; met when there is no champion."""
    max_drop: float | None = Field(default=None, ge=0)
    """How much worse than the champion is accepted, in the metric's unit."""
    group: Column | None = None
    """Judge the metric by the groups of this column."""
    worst: bool = False
    """Of the groups, the worst one with at least 50 rows must meet the bound; otherwise their mean."""

    cel = (
        Cel(
            rule="has(self.vs) ? (has(self.maxDrop) && !has(self.min) && !has(self.max))"
            " : (!has(self.maxDrop) && (has(self.min) || has(self.max)))",
            message="gate: give min and/or max, or vs: champion with maxDrop, but not both kinds",
            holds=lambda gate: (
                (gate.max_drop is not None and gate.min is None and gate.max is None)
                if gate.vs
                else (gate.max_drop is None and (gate.min is not None or gate.max is not None))
            ),
        ),
        Cel(
            rule="!has(self.min) || !has(self.max) || self.min <= self.max",
            message="gate: min must not be larger than max",
            holds=lambda gate: gate.min is None or gate.max is None or gate.min <= gate.max,
        ),
        Cel(
            rule="!has(self.worst) || !self.worst || has(self.group)",
            message="gate: worst needs group, the column whose groups are compared",
            holds=lambda gate: not gate.worst or gate.group is not None,
        ),
    )


class Robustness(ApiModel):
    """Attacks the test part within a ball around each row (FGSM and PGD); needs an engine with input gradients."""

    epsilon: float = Field(default=0.1, gt=0, le=100)
    """Radius of the ball, in units of the scaled features: deviations, with data.preprocessing.scaling minMax ranges."""
    norm: Literal["linf", "l2"] = "linf"
    """Norm of the ball."""
    steps: int = Field(default=10, ge=1, le=100)
    """Steps of PGD."""


class Evaluation(ApiModel):
    """Repeats and bounds."""

    seeds: int = Field(default=1, ge=1, le=50)
    """Fits with different seeds; gates then use the mean, and its interval is recorded."""
    robustness: Robustness | None = None
    """Measures robustAccuracy; absent means that regularizers.adversarial's ball is used, if there is one. Versions trained before keep
    what they recorded."""
    gates: tuple[Gate, ...] = Field(default=(), max_length=32)
    """All must be met."""
