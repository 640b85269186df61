"""Point values of a fit on judged rows, and its size: what trials are ranked by, folds averaged over. Raw scores, before calibration."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.evaluation import metrics
from espalier_trainer.evaluation.calibration import softmax

if TYPE_CHECKING:
    import numpy.typing as npt

    from espalier_trainer.data.dataset import Dataset
    from espalier_trainer.engines import Fitted
    from espalier_trainer.preprocessing import Preprocessor

BINARY = 2


def values(fitted: Fitted, rows: Dataset, preprocessor: Preprocessor, positive: int | None) -> dict[str, float]:
    """Everything that can be measured on `rows`, by the API's names; valLoss is the plain loss, its `standardError` that of its mean."""
    scores = fitted.scores(preprocessor.apply(rows.x))
    losses = metrics.row_losses(scores, preprocessor.target(rows.y))
    weight = np.ones(len(rows)) if rows.weight is None else rows.weight
    told = {
        "valLoss": float(np.average(losses, weights=weight)),
        "standardError": float(losses.std(ddof=1) / np.sqrt(len(losses))) if len(losses) > 1 else 0.0,
    }
    if rows.classes:
        return told | _classes(softmax(scores), rows.y, weight, positive)
    predicted = preprocessor.value(scores)
    error = float(np.average((predicted - rows.y) ** 2, weights=weight))
    spread = float(np.average((rows.y - np.average(rows.y, weights=weight)) ** 2, weights=weight))
    return told | {"rmse": error**0.5} | ({"r2": 1 - error / spread} if spread > 0 else {})


def _classes(
    p: npt.NDArray[np.float64], y: npt.NDArray[Any], weight: npt.NDArray[np.float64], positive: int | None
) -> dict[str, float]:
    k, predicted = p.shape[1], p.argmax(axis=1)
    confusion = metrics.confusion_measures(y, predicted, weight, k, positive)
    told = {"accuracy": float(np.average(predicted == y, weights=weight))}
    told |= {name: confusion[name] for name in ("balancedAccuracy", "f1")}
    if k == BINARY and len(np.unique(y)) == BINARY:
        one = 1 if positive is None else positive
        told["auroc"] = metrics.auroc(p[:, one], y == one, weight)
    return told


def sizes(fitted: Fitted, preprocessor: Preprocessor, classes: int, asked: str) -> dict[str, float]:
    """How large a fit is: numbers in its weights, those that are not zero, and bytes of its graph with the weights beside it.

    The graph is made only when `artifactBytes` is asked for. Trees have no weights and are told by their bytes alone.
    """
    weights = [value for value in fitted.weights().values() if value.dtype.kind == "f"]
    told: dict[str, float] = {}
    if weights:
        told["parameters"] = float(sum(value.size for value in weights))
        told["nonzeroParameters"] = float(sum(int((value != 0).sum()) for value in weights))
    if asked == "artifactBytes":
        graph = import_module("espalier_trainer.export.package").served_graph
        told[asked] = float(len(graph(fitted, preprocessor, classes, 1.0, ())) + sum(value.nbytes for value in weights))
    return told


def one(name: str, told: dict[str, float], field: str = "search.objective.metric") -> float:
    """The metric that the job's `field` asks for. InvalidConfigError when these rows or this engine have none of that name."""
    if name not in told:
        known = ", ".join(sorted(set(told) - {"standardError"}))
        raise InvalidConfigError(f"{field}: {name} cannot be measured on this task's rows; use one of {known}")
    return told[name]
