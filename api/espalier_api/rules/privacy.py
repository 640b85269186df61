"""Rules about differential privacy: what has no gradient per example, what bypasses the noise, what leaks outside the budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

from espalier_api.regularizers import Normalization, Regularizers
from espalier_api.rules.rule import Objection, Objections, Subject, rule

if TYPE_CHECKING:
    from collections.abc import Iterator

PENALTIES = ("l2", "weightDecay", "l1", "elasticNet", "structuredSparsity", "ewc")
"""Terms of the weights alone, which the engine adds to the gradient or the step and never to the loss."""


@rule(
    "R1",
    "automatic",
    message="batch norm mixes the examples whose gradients privacy must tell apart",
    remedy="Use normalization.kind: group, or drop privacy",
    keeps="groups take the place of batches in every normalization layer",
)
def private_batch_norm(subject: Subject) -> Objections:
    """DP-SGD bounds what one example does; with batch norm each example's output depends on all others (Opacus refuses it too).
    Batch norm inside a custom architecture is found at run time.
    """
    blocks = subject.regularizers
    if blocks.privacy is not None and blocks.normalization is not None and blocks.normalization.kind == "batch":
        yield Objection("regularizers.normalization.kind", kept=True)


def private_normalization(blocks: Regularizers) -> Regularizers:
    """What the engine trains instead (R1): group norm in place of batch norm under privacy; everything else as declared."""
    normalization = blocks.normalization
    if blocks.privacy is None or normalization is None or normalization.kind != "batch":
        return blocks
    changed = Normalization.model_validate(normalization.model_dump() | {"kind": "group"})
    return blocks.model_copy(update={"normalization": changed})


@rule(
    "R2",
    "error",
    message="DP-SGD overwrites the gradient with noisy per-example sums, so a penalty inside the loss would be dropped in silence",
    remedy="Drop the penalty, or privacy",
    keeps="penalties of weights are added after the noise, where they cost no budget",
)
def private_penalties(subject: Subject) -> Objections:
    """Measured with Opacus: .grad had norm 37.1, the applied step 0.64. Penalties of weights do not depend on data, so adding them
    after the noise is safe; those that go through the loss cannot be added there.
    """
    blocks = subject.regularizers
    if blocks.privacy is None:
        return
    added = [name for name, _ in blocks.declared() if name in PENALTIES]
    if blocks.spectral_norm is not None and blocks.spectral_norm.mode == "penalty":
        added.append("spectralNorm")
    if blocks.functional is not None and blocks.functional.kind == "l2sp":
        added.append("functional")
    yield from (Objection(f"regularizers.{name}", kept=True) for name in added)
    if blocks.sparsity_prior is not None:
        yield Objection("regularizers.sparsityPrior")


@rule(
    "R3",
    "error",
    message="privacy needs the gradient of each example, and this block mixes examples",
    remedy="Remove the block, or privacy",
)
def privacy_per_example(subject: Subject) -> Objections:
    """DP-SGD clips per-example gradients; terms over pairs, groups or batches have none."""
    blocks = subject.regularizers
    if blocks.privacy is None:
        return
    mixing = {
        "batchMixing": blocks.batch_mixing is not None,
        "fairness": blocks.fairness is not None,
        "latent.kind": blocks.latent is not None and blocks.latent.kind in {"centre", "varianceCovariance"},
        "calibrationLoss.kind": blocks.calibration_loss is not None and blocks.calibration_loss.kind == "mmce",
    }
    for name in (name for name, mixes in mixing.items() if mixes):
        block = name.partition(".")[0]
        yield Objection(
            f"regularizers.{name}", message=f"privacy needs the gradient of each example, and {block} mixes examples"
        )


@rule(
    "R4",
    "error",
    message="per-example gradients are not defined through a parametrized weight",
    remedy="Drop the block, or privacy",
)
def private_parametrizations(subject: Subject) -> Objections:
    """Per-example gradients come from a layer's input and its output's gradient; a weight that is computed has neither (measured:
    NotImplementedError in Opacus).
    """
    blocks = subject.regularizers
    if blocks.privacy is not None:
        yield from (
            Objection(f"regularizers.{name}", message=f"per-example gradients are not defined through {words}")
            for name, words in parametrized(blocks)
        )


def parametrized(blocks: Regularizers) -> Iterator[tuple[str, str]]:
    """(block, what it does) of every block that computes a weight from others in each forward pass."""
    if blocks.spectral_norm is not None and blocks.spectral_norm.mode == "bound":
        yield "spectralNorm", "weights that spectralNorm rescales"
    if blocks.reparameterization is not None:
        yield "reparameterization", f"the {blocks.reparameterization.kind} reparameterization"
    if blocks.l1 is not None and blocks.l1.method == "hadamard":
        yield "l1", "weights that l1.method hadamard writes as products"
    if blocks.drop_connect is not None:
        yield "dropConnect", "weights that dropConnect drops"
    if blocks.quantization is not None and blocks.quantization.mode == "qat":
        yield "quantization", "weights that quantization.mode qat rounds"


@rule(
    "R5",
    "error",
    message="what another model learned without privacy, and what is fitted without noise, is outside of the budget",
    remedy="Use a reference that was trained with privacy on its own data, or drop one of the two",
    keeps="a reference that was not trained with privacy ends training before it is looked at (exit 42)",
)
def budget_leaks(subject: Subject) -> Objections:
    """A teacher, prior or Fisher without privacy refuses (known when its version is resolved); what looks at the private rows once
    more without noise, or fits them again, is asked about.
    """
    blocks = subject.regularizers
    if blocks.privacy is None:
        return
    for name in ("distillation", "functional", "ewc", "trustRegion", "modelSoup"):
        if name in dict(blocks.declared()):
            yield Objection(
                f"regularizers.{name}",
                message=f"{name} tells about the data of another model, which privacy does not cover",
                kept=True,
            )
    looks = {
        "classRebalancing": "counts the classes of private rows without noise",
        "calibration": "is fitted to private rows without noise",
        "abstention": "is fitted to private rows without noise",
        "earlyStopping": "chooses by private rows without noise",
        "ensemble": "fits the private rows several times, and each fit spends the budget",
        "crossValidation": "fits the private rows several times, and each fit spends the budget",
        "regularizationPath": "fits the private rows several times, and each fit spends the budget",
    }
    remedy = "Give the step data of its own, or state its part of the budget beside epsilon"
    for name, _ in blocks.declared():
        if name in looks:
            yield Objection(f"regularizers.{name}", level="warning", message=f"{name} {looks[name]}", remedy=remedy)
    if subject.search is not None:
        yield Objection(
            "search", level="warning", message="search fits the private rows in every trial, and each spends the budget",
            remedy="Search on public data, or state the budget of all trials",
        )  # fmt: skip


@rule(
    "R6",
    "warning",
    message="privacy bounds each example's gradient already, and gradientClipping cuts the noisy sum once more",
    remedy="Drop gradientClipping and set privacy.maxGradNorm",
)
def clipped_twice(subject: Subject) -> Objections:
    """The noise is sized for maxGradNorm; a second bound shrinks signal and noise alike."""
    if subject.regularizers.privacy is not None and subject.regularizers.gradient_clipping is not None:
        yield Objection("regularizers.gradientClipping")


@rule(
    "R37",
    "error",
    message="rows of private data would leave the training pod beside the model",
    remedy="Drop privacy, or use an engine that ships none",
    keeps="the artifact carries no row: golden inputs are drawn at random, and no failing input is logged",
)
def rows_leave(subject: Subject) -> Objections:
    """X21 of the guide: a private model whose artifact or log holds examples is not private. The audit of labels looks at single rows,
    a report of drift at their distributions. Curves of losses are told to trackers: like metrics, they are outside of the budget.
    """
    if subject.regularizers.privacy is None:
        return
    yield Objection("regularizers.privacy", kept=True)
    if subject.data.label_column_noise_audit:
        yield Objection(
            "data.labelColumnNoiseAudit",
            message="the audit looks at single private labels without noise and reports on them",
            remedy="Set data.labelColumnNoiseAudit: false, or drop privacy",
        )
    if subject.data.preprocessing is not None and subject.data.preprocessing.categories is not None:
        yield Objection(
            "data.preprocessing.categories",
            message="the vocabulary lists values of private rows, rare ones too, and the graph and the manifest would hold it",
            remedy="Encode the columns before the snapshot, by a vocabulary that is public",
        )
    if subject.data.preprocessing is not None and subject.data.preprocessing.scaling == "minMax":
        yield Objection(
            "data.preprocessing.scaling",
            message="the least and the largest value of each feature belong to single private rows, and the graph would hold them",
            remedy="Set data.preprocessing.scaling: standard or robust",
        )
    if subject.tracking is not None and subject.tracking.evidently is not None:
        yield Objection(
            "training.tracking.evidently",
            message="the report shows distributions of private rows and labels without noise",
            remedy="Remove training.tracking.evidently, or drop privacy",
        )
