"""Rules about labels, losses and what they do to probabilities."""

from __future__ import annotations

from espalier_api.rules.rule import Objection, Objections, Subject, rule

PRIVACY_NEEDS_EXAMPLES = ("batchMixing", "informationBottleneck", "latent", "fairness")
STRONG_PATIENCE = 3
"""R11: early stopping with at most this patience cuts confidence short."""
CALIBRATION_METRICS = frozenset({"calibrationError", "calibrationErrorExcess"})


@rule(
    "R3",
    "error",
    message="privacy needs the gradient of each example, and this block mixes examples",
    remedy="Remove the block, or privacy",
)
def privacy_per_example(subject: Subject) -> Objections:
    """DP-SGD clips per-example gradients; terms over pairs or batches have none."""
    blocks = subject.regularizers
    if blocks.privacy is None:
        return
    for name, _ in blocks.declared():
        if name in PRIVACY_NEEDS_EXAMPLES:
            yield Objection(
                f"regularizers.{name}", message=f"privacy needs the gradient of each example, and {name} mixes examples"
            )
    if blocks.calibration_loss is not None and blocks.calibration_loss.kind == "mmce":
        yield Objection("regularizers.calibrationLoss.kind")


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
    "R10",
    "warning",
    message="labelSmoothing on the hard term of a student blurs what the teacher tells",
    remedy="Drop labelSmoothing; the teacher's labels are soft already",
)
def smoothed_student(subject: Subject) -> Objections:
    """Mueller et al. 2019. That a teacher was smoothed itself is found when its version is resolved."""
    blocks = subject.regularizers
    if blocks.label_smoothing is not None and blocks.distillation is not None:
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
    """Also: fp16 gradients towards the input underflow."""
    blocks, torch = subject.regularizers, subject.engine.torch
    if blocks.adversarial is None:
        return
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
