"""Rules about smaller models: pruning, quantization, and what must come before what."""

from __future__ import annotations

from typing import TYPE_CHECKING

from espalier_api.rules.privacy import parametrized
from espalier_api.rules.rule import Objection, Objections, Subject, rule

if TYPE_CHECKING:
    from espalier_api.regularizers import Regularizers

MUCH_SPARSITY = 0.5
FEW_BITS = 3
QAT_START = 0.7
"""quantization.startEpoch when it is absent."""
SWA_START = 0.75
"""weightAveraging.kind swa averages the last quarter."""
OF_SIZE = frozenset({"latencyP95Seconds", "artifactBytes"})


@rule(
    "R16",
    "automatic",
    message="pruning would mask a weight that another block computes anew in each pass",
    remedy="Drop one of the two",
    keeps="masks are applied after spectral and weight norm and before simulated rounding",
)
def masks_in_order(subject: Subject) -> Objections:
    """torch's own pruning fails on parametrized weights (measured: TypeError); a mask before a rescaling would not stay exact."""
    blocks = subject.regularizers
    for name, block in (("pruning", blocks.pruning), ("structuredPruning", blocks.structured_pruning)):
        if block is not None and (others := [other for other, _ in parametrized(blocks)]):
            yield Objection(
                f"regularizers.{name}",
                message=f"{name} masks weights that {' and '.join(others)} compute{'s' * (len(others) == 1)} anew in each pass",
                kept=True,
            )


@rule(
    "R17",
    "warning",
    message="rounding weights loosens the spectral bound (sigma 1.00 became 1.21 at 2 bits)",
    remedy="Lower spectralNorm.bound by a fifth, and read sigma after quantization in metrics.json",
)
def bound_before_rounding(subject: Subject) -> Objections:
    """Measured; how much is known only after quantization, when sigma is compared with the bound once more."""
    blocks = subject.regularizers
    if blocks.quantization is not None and blocks.spectral_norm is not None and blocks.spectral_norm.mode == "bound":
        yield Objection("regularizers.spectralNorm.bound")


@rule(
    "R20",
    "error",
    message="pruning half of the weights or more without fine-tuning loses the model (63.5 % against 95.9 %)",
    remedy="Set fineTuneEpochs to 10 or more",
)
def prune_without_tuning(subject: Subject) -> Objections:
    """X20 of the guide. Pattern 2:4 is a sparsity of one half."""
    pruning, structured = subject.regularizers.pruning, subject.regularizers.structured_pruning
    if pruning is not None and pruning.fine_tune_epochs == 0:
        sparsity = MUCH_SPARSITY if pruning.pattern == "2:4" else pruning.sparsity
        if sparsity >= MUCH_SPARSITY:
            yield Objection("regularizers.pruning.fineTuneEpochs")
    if structured is not None and structured.ratio >= MUCH_SPARSITY and structured.fine_tune_epochs == 0:
        yield Objection("regularizers.structuredPruning.fineTuneEpochs")


@rule(
    "R21",
    "warning",
    message="scattered zeros are stored and multiplied like any other number, so the gate will not see them",
    remedy="Use structuredPruning or quantization for size and latency",
)
def zeros_that_cost(subject: Subject) -> Objections:
    """X4, X15: the served runtime has no sparse kernels. A pattern of 2:4 is for GPUs that have them."""
    blocks = subject.regularizers
    if blocks.pruning is None or blocks.pruning.pattern != "unstructured":
        return
    if blocks.structured_pruning is not None or blocks.quantization is not None:
        return
    for gate in (gate.metric for gate in subject.gates if gate.metric in OF_SIZE):
        yield Objection(
            "regularizers.pruning.pattern",
            message=f"a gate asks for {gate}, and scattered zeros are stored and multiplied like any other number",
        )


@rule(
    "R22",
    "error",
    message="three bits or fewer need quantization-aware training (2 bits: 74.7 % against 96.0 %)",
    remedy="Set quantization.mode: qat, or bits to 4 or more",
)
def few_bits(subject: Subject) -> Objections:
    """Measured; 4 to 8 bits show no gap. That there are rows to set the ranges by, and that the served runtime answers as the
    simulation did (S1), is checked at run time.
    """
    quantization = subject.regularizers.quantization
    if quantization is not None and quantization.bits <= FEW_BITS and quantization.mode != "qat":
        yield Objection("regularizers.quantization.bits")


@rule(
    "R23",
    "error",
    message="the order is: prune, then simulate rounding, then average",
    remedy="Move what comes too early, or drop one of the two",
    keeps="an average of rounded weights copies weights only, and ranges are measured for it anew",
)
def order_of_compression(subject: Subject) -> Objections:
    """Ranges that were learned before the last weight was removed, or an average over both sides of the rounding, fit neither."""
    quantization, averaging = subject.regularizers.quantization, subject.regularizers.weight_averaging
    if quantization is None or quantization.mode != "qat":
        return
    start = QAT_START if quantization.start_epoch is None else quantization.start_epoch
    pruned = _pruned_by(subject.regularizers, subject.engine.torch.epochs if subject.engine.torch else 0)
    if pruned is not None and pruned > start:
        yield Objection(
            "regularizers.quantization.startEpoch",
            message=f"rounding is simulated from {start:g} of training, but weights are removed until {pruned:.2g}",
            remedy=f"Set quantization.startEpoch above {pruned:.2g}, or pruning.fineTuneEpochs higher",
        )
    if averaging is None:
        return
    yield Objection("regularizers.weightAveraging", kept=True)
    if averaging.kind == "swa" and start > SWA_START:
        yield Objection(
            "regularizers.quantization.startEpoch",
            message=f"swa averages from {SWA_START:g} of training, but rounding is simulated only from {start:g}",
            remedy=f"Set quantization.startEpoch to {SWA_START:g} or less, or use weightAveraging.kind: ema",
        )


def _pruned_by(blocks: Regularizers, epochs: int) -> float | None:
    """The part of training after which no more weights are removed; None when none are, or when the fine-tuning is all there is."""
    if blocks.pruning is None or epochs == 0:
        return None
    return max(0.0, 1 - blocks.pruning.fine_tune_epochs / epochs)
