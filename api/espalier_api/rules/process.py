"""Rules about time and data: stopping, splits, compression, architecture, and what an engine can honour."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Final

from espalier_api.regularizers import Scheduled
from espalier_api.rules.engine_support import SKLEARN_NEEDS, XGBOOST_OWNED, able, supported
from espalier_api.rules.rule import Objection, Objections, Subject, rule

FEW_BLOCKS = 4
SMALL_IMAGE = 16
"""R34: pixels along an edge below which a shift may lose what matters."""


@rule(
    "R24",
    "error",
    message="mcDropout samples dropout, and no dropout is declared",
    remedy="Add regularizers.dropout, or drop mcDropout",
    keeps="the spread is measured with dropout on before the export and recorded, and the served graph stays deterministic",
)
def sampling_nothing(subject: Subject) -> Objections:
    """Without dropout all samples would be the same; so they would in an exported graph, which loses it in evaluation mode and varies
    between runtimes when it stays on (both measured).
    """
    blocks = subject.regularizers
    if blocks.mc_dropout is None:
        return
    if blocks.dropout is None or blocks.dropout.p == 0:
        yield Objection("regularizers.mcDropout")
    else:
        yield Objection(
            "regularizers.mcDropout",
            message="mcDropout samples passes that an exported model does not have",
            remedy="Drop mcDropout",
            kept=True,
        )


@rule(
    "R25",
    "error",
    message="stochasticDepth skips residual blocks, and the architecture has fewer than four",
    remedy="Use resnet, tabularTransformer or mlp with residual: true and at least four blocks, or drop stochasticDepth",
)
def nothing_to_skip(subject: Subject) -> Objections:
    """Not for shallow models. A custom architecture is looked at by the trainer."""
    torch = subject.engine.torch
    if subject.regularizers.stochastic_depth is None or torch is None:
        return
    architecture = torch.architecture
    depth = FEW_BLOCKS
    if architecture.mlp is not None:
        widths = architecture.mlp.hidden
        equal = sum(a == b for a, b in pairwise(widths))
        depth = equal if architecture.mlp.residual else 0
    elif architecture.cnn is not None:
        depth = 0
    elif architecture.resnet is not None:
        depth = sum(architecture.resnet.blocks)
    elif (transformer := architecture.tabular_transformer or architecture.token_transformer) is not None:
        depth = 2 * transformer.depth
    if depth < FEW_BLOCKS:
        yield Objection("regularizers.stochasticDepth")


@rule(
    "R28",
    "error",
    message="early stopping may end training before what moves has stopped moving",
    remedy="Raise earlyStopping.patience, or let the schedule end earlier",
)
def patience_outlasts_schedules(subject: Subject) -> Objections:
    """Stopping inside the warm-up keeps an untrained model (error); stopping inside an annealing keeps weights of another objective."""
    stopping, torch = subject.regularizers.early_stopping, subject.engine.torch
    if stopping is None or torch is None:
        return
    patience, field = stopping.patience, "regularizers.earlyStopping.patience"
    warm_up = torch.schedule.cosine.warmup * torch.epochs if torch.schedule and torch.schedule.cosine else 0.0
    if patience < warm_up:
        yield Objection(
            field,
            message=f"earlyStopping.patience is {patience} epochs, but the learning rate warms up for {warm_up:.0f}",
            remedy=f"Set patience to {math.ceil(warm_up)} or more",
        )
    for name, end in _schedule_ends(subject):
        if patience < (epochs := round(end * torch.epochs)):
            yield Objection(
                field,
                level="warning",
                message=f"earlyStopping.patience is {patience} epochs, but {name} moves until epoch {epochs}",
                remedy=f"Set patience to {epochs} or more, or let the schedule end at {patience / torch.epochs:.2g}",
            )
    averaging = subject.regularizers.weight_averaging
    if averaging is not None and averaging.kind == "swa":
        yield Objection(
            "regularizers.weightAveraging.kind",
            level="warning",
            message="swa averages the last quarter, which early stopping may never reach",
            remedy="Use weightAveraging.kind: ema, or drop earlyStopping",
        )


SHARES: Final = {
    "dropout": "p",
    "dropConnect": "p",
    "stochasticDepth": "p",
    "labelSmoothing": "epsilon",
    "adversarial": "mix",
    "distillation": "alpha",
}
"""Blocks whose schedule moves a chance or a share, and its field."""


@rule(
    "R42",
    "error",
    message="the schedule takes a chance or a share beyond the range of its field",
    remedy="Lower schedule.to and schedule.from, or the field",
)
def schedules_stay_in_range(subject: Subject) -> Objections:
    """Factors may be as large as 100, for strengths that have no end; a chance above 1 is none: masks would be undefined or negative.
    adversarial.mix is a weight with trades, so it may be any.
    """
    for name, block in subject.regularizers.declared():
        schedule, field = getattr(block, "schedule", None), SHARES.get(name)
        if schedule is None or field is None or getattr(block, "attack", None) == "trades":
            continue
        most = max(getattr(one, "le", 0.0) for one in type(block).model_fields[field].metadata)
        factor = schedule.to if schedule.kind == "constant" else max(schedule.to, schedule.from_)
        if (reached := getattr(block, field) * factor) > most * (1 + 1e-9):
            yield Objection(
                f"regularizers.{name}.schedule",
                message=f"the schedule takes {name}.{field} to {reached:.3g}, and {most:g} is the most",
                remedy=f"Keep schedule.to and schedule.from at {most / getattr(block, field):.3g} or less, or lower {field}",
            )


def _schedule_ends(subject: Subject) -> Iterator[tuple[str, float]]:
    for name, block in subject.regularizers.declared():
        if isinstance(block, Scheduled) and block.schedule is not None and block.schedule.kind != "constant":
            yield f"regularizers.{name}.schedule", block.schedule.end


@rule(
    "R32",
    "error",
    message="calibration needs data that nothing else has seen, and none is held back",
    remedy="Set data.split.calibration: 0.1, so that calibration does not overlap training, stopping or gates",
)
def calibration_overlap(subject: Subject) -> Objections:
    """split: validation is refused when that part also stops training or chooses trials."""
    blocks = subject.regularizers
    if blocks.calibration is None:
        return
    if blocks.calibration.split == "calibration":
        if subject.data.split.calibration == 0:
            yield Objection("data.split.calibration")
        return
    uses = [
        name
        for name, used in (("earlyStopping", blocks.early_stopping), ("search", subject.search))
        if used is not None
    ]
    if uses:
        yield Objection(
            "regularizers.calibration.split",
            message=f"calibration is fitted on the validation part, which {' and '.join(uses)} used as well",
            remedy="Set regularizers.calibration.split: calibration and data.split.calibration: 0.1",
        )


@rule(
    "R34",
    "error",
    message="the augmentation does not fit what the engine sees",
    remedy="Use an image.* policy with cnn or resnet, and a tabular.* policy with the others",
)
def augmentation_fits(subject: Subject) -> Objections:
    """Image policies need to know where pixels are. Shifts of small images may destroy content (-2.9 points on 8x8 digits)."""
    augmentation, torch = subject.regularizers.augmentation, subject.engine.torch
    if augmentation is None or augmentation.policy == "none" or torch is None:
        return
    image = next((net.image for net in (torch.architecture.cnn, torch.architecture.resnet) if net is not None), None)
    if augmentation.policy.startswith("image.") and image is None and torch.architecture.custom is None:
        yield Objection("regularizers.augmentation.policy")
    if augmentation.policy.startswith("tabular.") and image is not None:
        yield Objection("regularizers.augmentation.policy")
    if (
        image is not None
        and min(image[1:]) < SMALL_IMAGE
        and augmentation.policy in {"image.shift", "image.cropFlip", "image.affine"}
    ):
        yield Objection(
            "regularizers.augmentation.policy",
            level="warning",
            message=f"shifting images of {image[1]}x{image[2]} pixels may push content out of the frame",
            remedy="Lower magnitude, and compare with a run without it",
        )


@rule(
    "R38",
    "error",
    message="the engine cannot honour the block, and nothing is ignored silently",
    remedy="Drop the block, or change the engine",
)
def engine_honours(subject: Subject) -> Objections:
    """Against the table of what each engine does in this release; and what XGBoost's own parameters do to blocks."""
    yield from _boosting(subject)
    honoured = supported(subject.engine, subject.task.type)
    if honoured is None:
        return  # the engine itself is not of this release, which is told once
    engine = subject.engine.name
    if subject.engine.sklearn is not None:
        engine += f" {subject.engine.sklearn.estimator}"
        declared = {name for name, _ in subject.regularizers.declared()}
        for name in sorted(SKLEARN_NEEDS.get(subject.engine.sklearn.estimator, frozenset()) - declared):
            yield Objection(
                "engine.sklearn.estimator",
                message=f"{engine} cannot do without {name}: its C is 1/(n strength), and its margins are no probabilities",
                remedy=f"Add regularizers.{name}",
            )
    for name, _ in subject.regularizers.declared():
        if name in honoured:
            continue
        others = able(name, subject.task.type)
        yield Objection(
            f"regularizers.{name}",
            message=f"engine {engine} cannot honour {name}",
            remedy=f"Drop {name}, or use {' or '.join(others)}"
            if others
            else f"Drop {name}; no engine of this release trains it yet",
        )


def _boosting(subject: Subject) -> Objections:
    xgboost, blocks = subject.engine.xgboost, subject.regularizers
    if xgboost is None:
        return
    if blocks.dropout is not None and blocks.dropout.p > 0 and blocks.early_stopping is not None:
        yield Objection(
            "regularizers.earlyStopping",
            level="warning",
            message="dropout is XGBoost's dart, whose validation loss jumps as trees are dropped: patience may end the fit by chance",
            remedy="Raise earlyStopping.patience, or drop one of the two",
        )
    for parameter in xgboost.params:
        if (block := XGBOOST_OWNED.get(parameter)) is not None:
            yield Objection(
                f"engine.xgboost.params.{parameter}",
                message=f"{parameter} is what regularizers.{block} sets",
                remedy=f"Declare regularizers.{block} instead",
            )
