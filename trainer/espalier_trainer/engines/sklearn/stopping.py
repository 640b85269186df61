"""earlyStopping for estimators whose own would split the training rows: it watches the job's validation split, by the block's own rule."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from espalier_trainer.engines.classical import mean_loss, report
from espalier_trainer.engines.sklearn.fitted import Boosted, FittedSklearn, Network
from espalier_trainer.session import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from espalier_trainer.engines import FitData, FitReport
    from espalier_trainer.engines.classical import Rebalancing
    from espalier_trainer.protocol import Regularizer
    from espalier_trainer.session import Session

    Floats = npt.NDArray[np.float64]


def boosted(fitted: FittedSklearn, data: FitData, stops: Regularizer[Any], told: FitReport) -> None:
    """Keep the first rounds. Boosted rounds never change earlier ones, so cutting a full fit is what stopping would have left; the rounds
    behind it are computed and thrown away.
    """
    assert isinstance(fitted, Boosted)  # noqa: S101 - the table says so
    assert data.validation is not None  # noqa: S101 - the block's plan asked for it
    estimator = fitted.estimator
    stages = zip(_staged(fitted, data.train.x), _staged(fitted, data.validation.x), strict=True)
    for index, (train, held) in enumerate(stages):
        judged = report(index, held, data.validation.y)
        told.history.append(_entry(index, mean_loss(train, data.train.y), judged.loss, judged.metric))
        if stops.end_epoch(judged, {}):
            break
    kept = _best(stops) if stops.config.restore_best else len(told.history)
    estimator._predictors = estimator._predictors[:kept]  # noqa: SLF001 - the fitted trees have no public name
    _note(stops, told)


def _staged(fitted: Boosted, x: npt.NDArray[np.float32]) -> Iterator[Floats]:
    estimator = fitted.estimator
    staged = estimator.staged_decision_function(x) if fitted.classes else estimator.staged_predict(x)
    for raw in staged:
        yield fitted.logits(_squeezed(np.asarray(raw, dtype=np.float64)))


def _squeezed(raw: Floats) -> Floats:
    """One column is a vector: stages of binary models come as either."""
    return raw[:, 0] if raw.ndim > 1 and raw.shape[1] == 1 else raw


def network(
    estimator: Any,  # noqa: ANN401 - untyped library
    data: FitData,
    rebalancing: Rebalancing,
    stops: Regularizer[Any],
    told: FitReport,
    session: Session,
) -> Network:
    """Epoch by epoch through partial_fit, at most `max_iter`; the best epoch's weights come back."""
    assert data.validation is not None  # noqa: S101 - the block's plan asked for it
    x, weight = data.train.x.astype(np.float64), rebalancing.rows(data)
    more = {"classes": np.arange(data.classes)} if data.classes else {}
    epochs, best = int(estimator.max_iter), None
    fitted = Network(estimator, data.classes, rebalancing.shift, told)
    for epoch in range(epochs):
        estimator.partial_fit(x, data.train.y, sample_weight=weight, **more)
        judged = report(epoch, fitted.scores(data.validation.x), data.validation.y)
        train = mean_loss(fitted.scores(data.train.x), data.train.y)
        told.history.append(_entry(epoch, train, judged.loss, judged.metric))
        entry = {k: v for k, v in told.history[-1].items() if k != "epoch"}
        session.progress(Progress((epoch + 1) / epochs, epoch + 1, epochs, epoch + 1, entry, {}))
        session.stop_if_preempted()
        done = stops.end_epoch(judged, {})
        if _best(stops) == epoch + 1:
            best = copy.deepcopy((estimator.coefs_, estimator.intercepts_))
        if done:
            break
    if stops.config.restore_best and best is not None:
        estimator.coefs_, estimator.intercepts_ = best
    told.epochs = told.steps = len(told.history)
    _note(stops, told)
    return fitted


def _entry(index: int, train: float, validation: float, metric: float) -> dict[str, float]:
    return {"epoch": float(index), "train": train, "validation": validation, "metric": metric}


def _best(stops: Regularizer[Any]) -> int:
    return int(stops.notes()["bestEpoch"])


def _note(stops: Regularizer[Any], told: FitReport) -> None:
    notes = {**stops.notes(), "restored": bool(stops.config.restore_best)}
    told.notes |= {f"earlyStopping.{name}": value for name, value in notes.items()}
