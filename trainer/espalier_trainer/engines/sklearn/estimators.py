"""What each block becomes for each estimator. Units are the API's (mean loss + lambda/2 ||w||^2 + lambda ||w||_1), so the table holds the
translation to scikit-learn's sums: Ridge(alpha = n lambda), Lasso(alpha = lambda), LogisticRegression, SVC and SVR(C = 1/(n lambda)).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from espalier_trainer.engines.classical import refuse_foreign, refuse_owned, refuse_rebalancing
from espalier_trainer.errors import InvalidConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from espalier_api.regularizers import Block

Parameters = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a job says: penalties, n (row weights summed) and the spec's params."""

    l1: float
    l2: float
    n: float
    params: Mapping[str, Any]

    @property
    def total(self) -> float:
        """l1 + l2: scikit-learn's overall strength in its elastic-net form."""
        return self.l1 + self.l2


Kind = Literal["linear", "forest", "boosted", "kernel", "network"]


@dataclass(frozen=True, slots=True)
class Estimator:
    """One estimator for one task: its class, the blocks that it honours and what they become for `n` rows (weights summed)."""

    path: str  # module:Class
    kind: Kind
    blocks: frozenset[str]
    parameters: Callable[[Asked], Parameters]
    owned: frozenset[str]  # parameters that blocks or the engine set; refused in `params`
    needs: frozenset[str] = frozenset()  # blocks without which it cannot be trained or served
    seeded: bool = True


def _logistic(asked: Asked) -> Parameters:
    """Without a penalty C is infinite. saga is the solver that knows every mixture; lbfgs is faster for the smooth case."""
    c = 1.0 / (asked.n * asked.total) if asked.total else math.inf
    ratio = asked.l1 / asked.total if asked.total else 0.0
    if ratio == 0.0:
        return {"C": c, "l1_ratio": 0.0, "solver": "lbfgs", "max_iter": 10_000, "tol": 1e-7}
    return {"C": c, "l1_ratio": ratio, "solver": "saga", "max_iter": 10_000, "tol": 1e-6}


def _ridge(asked: Asked) -> Parameters:
    return {"alpha": asked.n * asked.l2}


def _lasso(asked: Asked) -> Parameters:
    """A mean already."""
    return {"alpha": asked.l1, "max_iter": 100_000, "tol": 1e-10}


def _elastic_net(asked: Asked) -> Parameters:
    """A mean already."""
    ratio = asked.l1 / asked.total if asked.total else 0.0
    return {"alpha": asked.total, "l1_ratio": ratio, "max_iter": 100_000, "tol": 1e-10}


def _boosting(asked: Asked) -> Parameters:
    """Boosting sums the loss over rows, so lambda of a mean becomes n lambda. Its own early stopping would split the training rows."""
    return {"l2_regularization": asked.n * asked.l2, "early_stopping": False}


def _machine(asked: Asked) -> Parameters:
    """1/2 ||w||^2 + C sum of losses, divided by C n: lambda = 1/(n C). Without l2 C would be infinite; `needs` refuses that."""
    return {"C": 1.0 / (asked.n * asked.l2) if asked.l2 else 1.0}


def _network(asked: Asked) -> Parameters:
    """A step adds alpha/2 ||w||^2 divided by the rows of its batch (`_compute_loss_grad`): alpha = lambda times those rows.

    The last batch of an epoch may be smaller, and is then penalized more by scikit-learn.
    """
    size = asked.params.get("batch_size", "auto")
    batch = min(200.0 if size == "auto" else float(size), asked.n)
    batch = asked.n if asked.params.get("solver") == "lbfgs" else batch
    return {"alpha": batch * asked.l2, "early_stopping": False}


def _nothing(asked: Asked) -> Parameters:  # noqa: ARG001 - nothing to set
    return {}


_WEIGHTED: Final = frozenset({"sampleWeighting"})
_CALIBRATED: Final = frozenset({"calibration"}) | _WEIGHTED
_PROBABLE: Final = frozenset({"classRebalancing"}) | _CALIBRATED
_STOPPED: Final = frozenset({"l2", "earlyStopping"})
_SEED: Final = frozenset({"random_state"})
_LOGISTIC_OWNED: Final = frozenset({"C", "l1_ratio", "penalty", "solver", "class_weight"}) | _SEED
_BOOSTED_OWNED: Final = _SEED | {
    *("l2_regularization", "early_stopping", "validation_fraction", "n_iter_no_change", "scoring", "warm_start"),
    *("class_weight", "categorical_features"),
}
_MACHINE_OWNED: Final = _SEED | {"C", "class_weight", "probability", "decision_function_shape", "break_ties"}
_NETWORK_OWNED: Final = _SEED | {"alpha", "early_stopping", "validation_fraction", "warm_start"}

ESTIMATORS: Final[dict[tuple[str, str], Estimator]] = {
    ("logisticRegression", "classification"): Estimator(
        "sklearn.linear_model:LogisticRegression",
        "linear",
        frozenset({"l2", "l1", "elasticNet"}) | _PROBABLE,
        _logistic,
        _LOGISTIC_OWNED,
    ),
    ("ridge", "regression"): Estimator(
        "sklearn.linear_model:Ridge", "linear", frozenset({"l2"}) | _WEIGHTED, _ridge, frozenset({"alpha"}) | _SEED
    ),
    ("lasso", "regression"): Estimator(
        "sklearn.linear_model:Lasso", "linear", frozenset({"l1"}) | _WEIGHTED, _lasso, frozenset({"alpha"}) | _SEED
    ),
    ("elasticNet", "regression"): Estimator(
        "sklearn.linear_model:ElasticNet",
        "linear",
        frozenset({"l1", "l2", "elasticNet"}) | _WEIGHTED,
        _elastic_net,
        frozenset({"alpha", "l1_ratio"}) | _SEED,
    ),
    ("svc", "classification"): Estimator(
        "sklearn.svm:SVC",
        "kernel",
        frozenset({"l2"}) | _CALIBRATED,
        _machine,
        _MACHINE_OWNED,
        needs=frozenset({"l2", "calibration"}),
        seeded=False,
    ),
    ("svr", "regression"): Estimator(
        "sklearn.svm:SVR",
        "kernel",
        frozenset({"l2"}) | _WEIGHTED,
        _machine,
        _MACHINE_OWNED,
        needs=frozenset({"l2"}),
        seeded=False,
    ),
    ("randomForest", "classification"): Estimator(
        "sklearn.ensemble:RandomForestClassifier", "forest", _PROBABLE, _nothing, frozenset({"class_weight"}) | _SEED
    ),
    ("randomForest", "regression"): Estimator(
        "sklearn.ensemble:RandomForestRegressor", "forest", _WEIGHTED, _nothing, _SEED
    ),
    ("histGradientBoosting", "classification"): Estimator(
        "sklearn.ensemble:HistGradientBoostingClassifier", "boosted", _STOPPED | _PROBABLE, _boosting, _BOOSTED_OWNED
    ),
    ("histGradientBoosting", "regression"): Estimator(
        "sklearn.ensemble:HistGradientBoostingRegressor", "boosted", _STOPPED | _WEIGHTED, _boosting, _BOOSTED_OWNED
    ),
    ("mlp", "classification"): Estimator(
        "sklearn.neural_network:MLPClassifier", "network", _STOPPED | _PROBABLE, _network, _NETWORK_OWNED
    ),
    ("mlp", "regression"): Estimator(
        "sklearn.neural_network:MLPRegressor", "network", _STOPPED | _WEIGHTED, _network, _NETWORK_OWNED
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


def refuse(name: str, estimator: Estimator, blocks: Mapping[str, Block], params: Mapping[str, Any]) -> None:
    """R38: a block this estimator has no parameter for; a parameter that a block owns; a block that it cannot do without."""
    refuse_foreign(f"engine.sklearn {name}", estimator.blocks, blocks)
    rebalancing: Any = blocks.get("classRebalancing")
    refuse_rebalancing(rebalancing, f"engine.sklearn {name}", adjusts=False)
    refuse_owned("sklearn", estimator.owned, params)
    why = {
        "l2": "its strength is C = 1/(n strength), and without it C is infinite; add regularizers.l2",
        "calibration": "its margins become probabilities only by a fitted temperature; add regularizers.calibration",
    }
    for block in sorted(estimator.needs - set(blocks)):
        raise InvalidConfigError(f"R38: engine.sklearn.estimator: {name} needs {block}: {why[block]}")
    if params.get("solver") == "lbfgs" and "earlyStopping" in blocks:
        raise InvalidConfigError(
            "R38: regularizers.earlyStopping: solver lbfgs has no epochs to stop at; use adam or sgd, or remove the block"
        )
