"""What engines without gradients of ours share: declared penalties as numbers, class weights with the way back, plain losses, R38."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from espalier_trainer.engines import Contribution, FitData
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.protocol import EpochReport, PlanContext, Regularizer, lookup

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from espalier_api.regularizers import Block
    from espalier_api.regularizers.objective import ClassRebalancing

SHARED: Final = frozenset(
    {"calibration", "sampleWeighting", "earlyStopping"}
)  # their own files act outside the library


@dataclass(frozen=True, slots=True)
class Penalties:
    """The declared penalties as lambdas of ||w||_1 and ||w||^2 / 2, in the API's unit: beside a mean data loss."""

    l1: float = 0.0
    l2: float = 0.0

    @classmethod
    def of(cls, blocks: Mapping[str, Any]) -> Penalties:
        """From the blocks l1, l2 and elasticNet, which add up."""
        l1 = blocks["l1"].strength if "l1" in blocks else 0.0
        l2 = blocks["l2"].strength if "l2" in blocks else 0.0
        if "elasticNet" in blocks:
            both = blocks["elasticNet"]
            l1, l2 = l1 + both.strength * both.l1_ratio, l2 + both.strength * (1 - both.l1_ratio)
        return cls(l1, l2)

    def contributions(
        self, blocks: Mapping[str, Any], loss: float, norm1: float, norm2: float
    ) -> dict[str, Contribution]:
        """Of the declared penalties at a solution with mean data loss `loss`, ||w||_1 = `norm1` and ||w||^2 / 2 = `norm2`."""
        values: dict[str, tuple[float, float]] = {}
        if "l1" in blocks:
            values["l1"] = (blocks["l1"].strength, norm1)
        if "l2" in blocks:
            values["l2"] = (blocks["l2"].strength, norm2)
        if "elasticNet" in blocks:
            ratio = blocks["elasticNet"].l1_ratio
            values["elasticNet"] = (blocks["elasticNet"].strength, ratio * norm1 + (1 - ratio) * norm2)
        objective = loss + sum(strength * value for strength, value in values.values())
        return {
            name: Contribution(strength, value, strength * value, strength * value / objective if objective else None)
            for name, (strength, value) in values.items()
        }


# --- rebalancing ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Rebalancing:
    """classRebalancing as weights of rows and two shifts of log odds, each (classes,).

    A classifier that is fitted with class weights w estimates p'(c|x) ~ w_c p(c|x) (Elkan 2001), so adding -log w to its logits gives
    back the true prior. Logit adjustment (Menon et al. 2021, eq. 10) trains softmax(f + tau log prior) instead: there `margin`
    is added while training and f alone is the balanced model.
    """

    weights: npt.NDArray[np.float64]  # of each class; their mean over training rows is 1
    margin: npt.NDArray[np.float64]  # added to the logits in training only
    shift: npt.NDArray[np.float64]  # added to the logits that are served

    @classmethod
    def of(cls, config: ClassRebalancing | None, data: FitData) -> Rebalancing:
        """For these training rows; without the block all classes weigh 1 and nothing is shifted."""
        classes = max(data.classes, 1)
        none = np.zeros(classes)
        if config is None:
            return cls(np.ones(classes), none, none)
        counts = np.bincount(data.train.y, minlength=classes).astype(np.float64)
        if not counts.all():
            raise InvalidConfigError(
                f"regularizers.classRebalancing: training rows per class are {counts.astype(int).tolist()}, and a class without rows "
                "has no weight; drop it from task.classes or add rows"
            )
        prior = counts / counts.sum()
        if config.method == "logitAdjustment":
            margin = config.tau * np.log(prior)
            return cls(np.ones(classes), margin, margin if config.prior_correction else none)
        weights = class_weights(config.method, counts) ** config.tau
        weights = np.asarray(weights / (weights * prior).sum())
        return cls(weights, none, -np.log(weights) if config.prior_correction else none)

    def rows(self, data: FitData) -> npt.NDArray[np.float64] | None:
        """Weights of the training rows (rows,), sample weights included; None when all are 1."""
        if not data.classes or bool((self.weights == 1.0).all()):
            return data.train.weight
        weight: npt.NDArray[np.float64] = self.weights[data.train.y]
        return weight if data.train.weight is None else weight * data.train.weight


def class_weights(method: str, counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Unnormalized weights (classes,) from class counts (classes,): 1/count, or 1 / effective number (Cui et al. 2019, eq. 2) with
    beta = (N - 1)/N for N training rows.
    """
    if method == "inverse":
        return 1.0 / counts
    beta = 1.0 - 1.0 / max(float(counts.sum()), 2.0)
    return np.asarray((1.0 - beta) / -np.expm1(counts * np.log(beta)))


def refuse_rebalancing(config: ClassRebalancing | None, engine: str, *, adjusts: bool) -> None:
    """R38 for methods of classRebalancing: these libraries weigh rows, and only some take a margin per row."""
    if config is None:
        return
    methods = {"inverse", "effectiveNumber"} | ({"logitAdjustment"} if adjusts else set())
    if config.method not in methods:
        raise InvalidConfigError(
            f"R38: regularizers.classRebalancing.method: {engine} cannot do {config.method}; it weighs rows: use "
            f"{' or '.join(sorted(methods))}"
        )


# --- losses -----------------------------------------------------------------------------------------------------------
def mean_loss(scores: npt.NDArray[np.float64], y: npt.NDArray[Any]) -> float:
    """Cross-entropy of logits (rows, classes), or half the squared error of values (rows, 1): the API's data loss."""
    if scores.shape[1] == 1:
        return float(0.5 * ((scores[:, 0] - y) ** 2).mean())
    shifted = scores - scores.max(axis=1, keepdims=True)
    return float((np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(y)), y]).mean())


def report(epoch: int, scores: npt.NDArray[np.float64], y: npt.NDArray[Any]) -> EpochReport:
    """What EPOCH blocks judge, from validation scores: the loss above, and accuracy or R2."""
    if scores.shape[1] == 1:
        metric = 1.0 - float(((scores[:, 0] - y) ** 2).mean()) / max(float(np.var(y)), 1e-12)
    else:
        metric = float((scores.argmax(axis=1) == y).mean())
    return EpochReport(epoch, mean_loss(scores, y), metric, scores, y)


def binary(z: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Log odds (rows,) as logits (rows, 2): (0, z)."""
    return np.stack([np.zeros_like(z), z], axis=1)


# --- plan -------------------------------------------------------------------------------------------------------------
def plan_shared(blocks: Mapping[str, Block], data: FitData, epochs: int) -> list[Regularizer[Any]]:
    """Instances of the blocks that act outside the library, after their own checks. A fit makes its own of those with state."""
    context = PlanContext(
        regression=not data.classes,
        classes=data.classes,
        features=data.features,
        rows=len(data.train),
        epochs=epochs,
        steps_per_epoch=1,
        optimizer="",
        target_scale=data.target_scale,
        splits=data.splits,
        declared=frozenset(blocks),
    )
    shared = [lookup(name)(config) for name, config in blocks.items() if name in SHARED]
    for block in shared:
        block.plan(context)
    return shared


def stopper(blocks: Mapping[str, Block]) -> Regularizer[Any] | None:
    """A fresh earlyStopping of one fit; None when it is not declared."""
    return lookup("earlyStopping")(blocks["earlyStopping"]) if "earlyStopping" in blocks else None


def refuse_foreign(engine: str, honoured: frozenset[str], blocks: Mapping[str, Block]) -> None:
    """R38: a block that `engine` has nothing for; a refinement of a block that only torch has."""
    for block, config in blocks.items():
        if block not in honoured:
            raise InvalidConfigError(
                f"R38: regularizers.{block}: {engine} has nothing that it could become, and a declared block is never "
                f"ignored; it honours {', '.join(sorted(honoured)) or 'no blocks'}. Remove the block or use engine.torch"
            )
        for field in ("target", "schedule"):
            if getattr(config, field, None) is not None:
                raise InvalidConfigError(
                    f"R38: regularizers.{block}.{field}: {engine} treats all weights alike, all the time; remove the field"
                )
    if blocks.get("l1") is not None and getattr(blocks["l1"], "method", "proximal") != "proximal":
        raise InvalidConfigError(
            "R38: regularizers.l1.method: hadamard is a torch reparameterization; remove the field"
        )


def refuse_owned(engine: str, owned: frozenset[str], params: Mapping[str, Any]) -> None:
    """A parameter that a block, the task or the seed sets."""
    for key in params:
        if key in owned:
            raise InvalidConfigError(
                f"engine.{engine}.params.{key}: this parameter is set from regularizers, the task and the seed; remove it from params"
            )
