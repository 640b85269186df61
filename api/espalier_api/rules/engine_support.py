"""What each engine honours in this release. R38 refuses the rest: a block is never ignored.

A trainer room that implements a block adds its name here in the same change; tests compare these tables with the trainer's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from espalier_api.engines import Engine

TORCH: Final = frozenset(
    {
        "l2",
        "weightDecay",
        "l1",
        "elasticNet",
        "structuredSparsity",
        "reparameterization",
        "spectralNorm",
        "maxMargin",
        "gradientClipping",
        "normalization",
        "stochasticDepth",
        "dropout",
        "dropConnect",
        "mcDropout",
        "augmentation",
        "batchMixing",
        "informationBottleneck",
        "latent",
        "noiseInjection",
        "labelSmoothing",
        "robustLoss",
        "sampleWeighting",
        "classRebalancing",
        "calibrationLoss",
        "fairness",
        "adversarial",
        "privacy",
        "safety",
        "pruning",
        "structuredPruning",
        "weightAveraging",
        "abstention",
        "modelSoup",
        "earlyStopping",
        "calibration",
        "functional",
        "distillation",
        "ewc",
        "trustRegion",
        "bayesian",
        "sparsityPrior",
        "quantization",
    }
)
"""Blocks that engine.torch trains."""

LOOPS: Final = frozenset({"ensemble", "crossValidation", "regularizationPath"})
"""Blocks that decide which fits there are: loops above any engine, in the trainer's folder `selection`."""

DISTRIBUTED: Final = TORCH - {"adversarial", "informationBottleneck", "latent", "privacy", "safety"}
"""Blocks that several processes share so that the fit is that of one process, up to rounding and to noise that each draws for its rows.
The others have forward or backward passes of their own, or remember activations, and each process has its own rows only.
"""

NOT_IN_TRAINING: Final = LOOPS
"""Loops that every process walks in step with the others (a search does not: its trials are shared among pods)."""

KEPT: Final[frozenset[str]] = frozenset(
    {"R1", "R2", "R5", "R8", "R16", "R23", "R24", "R26", "R27", "R31", "R33", "R37"}
)
"""Rules whose `keeps` engine.torch does by itself. What is missing here is refused instead: an automatic rule is a promise.

A trainer room that keeps one of them adds its id in the same change, with a test of it (`proof` takes rule ids as well).
"""

_WEIGHTED: Final = frozenset({"sampleWeighting"})
_CALIBRATED: Final = frozenset({"calibration"}) | _WEIGHTED

_PROBABLE: Final = frozenset({"classRebalancing"}) | _CALIBRATED
_STOPPED: Final = frozenset({"l2", "earlyStopping"})

SKLEARN: Final[dict[tuple[str, str], frozenset[str]]] = {
    ("logisticRegression", "classification"): frozenset({"l2", "l1", "elasticNet"}) | _PROBABLE,
    ("ridge", "regression"): frozenset({"l2"}) | _WEIGHTED,
    ("lasso", "regression"): frozenset({"l1"}) | _WEIGHTED,
    ("elasticNet", "regression"): frozenset({"l1", "l2", "elasticNet"}) | _WEIGHTED,
    ("svc", "classification"): frozenset({"l2"}) | _CALIBRATED,
    ("svr", "regression"): frozenset({"l2"}) | _WEIGHTED,
    ("randomForest", "classification"): _PROBABLE,
    ("randomForest", "regression"): _WEIGHTED,
    ("histGradientBoosting", "classification"): _STOPPED | _PROBABLE,
    ("histGradientBoosting", "regression"): _STOPPED | _WEIGHTED,
    ("mlp", "classification"): _STOPPED | _PROBABLE,
    ("mlp", "regression"): _STOPPED | _WEIGHTED,
}
"""(estimator, task type) -> blocks that engine.sklearn turns into parameters. A pair that is not here cannot be trained."""

SKLEARN_NEEDS: Final[dict[str, frozenset[str]]] = {
    "svc": frozenset({"l2", "calibration"}),
    "svr": frozenset({"l2"}),
}
"""Blocks without which an estimator cannot be trained (C = 1/(n strength)) or served (margins are no probabilities)."""

_BOOSTED: Final = frozenset({"l2", "l1", "elasticNet", "dropout", "earlyStopping"}) | _WEIGHTED
XGBOOST: Final[dict[str, frozenset[str]]] = {
    "classification": _BOOSTED | _PROBABLE,
    "regression": _BOOSTED,
}
"""Task type -> blocks that engine.xgboost turns into parameters."""

XGBOOST_OWNED: Final = {
    **dict.fromkeys(("lambda", "reg_lambda"), "l2"),
    **dict.fromkeys(("alpha", "reg_alpha"), "l1"),
    **dict.fromkeys(("booster", "rate_drop"), "dropout"),
    "scale_pos_weight": "classRebalancing",
    "early_stopping_rounds": "earlyStopping",
}
"""Parameters of XGBoost -> the block that sets them; refused in engine.xgboost.params."""


def supported(engine: Engine, task: str) -> frozenset[str] | None:
    """Blocks that this engine honours for this task; None when it cannot do the task at all in this release."""
    own: frozenset[str] | None = None
    if engine.torch is not None:
        own = TORCH
    if engine.sklearn is not None:
        own = SKLEARN.get((engine.sklearn.estimator, task))
    if engine.xgboost is not None:
        own = XGBOOST.get(task)
    return None if own is None else own | LOOPS


def able(block: str, task: str) -> tuple[str, ...]:
    """Engines that honour a block for a task, as one writes them, e.g. `torch`, `sklearn ridge`."""
    names = ["torch"] if block in TORCH | LOOPS else []
    names += [
        f"sklearn {estimator}"
        for (estimator, kind), blocks in SKLEARN.items()
        if kind == task and block in blocks | LOOPS
    ]
    names += ["xgboost"] if block in XGBOOST.get(task, frozenset()) | LOOPS else []
    return tuple(names)
