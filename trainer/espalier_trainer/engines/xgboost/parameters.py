"""What each block becomes for XGBoost. The API's unit is a mean loss + lambda/2 ||w||^2 + alpha ||w||_1 over the leaves of a tree;
XGBoost sums the loss over rows (Chen and Guestrin 2016, eq. 2: leaf = -G/(H + lambda)), so both strengths are multiplied by n, the sum of
the row weights. Its own default of lambda = 1 is not kept: without a block nothing is penalized.
"""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import xgboost

from espalier_api.rules.engine_support import XGBOOST_OWNED
from espalier_trainer.engines.classical import Penalties, refuse_foreign, refuse_owned, refuse_rebalancing
from espalier_trainer.errors import InvalidConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from espalier_api.regularizers import Block

_BOTH: Final = frozenset({"l2", "l1", "elasticNet", "dropout", "earlyStopping", "sampleWeighting"})
BLOCKS: Final = {"classification": _BOTH | {"calibration", "classRebalancing"}, "regression": _BOTH}
"""Task type -> blocks that engine.xgboost honours."""

OWNED: Final = frozenset(XGBOOST_OWNED) | {
    *("objective", "num_class", "base_score", "eval_metric", "disable_default_eval_metric"),
    *("num_boost_round", "n_estimators", "seed", "random_state", "seed_per_iteration"),
    *("nthread", "n_jobs", "device", "verbosity", "validate_parameters"),
    *("multi_strategy", "process_type", "updater", "refresh_leaf"),
}
"""Set by blocks, by the task, the seed and the machine, or not in the exported form (vector leaves, updaters of foreign trees)."""

DART: Final = frozenset({"skip_drop", "one_drop", "sample_type", "normalize_type"})
"""Refinements of dropout; XGBoost would ignore them without it, and one_drop would even drop a tree each round."""


def refuse(blocks: Mapping[str, Block], params: Mapping[str, Any], task: str) -> None:
    """R38: every declared block and field has a meaning here, and no parameter says what a block says."""
    refuse_foreign("engine.xgboost", BLOCKS[task], blocks)
    dropout: Any = blocks.get("dropout")
    if dropout is not None and dropout.kind != "element":
        raise InvalidConfigError(
            f"R38: regularizers.dropout.kind: XGBoost drops whole trees (DART), there is no {dropout.kind}; remove the field"
        )
    rebalancing: Any = blocks.get("classRebalancing")
    refuse_rebalancing(rebalancing, "engine.xgboost", adjusts=True)
    if params.get("tree_method") == "gpu_hist" or params.get("device", "cpu") != "cpu":
        raise InvalidConfigError(
            "engine.xgboost.params: the trainer's XGBoost is a CPU build; remove device and gpu_hist"
        )
    refuse_owned("xgboost", OWNED, params)
    for key in sorted(DART & set(params)):
        if dropout is None:
            raise InvalidConfigError(
                f"engine.xgboost.params.{key}: it says how trees are dropped, and nothing drops them; add regularizers.dropout"
            )


def parameters(blocks: Mapping[str, Block], params: Mapping[str, Any], classes: int, n: float) -> dict[str, Any]:
    """XGBoost's parameters for these blocks; `n` is the sum of the row weights, `classes` 0 for a regression."""
    penalties = Penalties.of(blocks)
    found: dict[str, Any] = {
        **params,
        "reg_lambda": n * penalties.l2,
        "reg_alpha": n * penalties.l1,
        "objective": objective(classes),
    }
    if classes > 2:  # noqa: PLR2004 - two classes are one log odds
        found["num_class"] = classes
    dropout: Any = blocks.get("dropout")
    if dropout is not None:
        found |= {"rate_drop": dropout.p} | ({"booster": "dart"} if _dart_is_a_booster() else {})
    rebalancing: Any = blocks.get("classRebalancing")
    if rebalancing is not None and rebalancing.method == "logitAdjustment":
        found["base_score"] = 0.5 if classes == 2 else 0.0  # noqa: PLR2004 - zero log odds; the margin of the rows has the prior
    return found


@cache
def _dart_is_a_booster() -> bool:
    """Until 3.3 DART is a booster of its own; later every tree booster takes rate_drop, and naming `dart` is deprecated."""
    probe = xgboost.DMatrix(np.zeros((2, 1), dtype=np.float32), label=np.zeros(2))
    return "rate_drop" not in _keys(json.loads(xgboost.Booster({"verbosity": 0}, [probe]).save_config()))


def objective(classes: int) -> str:
    """Half squared error, log loss of log odds, or softmax cross-entropy."""
    if not classes:
        return "reg:squarederror"
    return "binary:logistic" if classes == 2 else "multi:softprob"  # noqa: PLR2004 - binary


def refuse_unknown(found: Mapping[str, Any], params: Mapping[str, Any], features: int) -> None:
    """XGBoost only logs that it ignores a parameter. Its own configuration names those that it knows: compare, and refuse the rest."""
    probe = xgboost.DMatrix(np.zeros((2, features), dtype=np.float32), label=np.zeros(2))
    try:
        booster = xgboost.Booster({**found, "verbosity": 0}, [probe])
        known = _keys(json.loads(booster.save_config()))
    except xgboost.core.XGBoostError as error:
        raise InvalidConfigError(f"engine.xgboost.params: {told(error)}") from error
    for key in params:
        if key not in known:
            raise InvalidConfigError(
                f"engine.xgboost.params.{key}: XGBoost {xgboost.__version__} has no such parameter for this booster; remove it"
            )


def told(error: Exception) -> str:
    """The sentence of an XGBoostError, without time, file and stack."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = lines[0] if lines else type(error).__name__
    return first.split(": ", 1)[-1][:300]


def _keys(tree: Any) -> set[str]:  # noqa: ANN401 - a tree of JSON
    if isinstance(tree, dict):
        return {k for k, v in tree.items() if not isinstance(v, dict | list)}.union(*map(_keys, tree.values()))
    return set().union(*map(_keys, tree)) if isinstance(tree, list) else set()
