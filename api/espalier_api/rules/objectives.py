"""Rules about labels, losses and what they do to probabilities."""

from __future__ import annotations

import math

from espalier_api.rules.rule import Objection, Objections, Subject, rule

STRONG_PATIENCE = 3
"""R11: early stopping with at most this patience cuts confidence short."""
FEW_PER_GROUP = 8
"""R36: an average over fewer examples of a group is mostly noise."""
LARGEST_RADIUS = {
    "standard": (3.0, "standard deviations"),
    "robust": (3.0, "widths of the middle half"),
    "minMax": (1.0, "ranges"),
}
"""R29: by scaling, in which unit a ball is measured and from where on it holds every input."""
CALIBRATION_METRICS = frozenset({"calibrationError", "calibrationErrorExcess"})


@rule(
    "R9",
    "warning",
    message="labelSmoothing and batchMixing both soften the labels",
    remedy="Drop one of the two, or halve labelSmoothing.epsilon",
)
def softened_twice(subject: Subject) -> Objections:
    """Doubly softened targets: underconfident predictions."""
    blocks = subject.regularizers
    if blocks.label_smoothing is not None and blocks.batch_mixing is not None:
        yield Objection("regularizers.labelSmoothing")


@rule(
    "R11",
    "warning",
    message="probabilities are shifted, and no calibration is declared",
    remedy="Add regularizers.calibration: {method: temperature, split: calibration} and data.split.calibration: 0.1",
)
def uncalibrated(subject: Subject) -> Objections:
    """An error when a gate asks for calibration, because it could hardly be met (ECE up to 0.33 was measured)."""
    blocks = subject.regularizers
    if subject.task.type != "classification" or blocks.calibration is not None:
        return
    shifting = [
        name
        for name, block in (
            ("labelSmoothing", blocks.label_smoothing),
            ("batchMixing", blocks.batch_mixing),
            ("robustLoss", blocks.robust_loss),
            ("adversarial", blocks.adversarial),
        )
        if block is not None
    ]
    if blocks.early_stopping is not None and blocks.early_stopping.patience <= STRONG_PATIENCE:
        shifting.append("earlyStopping")
    if blocks.class_rebalancing is not None and not blocks.class_rebalancing.prior_correction:
        shifting.append("classRebalancing")
    if not shifting:
        return
    gated = any(gate.metric in CALIBRATION_METRICS for gate in subject.gates)
    names = " and ".join(shifting)
    verb = "shifts" if len(shifting) == 1 else "shift"
    yield Objection(
        "regularizers.calibration",
        level="error" if gated else "warning",
        message=f"{names} {verb} probabilities{' and an ECE gate is set' if gated else ''}, but no calibration is declared",
        remedy="Add regularizers.calibration: {method: temperature, split: calibration} and data.split.calibration: 0.1"
        + (", or drop the gate" if gated else ""),
    )


@rule(
    "R12",
    "error",
    message="labelSmoothing blurs the labels of the safety data as well",
    remedy="Set regularizers.safety.excludeFromSmoothing: true, or drop labelSmoothing",
)
def smoothed_safety(subject: Subject) -> Objections:
    """Scenario 3 of the guide."""
    blocks = subject.regularizers
    if blocks.label_smoothing is not None and blocks.safety is not None and not blocks.safety.exclude_from_smoothing:
        yield Objection("regularizers.safety.excludeFromSmoothing")


@rule(
    "R13",
    "error",
    message="labelSmoothing is defined for cross-entropy only",
    remedy="Drop labelSmoothing, or the other loss",
)
def smoothing_without_cross_entropy(subject: Subject) -> Objections:
    """With another loss the smoothed target has no meaning."""
    blocks = subject.regularizers
    if blocks.label_smoothing is None:
        return
    for name, block in (("robustLoss", blocks.robust_loss), ("maxMargin", blocks.max_margin)):
        if block is not None:
            yield Objection(
                "regularizers.labelSmoothing",
                message=f"labelSmoothing is defined for cross-entropy only, and {name} replaces it",
                remedy=f"Drop labelSmoothing or {name}",
            )
    if subject.task.type == "regression":
        yield Objection(
            "regularizers.labelSmoothing",
            message="labelSmoothing needs classes, and the task is a regression",
            remedy="Drop labelSmoothing",
        )


@rule(
    "R29",
    "warning",
    message="adversarial inputs of blended examples are not worst cases of either",
    remedy="Drop batchMixing or adversarial",
)
def adversarial_blends(subject: Subject) -> Objections:
    """Also: fp16 gradients towards the input underflow; and epsilon has the unit of scaled inputs, whose range a raw epsilon
    (8 of 255 grey levels, say) exceeds.
    """
    blocks, torch = subject.regularizers, subject.engine.torch
    if blocks.adversarial is None:
        return
    scaling = "standard" if subject.data.preprocessing is None else subject.data.preprocessing.scaling
    largest, unit = LARGEST_RADIUS.get(scaling, (math.inf, ""))
    if blocks.adversarial.norm == "linf" and blocks.adversarial.epsilon > largest:
        yield Objection(
            "regularizers.adversarial.epsilon",
            level="error",
            message=f"inputs are scaled ({scaling}), and a ball of {blocks.adversarial.epsilon:g} {unit} holds all of them",
            remedy=f"Give epsilon in {unit} of a feature, usually 0.01 to 0.5",
        )
    if blocks.batch_mixing is not None:
        yield Objection("regularizers.batchMixing")
    if torch is not None and torch.precision == "fp16":
        yield Objection(
            "engine.torch.precision",
            message="gradients towards the input underflow in fp16",
            remedy="Use bf16 or fp32 with adversarial",
        )


@rule(
    "R30",
    "warning",
    message="rebalancing without priorCorrection serves probabilities of classes that are more even than in life",
    remedy="Set regularizers.classRebalancing.priorCorrection: true",
)
def uncorrected_prior(subject: Subject) -> Objections:
    """Rebalancing twice, by weights of rows and by class, is an error."""
    blocks = subject.regularizers
    if blocks.class_rebalancing is None:
        return
    if not blocks.class_rebalancing.prior_correction:
        yield Objection("regularizers.classRebalancing.priorCorrection")
    if blocks.class_rebalancing.method == "oversample" and blocks.sample_weighting is not None:
        yield Objection(
            "regularizers.sampleWeighting",
            level="error",
            message="sampling rare classes more often and weighting rows correct the same imbalance twice",
            remedy="Use one of classRebalancing.method: oversample and sampleWeighting",
        )


@rule(
    "R39",
    "error",
    message="the block needs classes, and the task is a regression",
    remedy="Drop the block, or change task.type",
)
def classes_needed(subject: Subject) -> Objections:
    """Calibration, rebalancing and abstention are about probabilities. labelSmoothing is R13's."""
    if subject.task.type != "regression":
        return
    if subject.data.label_column_noise_audit:
        yield Objection(
            "data.labelColumnNoiseAudit",
            message="the audit counts labels that are wrong classes, and the task is a regression",
            remedy="Set data.labelColumnNoiseAudit: false",
        )
    blocks = subject.regularizers
    about_classes = {
        "maxMargin": blocks.max_margin,
        "classRebalancing": blocks.class_rebalancing,
        "calibrationLoss": blocks.calibration_loss,
        "calibration": blocks.calibration,
        "abstention": blocks.abstention,
    }
    for name, block in about_classes.items():
        if block is not None:
            yield Objection(
                f"regularizers.{name}",
                message=f"{name} needs classes, and the task is a regression",
                remedy=f"Drop {name}",
            )
    if blocks.robust_loss is not None and blocks.robust_loss.kind != "huber":
        yield Objection("regularizers.robustLoss.kind", remedy="Use robustLoss.kind: huber for a regression")


@rule(
    "R31",
    "automatic",
    message="the mean of the processes' weighted means is not the weighted mean of all examples (1.239 against 1.079)",
    remedy="Set training.nodes and training.processesPerNode to 1, or drop the weights",
    keeps="weighted sums are divided by the sum of weights over all processes",
)
def weights_of_all(subject: Subject) -> Objections:
    """Measured with two processes. Classes are weights too, except where only logits are shifted or rows are drawn."""
    blocks = subject.regularizers
    if subject.processes == 1:
        return
    if blocks.sample_weighting is not None:
        yield Objection("regularizers.sampleWeighting", kept=True)
    if blocks.class_rebalancing is not None and blocks.class_rebalancing.method in {"inverse", "effectiveNumber"}:
        yield Objection("regularizers.classRebalancing", kept=True)


@rule(
    "R36",
    "warning",
    message="fewer than 8 examples of a group per step make the term mostly noise",
    remedy="Raise engine.torch.batchSize",
)
def few_of_a_group(subject: Subject) -> Objections:
    """A gap between groups needs both: half a batch is the most that the smaller one can have. Real shares are checked at run time."""
    blocks, torch = subject.regularizers, subject.engine.torch
    if torch is None:
        return
    seen = torch.batch_size  # also with several processes: terms see the rows of all of them
    if blocks.fairness is not None and seen // 2 < FEW_PER_GROUP:
        yield Objection(
            "regularizers.fairness",
            message=f"{seen} examples per step leave at most {seen // 2} for the smaller of two groups",
            remedy=f"Raise engine.torch.batchSize to {2 * FEW_PER_GROUP} or more",
        )
    if blocks.calibration_loss is not None and blocks.calibration_loss.kind == "mmce" and seen < FEW_PER_GROUP:
        yield Objection(
            "regularizers.calibrationLoss",
            message=f"mmce compares pairs of examples, and a step has {seen}",
            remedy=f"Raise engine.torch.batchSize to {FEW_PER_GROUP} or more, or use kind brier",
        )
