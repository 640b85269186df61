"""`engine.sklearn`: an estimator per fit, its strengths from blocks, its graph written from the fitted arrays."""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import sklearn
from sklearn.exceptions import ConvergenceWarning

from espalier_trainer.engines import Contribution, FitReport
from espalier_trainer.engines.sklearn import trees
from espalier_trainer.engines.sklearn.estimators import Penalties, find, refuse_foreign
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.protocol import PlanContext, Regularizer, acting, lookup

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from espalier_api.engines import SklearnEngine as SklearnConfig
    from espalier_api.regularizers import Block
    from espalier_trainer.engines import FitData
    from espalier_trainer.export.graph import Graph
    from espalier_trainer.session import Session

SHARED_BLOCKS: Final = frozenset({"calibration", "sampleWeighting"})  # act outside the estimator
_TINY: Final = 1e-7  # probabilities of trees are exactly 0 at times; logits need a floor that float32 keeps


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
        refuse_foreign(self.config.estimator, self._estimator, self.regularizers, self.config.params)
        context = PlanContext(
            regression=not data.classes,
            classes=data.classes,
            features=data.features,
            rows=len(data.train),
            epochs=1,
            steps_per_epoch=1,
            optimizer="",
            target_scale=data.target_scale,
            splits=data.splits,
            declared=frozenset(self.regularizers),
        )
        self._shared = [lookup(name)(config) for name, config in self.regularizers.items() if name in SHARED_BLOCKS]
        for block in self._shared:
            block.plan(context)
        self._build(data, 0)

    def _build(self, data: FitData, seed: int) -> Any:  # noqa: ANN401 - scikit-learn ships no types
        weight = data.train.weight
        n = float(len(data.train)) if weight is None else float(weight.sum())
        module, name = self._estimator.path.split(":")
        parameters = {**self._estimator.parameters(self._penalties, n), **self.config.params}
        if self._estimator.seeded:
            parameters["random_state"] = seed % 2**32
        cls = getattr(import_module(module), name)
        unknown = sorted(set(parameters) - set(cls().get_params()))
        if unknown:
            raise InvalidConfigError(
                f"engine.sklearn.params.{unknown[0]}: {name} of scikit-learn {sklearn.__version__} has no such parameter"
            )
        self._parameters = {k: v for k, v in parameters.items() if k != "random_state"}
        return cls(**parameters)

    def fit(self, data: FitData, seed: int, session: Session) -> FittedSklearn:
        """Train once. There are no steps to save between; a preempted fit starts again."""
        session.stop_if_preempted()
        estimator = self._build(data, seed)
        notes: dict[str, Any] = {"world": self.world}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                estimator.fit(data.train.x.astype(np.float64), data.train.y, sample_weight=data.train.weight)
            except (ValueError, TypeError) as error:  # scikit-learn validates parameter values here
                raise InvalidConfigError(f"engine.sklearn.params: {str(error).splitlines()[0][:300]}") from error
        told = [str(w.message).splitlines()[0] for w in caught if issubclass(w.category, ConvergenceWarning)]
        if told:
            notes["warnings"] = told
        report = FitReport(epochs=1, steps=1, notes=notes)
        fitted = FittedSklearn(estimator, data, report, linear=self._estimator.linear)
        report.contributions = self._contributions(fitted, data)
        session.progress(1.0, 1, 1, 1, {}, report.contributions)
        session.stop_if_preempted()
        return fitted

    def _contributions(self, fitted: FittedSklearn, data: FitData) -> dict[str, Contribution]:
        """Penalties at the solution; blocks without a penalty tell their presence."""
        told = {name: Contribution(1.0) for name in self.regularizers}
        if not fitted.linear:
            return {n: Contribution(getattr(c, "strength", 1.0)) for n, c in self.regularizers.items()}
        weight = fitted.coefficients
        l1, l2 = float(np.abs(weight).sum()), float((weight**2).sum() / 2)
        values = {"l1": (self._penalties.l1, l1), "l2": (self._penalties.l2, l2)}
        if "elasticNet" in self.regularizers and self._penalties.total:
            ratio = self._penalties.l1 / self._penalties.total
            values["elasticNet"] = (self._penalties.total, ratio * l1 + (1 - ratio) * l2)
        loss = _mean_loss(fitted.scores(data.train.x), data.train.y)
        objective = loss + self._penalties.l1 * l1 + self._penalties.l2 * l2
        for name in told.keys() & values.keys():
            strength, value = values[name]
            told[name] = Contribution(
                strength, value, strength * value, strength * value / objective if objective else None
            )
        return told

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


def _mean_loss(scores: npt.NDArray[np.float64], y: npt.NDArray[Any]) -> float:
    if scores.shape[1] == 1:
        return float(0.5 * ((scores[:, 0] - y) ** 2).mean())
    shifted = scores - scores.max(axis=1, keepdims=True)
    return float((np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(y)), y]).mean())


class FittedSklearn:
    """A fitted estimator as scores and nodes."""

    def __init__(self, estimator: Any, data: FitData, report: FitReport, *, linear: bool) -> None:  # noqa: ANN401 - untyped library
        self.estimator, self.report, self.linear = estimator, report, linear
        self._classes, self._boosted = data.classes, hasattr(estimator, "n_trees_per_iteration_")
        if linear:
            self.coefficients, self.intercept = self._affine()

    def _affine(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Weights (outputs, features) and intercepts (outputs,). A binary logistic model has one row z; its logits are (0, z)."""
        weight = np.atleast_2d(np.asarray(self.estimator.coef_, dtype=np.float64))
        bias = np.atleast_1d(np.asarray(self.estimator.intercept_, dtype=np.float64))
        if self._classes and len(weight) == 1:
            weight = np.vstack([np.zeros_like(weight), weight])
            bias = np.concatenate([[0.0], bias])
        return weight, bias

    def scores(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Standardized features to logits (of forests: log shares) or standardized values."""
        if self.linear:
            return np.asarray(x.astype(np.float64) @ self.coefficients.T + self.intercept)
        if not self._classes:
            return np.asarray(self.estimator.predict(x), dtype=np.float64)[:, None]
        if not self._boosted:
            return np.asarray(np.log(np.clip(self.estimator.predict_proba(x), _TINY, None)))
        raw = np.asarray(self.estimator.decision_function(x), dtype=np.float64)
        return raw if raw.ndim > 1 else np.stack([np.zeros_like(raw), raw], axis=1)

    def graph(self, graph: Graph, standardized: str) -> str:
        """Linear models are one Gemm, trees one TreeEnsembleRegressor."""
        if self.linear:
            weight = graph.constant("weight", self.coefficients.astype(np.float32))
            bias = graph.constant("bias", self.intercept.astype(np.float32))
            return graph.add("Gemm", standardized, weight, bias, transB=1)
        if self._boosted:
            columns = self.estimator.n_trees_per_iteration_
            raw = trees.boosted(graph, self.estimator, standardized, [0.0] * columns)
            if not self._classes or columns > 1:
                return raw
            return graph.add("Concat", graph.add("Mul", raw, graph.scalar(0.0)), raw, axis=1)
        shares = trees.forest(graph, self.estimator, standardized, self._classes or 1)
        return graph.add("Log", graph.add("Max", shares, graph.scalar(_TINY))) if self._classes else shares

    def weights(self) -> Mapping[str, npt.NDArray[Any]]:
        """Coefficients of linear models; trees live in the graph."""
        return {"coef": self.coefficients, "intercept": self.intercept} if self.linear else {}

    def files(self) -> Mapping[str, bytes]:
        """None."""
        return {}
