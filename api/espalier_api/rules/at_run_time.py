"""The part of a rule that a manifest cannot tell: digests of other models, counts of rows, layers of a custom network, measured numbers.

Pure functions over plain values, called by the trainer once it knows them. Each returns findings like those of the manifest's part;
an `error` among them ends training with exit 42 (InvalidConfig). `CHECKS` lists them by rule.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TypeVar

from espalier_api.rules.rule import Finding, Level

Findings = tuple[Finding, ...]
CHECKS: dict[str, list[Callable[..., Findings]]] = {}
"""Rule id -> its checks at run time."""
FEW_BLOCKS = 4
FEW_PER_GROUP = 8
PARITY = 1e-4
"""R22: largest difference of a score between what was simulated and what is served."""


C = TypeVar("C", bound=Callable[..., Findings])


def _of(rule: str) -> Callable[[C], C]:
    def register(check: C) -> C:
        CHECKS.setdefault(rule, []).append(check)
        return check

    return register


@dataclass(frozen=True, slots=True)
class Facts:
    """What is recorded of a fitted model and must agree before another one leans on it. Empty digests are unknown and disagree."""

    classes: tuple[str, ...] = ()
    """In the order of the outputs; empty for a regression."""
    features: tuple[str, ...] = ()
    """In the order of the inputs."""
    preprocessing: str = ""
    """Digest of preprocessing.json."""
    architecture: str = ""
    """Digest of the network's description."""
    initialization: str = ""
    """Digest of the weights before the first step."""
    label_smoothing: float = 0.0
    """labelSmoothing.epsilon it was trained with."""
    private: bool = False
    """It was trained with the block privacy."""


@_of("R1")
def check_private_layers(layers: Mapping[str, str]) -> Findings:
    """{module name: class name} of the network that privacy trains: no batch norm may be left in it."""
    return tuple(
        _found(
            "R1",
            "error",
            "engine.torch.architecture",
            f"{name} is {kind}, which mixes the examples of a batch",
            "Use GroupNorm in the custom architecture, or drop privacy",
        )
        for name, kind in layers.items()
        if "BatchNorm" in kind
    )


@_of("R2")
def check_penalty_paths(in_the_loss: Collection[str]) -> Findings:
    """Names of blocks whose penalty of weights is part of the differentiated loss while privacy is on: DP-SGD would drop it."""
    return tuple(
        _found(
            "R2",
            "error",
            f"regularizers.{name}",
            f"the penalty of {name} goes through the loss, where DP-SGD drops it",
            f"Drop {name} or privacy",
        )
        for name in in_the_loss
    )


@_of("R5")
def check_private_reference(block: str, reference: Facts) -> Findings:
    """A teacher, prior, Fisher or candidate for a model with privacy must have been trained with privacy itself."""
    if reference.private:
        return ()
    return (
        _found(
            "R5",
            "error",
            f"regularizers.{block}",
            f"the model that {block} refers to was trained without privacy",
            "Refer to a version that was trained with privacy, or drop one of the two",
        ),
    )


@_of("R10")
def check_teacher(reference: Facts) -> Findings:
    """A teacher that was trained with labelSmoothing has forgotten what classes have in common (Mueller et al. 2019)."""
    if reference.label_smoothing == 0:
        return ()
    return (
        _found(
            "R10",
            "error",
            "regularizers.distillation.teacher",
            f"the teacher was trained with labelSmoothing.epsilon {reference.label_smoothing:g} and has little left to teach",
            "Train a teacher without labelSmoothing, or refer to an older version",
        ),
    )


@_of("R17")
def check_bound_after_rounding(bound: float, sigmas: Mapping[str, float]) -> Findings:
    """{layer: largest singular value after quantization} against spectralNorm.bound."""
    return tuple(
        _found(
            "R17",
            "warning",
            "regularizers.spectralNorm.bound",
            f"sigma of {layer} is {sigma:.3g} after quantization, above {bound:g}",
            f"Lower spectralNorm.bound to {bound * bound / sigma:.2g}, or use more bits",
        )
        for layer, sigma in sigmas.items()
        if sigma > bound
    )


@_of("R22")
def check_ranges(wanted: int, rows: int) -> Findings:
    """Static quantization needs as many rows as it was told to set the ranges by."""
    if rows >= wanted:
        return ()
    return (
        _found(
            "R22",
            "error",
            "regularizers.quantization.calibrationSamples",
            f"{wanted} rows are to set the ranges, and there are {rows}",
            f"Set calibrationSamples to {rows} or less, or use mode dynamic" if rows else "Use mode dynamic",
        ),
    )


@_of("R22")
def check_simulation(difference: float, bound: float = PARITY) -> Findings:
    """Largest difference of a score between the simulated rounding and the served runtime (S1); NaN is a difference."""
    if difference <= bound:
        return ()
    return (
        _found(
            "R22",
            "error",
            "regularizers.quantization",
            f"the served runtime differs from the simulated rounding by {difference:.2e}",
            "Use bits: 8 with perChannel as the runtime supports it, or mode static",
        ),
    )


@_of("R23")
def check_average_window(decay: float, steps: int) -> Findings:
    """An exponential average must have forgotten the weights from before the rounding: `steps` of training with it are left."""
    if steps * (1 - decay) >= 1:
        return ()
    return (
        _found(
            "R23",
            "error",
            "regularizers.weightAveraging.decay",
            f"the average looks back on {1 / (1 - decay):.0f} steps, but weights are rounded in the last {steps} only",
            "Lower weightAveraging.decay, or quantization.startEpoch",
        ),
    )


@_of("R25")
def check_residual_blocks(blocks: int) -> Findings:
    """Residual blocks that were found in the network, a custom one included."""
    if blocks >= FEW_BLOCKS:
        return ()
    return (
        _found(
            "R25",
            "error",
            "regularizers.stochasticDepth",
            f"the network has {blocks} residual blocks, and {FEW_BLOCKS} are due",
            "Use a deeper network, or drop stochasticDepth",
        ),
    )


@_of("R27")
def check_soup(members: Mapping[str, Facts]) -> Findings:
    """{candidate: facts}: all must agree in what makes weights comparable."""
    names = list(members)
    parts = ("architecture", "initialization", "classes", "features", "preprocessing")
    return tuple(
        _found(
            "R27",
            "error",
            "regularizers.modelSoup.candidates",
            f"{other} and {names[0]} differ in {_listed(unlike)}",
            "Name fits of one specification and one initialization, or use ensemble",
        )
        for other in names[1:]
        if (unlike := [part for part in parts if _differ(members[names[0]], members[other], part)])
    )


@_of("R32")
def check_disjoint(parts: Mapping[str, Iterable[int]]) -> Findings:
    """{part of the data: its rows}: no row may be in two of them."""
    rows = {name: frozenset(each) for name, each in parts.items()}
    return tuple(
        _found(
            "R32",
            "error",
            "data.split",
            f"{one} and {other} share {len(rows[one] & rows[other])} rows",
            "Give the data a column that tells its groups apart, or another split.seed",
        )
        for one, other in combinations(rows, 2)
        if rows[one] & rows[other]
    )


@_of("R33")
def check_reference(block: str, reference: Facts | None, own: Facts, *, weights: bool) -> Findings:
    """A reference must exist, answer the same question, and, where `weights` and not scores are compared, see the same inputs.

    Scores come from the reference's own graph with its own preprocessing, so for them that may differ (a newer snapshot has other moments).
    """
    field = f"regularizers.{block}"
    if reference is None:
        return (
            _found(
                "R33",
                "error",
                field,
                f"the model that {block} refers to has no version to read",
                "Name a model with a published version, or drop the block until there is one",
            ),
        )
    parts = ("classes", "features") + (("preprocessing", "architecture") if weights else ())
    if unlike := [part for part in parts if _differ(reference, own, part)]:
        return (
            _found(
                "R33",
                "error",
                field,
                f"the model that {block} refers to differs from this one in {_listed(unlike)}",
                "Refer to a version that was fitted to the same columns and classes",
            ),
        )
    return ()


@_of("R36")
def check_group_batch(batch: int, shares: Mapping[str, float]) -> Findings:
    """{group: share of the training rows, 0-1} for a batch of one process."""
    return tuple(
        _found(
            "R36",
            "warning",
            "regularizers.fairness",
            f"group {name} has {batch * share:.1f} examples in a step of {batch}, and {FEW_PER_GROUP} are due",
            f"Raise engine.torch.batchSize to {-int(-FEW_PER_GROUP // share)} or more"
            if share > 0
            else "Leave the group out",
        )
        for name, share in shares.items()
        if batch * share < FEW_PER_GROUP
    )


def _differ(one: Facts, other: Facts, part: str) -> bool:
    """Digests that are not recorded are no agreement; no classes are what two regressions have in common."""
    left, right = getattr(one, part), getattr(other, part)
    return bool(left != right or (isinstance(left, str) and not left))


def _listed(words: list[str]) -> str:
    return " and ".join(words)


def _found(rule: str, level: Level, field: str, message: str, remedy: str) -> Finding:
    return Finding(rule, level, field, message, remedy)
