"""What each block becomes for each estimator. Units are the API's (mean loss + lambda/2 ||w||^2 + lambda ||w||_1), so the table holds the
translation to scikit-learn's sums: Ridge(alpha = n lambda), Lasso(alpha = lambda), LogisticRegression(C = 1/(n lambda)).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from espalier_trainer.errors import InvalidConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from espalier_api.regularizers import Block


@dataclass(frozen=True, slots=True)
class Penalties:
    """The declared penalties as lambdas of ||w||_1 and ||w||^2 / 2."""

    l1: float = 0.0
    l2: float = 0.0

    @classmethod
    def of(cls, blocks: Mapping[str, Any]) -> Penalties:
        """From the blocks l1, l2 and elasticNet."""
        l1 = blocks["l1"].strength if "l1" in blocks else 0.0
        l2 = blocks["l2"].strength if "l2" in blocks else 0.0
        if "elasticNet" in blocks:
            both = blocks["elasticNet"]
            l1, l2 = both.strength * both.l1_ratio, both.strength * (1 - both.l1_ratio)
        return cls(l1, l2)

    @property
    def total(self) -> float:
        """l1 + l2: scikit-learn's overall strength in its elastic-net form."""
        return self.l1 + self.l2


Parameters = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Estimator:
    """One estimator for one task: its class, the blocks that it honours and what they become for `n` rows (weights summed)."""

    path: str  # module:Class
    blocks: frozenset[str]
    parameters: Callable[[Penalties, float], Parameters]
    owned: frozenset[str]  # parameters that blocks or the engine set; refused in `params`
    linear: bool = True
    seeded: bool = True


def _logistic(penalties: Penalties, n: float) -> Parameters:
    """Without a penalty C is infinite. saga is the solver that knows every mixture; lbfgs is faster for the smooth case."""
    c = 1.0 / (n * penalties.total) if penalties.total else math.inf
    ratio = penalties.l1 / penalties.total if penalties.total else 0.0
    if ratio == 0.0:
        return {"C": c, "l1_ratio": 0.0, "solver": "lbfgs", "max_iter": 10_000, "tol": 1e-7}
    return {"C": c, "l1_ratio": ratio, "solver": "saga", "max_iter": 10_000, "tol": 1e-6}


def _ridge(penalties: Penalties, n: float) -> Parameters:
    return {"alpha": n * penalties.l2}


def _lasso(penalties: Penalties, n: float) -> Parameters:  # noqa: ARG001 - a mean already
    return {"alpha": penalties.l1, "max_iter": 100_000, "tol": 1e-10}


def _elastic_net(penalties: Penalties, n: float) -> Parameters:  # noqa: ARG001 - a mean already
    ratio = penalties.l1 / penalties.total if penalties.total else 0.0
    return {"alpha": penalties.total, "l1_ratio": ratio, "max_iter": 100_000, "tol": 1e-10}


def _boosting(penalties: Penalties, n: float) -> Parameters:
    """Boosting sums the loss over rows, so lambda of a mean becomes n lambda; early stopping has a block of its own."""
    return {"l2_regularization": n * penalties.l2, "early_stopping": False}


def _nothing(penalties: Penalties, n: float) -> Parameters:  # noqa: ARG001 - nothing to set
    return {}


_WEIGHTED: Final = frozenset({"sampleWeighting"})
_CALIBRATED: Final = frozenset({"calibration"}) | _WEIGHTED
_LOGISTIC_OWNED: Final = frozenset({"C", "l1_ratio", "penalty", "solver", "random_state", "class_weight"})

ESTIMATORS: Final[dict[tuple[str, str], Estimator]] = {
    ("logisticRegression", "classification"): Estimator(
        "sklearn.linear_model:LogisticRegression",
        frozenset({"l2", "l1", "elasticNet"}) | _CALIBRATED,
        _logistic,
        _LOGISTIC_OWNED,
    ),
    ("ridge", "regression"): Estimator(
        "sklearn.linear_model:Ridge", frozenset({"l2"}) | _WEIGHTED, _ridge, frozenset({"alpha", "random_state"})
    ),
    ("lasso", "regression"): Estimator(
        "sklearn.linear_model:Lasso", frozenset({"l1"}) | _WEIGHTED, _lasso, frozenset({"alpha", "random_state"})
    ),
    ("elasticNet", "regression"): Estimator(
        "sklearn.linear_model:ElasticNet",
        frozenset({"l1", "l2", "elasticNet"}) | _WEIGHTED,
        _elastic_net,
        frozenset({"alpha", "l1_ratio", "random_state"}),
    ),
    ("randomForest", "classification"): Estimator(
        "sklearn.ensemble:RandomForestClassifier",
        _CALIBRATED,
        _nothing,
        frozenset({"random_state", "class_weight"}),
        linear=False,
    ),
    ("randomForest", "regression"): Estimator(
        "sklearn.ensemble:RandomForestRegressor", _WEIGHTED, _nothing, frozenset({"random_state"}), linear=False
    ),
    ("histGradientBoosting", "classification"): Estimator(
        "sklearn.ensemble:HistGradientBoostingClassifier",
        frozenset({"l2"}) | _CALIBRATED,
        _boosting,
        frozenset({"l2_regularization", "early_stopping", "random_state", "class_weight"}),
        linear=False,
    ),
    ("histGradientBoosting", "regression"): Estimator(
        "sklearn.ensemble:HistGradientBoostingRegressor",
        frozenset({"l2"}) | _WEIGHTED,
        _boosting,
        frozenset({"l2_regularization", "early_stopping", "random_state"}),
        linear=False,
    ),
}


def find(name: str, task: str) -> Estimator:
    """The estimator for this task; refused with what there is instead."""
    if (found := ESTIMATORS.get((name, task))) is not None:
        return found
    others = sorted(n for n, t in ESTIMATORS if t == task)
    raise InvalidConfigError(
        f"engine.sklearn.estimator: {name} is not available for task.type {task} in this trainer; use one of {', '.join(others)}"
    )


def refuse_foreign(name: str, estimator: Estimator, blocks: Mapping[str, Block], params: Mapping[str, Any]) -> None:
    """R38: a block this estimator has no parameter for; a parameter that a block owns; a refinement that only torch has."""
    for block, config in blocks.items():
        if block not in estimator.blocks:
            raise InvalidConfigError(
                f"R38: regularizers.{block}: engine.sklearn {name} has nothing that it could become, and a declared block is never "
                f"ignored; it honours {', '.join(sorted(estimator.blocks)) or 'no blocks'}. Remove the block or use engine.torch"
            )
        for field in ("target", "schedule"):
            if getattr(config, field, None) is not None:
                raise InvalidConfigError(
                    f"R38: regularizers.{block}.{field}: scikit-learn penalizes all coefficients alike, all the time; remove the field"
                )
    if blocks.get("l1") is not None and getattr(blocks["l1"], "method", "proximal") != "proximal":
        raise InvalidConfigError(
            "R38: regularizers.l1.method: hadamard is a torch reparameterization; remove the field"
        )
    for key in params:
        if key in estimator.owned:
            raise InvalidConfigError(
                f"engine.sklearn.params.{key}: this parameter is set from regularizers and the seed; remove it from params"
            )
