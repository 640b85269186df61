"""`engine.sklearn`: an estimator per fit, its strengths from blocks, its graph written from the fitted arrays."""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import sklearn
from sklearn.exceptions import ConvergenceWarning

from espalier_trainer.engines import Contribution, FitReport
from espalier_trainer.engines.classical import Penalties, Rebalancing, mean_loss, plan_shared, stopper
from espalier_trainer.engines.sklearn import kernels, stopping
from espalier_trainer.engines.sklearn.estimators import Asked, find, refuse
from espalier_trainer.engines.sklearn.fitted import KINDS, FittedSklearn
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.protocol import Regularizer, acting
from espalier_trainer.session import Progress

if TYPE_CHECKING:
    from collections.abc import Mapping

    from espalier_api.engines import SklearnEngine as SklearnConfig
    from espalier_api.regularizers import Block
    from espalier_trainer.engines import FitData
    from espalier_trainer.session import Session


def build(config: SklearnConfig, regularizers: Mapping[str, Block]) -> SklearnEngine:
    """The engine for a job."""
    return SklearnEngine(config, regularizers)


class SklearnEngine:
    """Classical models."""

    resumable = False

    def __init__(self, config: SklearnConfig, regularizers: Mapping[str, Block]) -> None:
        self.config, self.regularizers = config, regularizers
        self.framework = f"scikit-learn {sklearn.__version__}"
        self.world = self.framework
        self._penalties = Penalties.of(regularizers)
        self._parameters: dict[str, Any] = {}
        self._shared: list[Regularizer[Any]] = []

    def plan(self, data: FitData) -> None:
        """The table has the estimator, and every block and parameter has a meaning for it."""
        task = "classification" if data.classes else "regression"
        self._estimator = find(self.config.estimator, task)
        refuse(self.config.estimator, self._estimator, self.regularizers, self.config.params)
        self._shared = plan_shared(self.regularizers, data, 1)
        self._build(data, 0)

    def _rebalancing(self, data: FitData) -> Rebalancing:
        config: Any = self.regularizers.get("classRebalancing")
        return Rebalancing.of(config, data)

    def _build(self, data: FitData, seed: int, **more: Any) -> Any:  # noqa: ANN401 - scikit-learn ships no types
        weight = self._rebalancing(data).rows(data)
        n = float(len(data.train)) if weight is None else float(weight.sum())
        module, name = self._estimator.path.split(":")
        derived = self._estimator.parameters(Asked(self._penalties.l1, self._penalties.l2, n, self.config.params))
        parameters = {**derived, **self.config.params}
        if self._estimator.seeded:
            parameters["random_state"] = seed % 2**32
        cls = getattr(import_module(module), name)
        unknown = sorted(set(parameters) - set(cls().get_params()))
        if unknown:
            raise InvalidConfigError(
                f"engine.sklearn.params.{unknown[0]}: {name} of scikit-learn {sklearn.__version__} has no such parameter"
            )
        self._parameters = {k: v for k, v in parameters.items() if k != "random_state"}
        return cls(**{**parameters, **more})

    def fit(self, data: FitData, seed: int, session: Session) -> FittedSklearn:
        """Train once. There are no steps to save between; a preempted fit starts again."""
        session.stop_if_preempted()
        report = FitReport(epochs=1, steps=1, notes={"world": self.world})
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                fitted = self._fit(data, seed, session, report)
            except (ValueError, TypeError) as error:  # scikit-learn validates parameter values here
                raise InvalidConfigError(f"engine.sklearn.params: {str(error).splitlines()[0][:300]}") from error
        told = [str(w.message).splitlines()[0] for w in caught if issubclass(w.category, ConvergenceWarning)]
        if told:
            report.notes["warnings"] = told
        report.contributions = self._contributions(fitted, data)
        session.progress(Progress(1.0, 1, 1, 1, {}, report.contributions))
        session.stop_if_preempted()
        return fitted

    def _fit(self, data: FitData, seed: int, session: Session, report: FitReport) -> FittedSklearn:
        rebalancing, stops = self._rebalancing(data), stopper(self.regularizers)
        x, y, weight = data.train.x.astype(np.float64), data.train.y, rebalancing.rows(data)
        kind = self._estimator.kind
        if kind == "kernel":

            def make(**more: Any) -> Any:  # noqa: ANN401 - untyped library
                return self._build(data, seed, **more)

            machines = kernels.fit(make, x, y, data.classes, weight)
            return KINDS[kind](machines, data.classes, rebalancing.shift, report)
        estimator = self._build(data, seed)
        if kind == "network" and stops is not None:
            return stopping.network(estimator, data, rebalancing, stops, report, session)
        estimator.fit(x, y, sample_weight=weight)
        fitted = KINDS[kind](estimator, data.classes, rebalancing.shift, report)
        if kind == "boosted" and stops is not None:
            stopping.boosted(fitted, data, stops, report)
        return fitted

    def _contributions(self, fitted: FittedSklearn, data: FitData) -> dict[str, Contribution]:
        """Penalties at the solution; blocks without a value that one can read tell their strength."""
        told = {n: Contribution(float(getattr(c, "strength", 1.0))) for n, c in self.regularizers.items()}
        if (norms := fitted.norms()) is None:
            return told
        loss = mean_loss(fitted.scores(data.train.x), data.train.y)
        return told | self._penalties.contributions(self.regularizers, loss, *norms)

    def resolved(self) -> dict[str, Any]:
        """Blocks with defaults and the estimator's parameters they became."""
        blocks = {name: config.dump() for name, config in self.regularizers.items()}
        return {
            **blocks,
            "sklearn": {"estimator": self._estimator.path.split(":")[1], "parameters": _json(self._parameters)},
        }

    def post_blocks(self) -> list[Regularizer[Any]]:
        """Blocks that act on final scores."""
        return acting(self._shared, "post")


def _json(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {k: ("Infinity" if v == float("inf") else v) for k, v in parameters.items()}
