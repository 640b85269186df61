"""Rules about penalties on weights and the optimizer: double counting, void bounds, capacity."""

from __future__ import annotations

from espalier_api.regularizers import Target, Targeted
from espalier_api.rules.rule import Objection, Objections, Subject, rule

FEW_EXAMPLES = 16
"""R15: batch norm over fewer has noisy statistics."""
CAPACITY_BUDGET = 4
"""R35: as many strong restraints of capacity at once are more than a model can bear (F1, F7, X10)."""


def overlap(one: Targeted, other: Targeted) -> bool:
    """True unless the two targets are told apart by include patterns that share nothing."""
    first, second = one.target or Target(), other.target or Target()
    return "*" in first.include or "*" in second.include or bool({*first.include} & {*second.include})


@rule(
    "R7",
    "error",
    message="the same weights are penalized twice",
    remedy="Keep one of the two, or give them targets that do not overlap",
)
def double_penalty(subject: Subject) -> Objections:
    """l2 beside weightDecay, or elasticNet beside l1, l2 or weightDecay, on the same targets."""
    blocks = subject.regularizers
    pairs = (
        ("l2", blocks.l2, "weightDecay", blocks.weight_decay),
        ("elasticNet", blocks.elastic_net, "l1", blocks.l1),
        ("elasticNet", blocks.elastic_net, "l2", blocks.l2),
        ("elasticNet", blocks.elastic_net, "weightDecay", blocks.weight_decay),
    )
    for name, block, other_name, other in pairs:
        if block is None or other is None or not overlap(block, other):
            continue
        yield Objection(
            f"regularizers.{other_name}",
            message=f"{name} and {other_name} both shrink the same weights, which counts twice",
        )


@rule(
    "R8",
    "automatic",
    message="a sparsity penalty reaches exact zeros only by a threshold in the optimizer's own metric",
    remedy="Use sgd",
    keeps="the threshold after a step is that of the step: per element with adam, one per group for groups",
)
def proximal_step(subject: Subject) -> Objections:
    """lr * strength after Adam gives no zeros and an objective 30 % too high (measured). structuredSparsity is a proximal step of our
    own, and only torch has the hook.
    """
    blocks, torch = subject.regularizers, subject.engine.torch
    if torch is None:
        if blocks.structured_sparsity is not None:
            yield Objection(
                "regularizers.structuredSparsity",
                level="error",
                message="structuredSparsity needs a proximal step that this engine does not take",
                remedy="Use engine.torch, or a linear estimator of engine.sklearn with l1",
            )
        return
    if torch.optimizer.sgd is not None:
        return
    sparse = {
        "l1": blocks.l1 is not None and blocks.l1.method == "proximal",
        "elasticNet": blocks.elastic_net is not None and blocks.elastic_net.l1_ratio > 0,
        "structuredSparsity": blocks.structured_sparsity is not None,
    }
    optimizer = "adamw" if torch.optimizer.adamw is not None else "adam"
    for name in (name for name, is_on in sparse.items() if is_on):
        yield Objection(f"regularizers.{name}", message=f"{name} with {optimizer} thresholds in its metric", kept=True)


@rule(
    "R14",
    "warning",
    message="dropout directly before batch norm shifts the variance between training and serving",
    remedy="Use normalization.kind layer or group, or drop one of the two",
)
def dropout_before_batch_norm(subject: Subject) -> Objections:
    """Li et al. 2019: variance shift."""
    blocks = subject.regularizers
    if blocks.dropout is not None and blocks.normalization is not None and blocks.normalization.kind == "batch":
        yield Objection("regularizers.dropout")


@rule(
    "R15",
    "warning",
    message="batch norm with fewer than 16 examples per step has noisy statistics",
    remedy="Raise engine.torch.batchSize to 16 or more, or use normalization.kind group or layer",
)
def small_batch_norm(subject: Subject) -> Objections:
    """Wu and He 2018, figure 1. Each of several processes would have statistics of its own rows; sharing them is not of this release
    (measured: torch's SyncBatchNorm raises on the CPU).
    """
    torch, normalization = subject.engine.torch, subject.regularizers.normalization
    if torch is None or normalization is None or normalization.kind != "batch":
        return
    if torch.batch_size < FEW_EXAMPLES:
        yield Objection("engine.torch.batchSize")
    if subject.processes > 1:
        yield Objection(
            "regularizers.normalization.kind",
            level="error",
            message=f"batch norm over {subject.processes} processes knows the statistics of some rows only",
            remedy="Use normalization.kind group or layer, or train in one process",
        )


@rule(
    "R18",
    "warning",
    message="batch norm rescales what the spectral bound bounds",
    remedy="Use normalization.kind none, or spectralNorm.mode penalty",
)
def bound_before_batch_norm(subject: Subject) -> Objections:
    """A bound on weights that a following scale undoes; with weightDecay it is redundant."""
    blocks = subject.regularizers
    if blocks.spectral_norm is None or blocks.spectral_norm.mode != "bound":
        return
    if blocks.normalization is not None and blocks.normalization.kind == "batch":
        yield Objection("regularizers.spectralNorm")
    if blocks.weight_decay is not None:
        yield Objection(
            "regularizers.weightDecay",
            message="weightDecay beside a spectral bound restrains the same weights again",
            remedy="Drop weightDecay, or use spectralNorm.mode penalty",
        )


@rule(
    "R19",
    "warning",
    message="decay of weights that a normalization follows only changes the effective learning rate",
    remedy="Lower the learning rate instead, or give the penalty a target without normalized layers",
)
def decay_before_norm(subject: Subject) -> Objections:
    """van Laarhoven 2017. Only when every layer is normalized and every layer decays."""
    blocks = subject.regularizers
    if blocks.normalization is None or blocks.normalization.kind == "none":
        return
    for name, block in (("l2", blocks.l2), ("weightDecay", blocks.weight_decay)):
        if block is not None and block.target is None:
            yield Objection(f"regularizers.{name}")


@rule(
    "R26",
    "automatic",
    message="averaged weights make other activations than those that batch norm has counted",
    remedy="Use normalization.kind layer or group, or drop the averaging",
    keeps="batch statistics are measured anew on the training rows for the averaged weights",
)
def statistics_of_the_average(subject: Subject) -> Objections:
    """Izmailov et al. 2018, section 3.2; the same for a soup of several fits."""
    blocks = subject.regularizers
    if blocks.normalization is None or blocks.normalization.kind != "batch":
        return
    for name, block in (("weightAveraging", blocks.weight_averaging), ("modelSoup", blocks.model_soup)):
        if block is not None:
            yield Objection(f"regularizers.{name}", kept=True)


@rule(
    "R35",
    "warning",
    message="four or more strong restraints at once leave the model too little capacity (F1, F7)",
    remedy="Weaken or drop the ones with the smallest contribution, or search over their strengths",
)
def capacity_budget(subject: Subject) -> Objections:
    """Counts dropout above 0.3, decay above 0.1, l1, a spectral bound, sparsity above 0.8."""
    blocks = subject.regularizers
    strong = {
        "dropout": blocks.dropout is not None and blocks.dropout.p > 0.3,  # noqa: PLR2004 - R35's number
        "weightDecay": blocks.weight_decay is not None and blocks.weight_decay.strength > 0.1,  # noqa: PLR2004 - R35's number
        "l1": blocks.l1 is not None or blocks.elastic_net is not None,
        "spectralNorm": blocks.spectral_norm is not None and blocks.spectral_norm.mode == "bound",
        "pruning": blocks.pruning is not None and blocks.pruning.sparsity > 0.8,  # noqa: PLR2004 - R35's number
    }
    active = [name for name, is_strong in strong.items() if is_strong]
    if len(active) >= CAPACITY_BUDGET:
        yield Objection(
            "regularizers", message=f"{', '.join(active)} together leave the model too little capacity (F1, F7)"
        )
