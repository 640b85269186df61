"""`engine.xgboost`: boosted trees, their strengths from blocks, their graph written from the booster's own arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xgboost

from espalier_trainer.engines import Contribution, FitReport
from espalier_trainer.engines.classical import Penalties, Rebalancing, mean_loss, plan_shared
from espalier_trainer.engines.xgboost import parameters, trees
from espalier_trainer.engines.xgboost.fit import Rounds, margins
from espalier_trainer.machine import cpu_limit
from espalier_trainer.protocol import Regularizer, acting

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from espalier_api.engines import XgboostEngine as XgboostConfig
    from espalier_api.regularizers import Block
    from espalier_trainer.engines import FitData
    from espalier_trainer.export.graph import Graph
    from espalier_trainer.session import Session


def build(config: XgboostConfig, regularizers: Mapping[str, Block]) -> XgboostEngine:
    """The engine for a job."""
    return XgboostEngine(config, regularizers)


class XgboostEngine:
    """Boosted trees."""

    resumable = True

    def __init__(self, config: XgboostConfig, regularizers: Mapping[str, Block]) -> None:
        self.config, self.regularizers = config, regularizers
        self.threads = cpu_limit()
        self.framework = f"xgboost {xgboost.__version__}"
        self.world = f"{self.framework}, {self.threads} threads"  # sums of gradients may round by thread
        self._shared: list[Regularizer[Any]] = []
        self._parameters: dict[str, Any] = {}

    def plan(self, data: FitData) -> None:
        """Every block and parameter has a meaning here."""
        task = "classification" if data.classes else "regression"
        parameters.refuse(self.regularizers, self.config.params, task)
        self._shared = plan_shared(self.regularizers, data, self.config.rounds)
        self._parameters = self._resolve(data)
        parameters.refuse_unknown(self._parameters, self.config.params, data.train.x.shape[1])

    def _resolve(self, data: FitData) -> dict[str, Any]:
        weight = self._rebalancing(data).rows(data)
        n = float(len(data.train)) if weight is None else float(weight.sum())
        return parameters.parameters(self.regularizers, self.config.params, data.classes, n)

    def _rebalancing(self, data: FitData) -> Rebalancing:
        config: Any = self.regularizers.get("classRebalancing")
        return Rebalancing.of(config, data)

    def fit(self, data: FitData, seed: int, session: Session) -> FittedXgboost:
        """Train once, round by round."""
        self._parameters = self._resolve(data)
        rebalancing = self._rebalancing(data)
        declared = {name: Contribution(_strength(config)) for name, config in self.regularizers.items()}
        rounds = Rounds(
            {**self._parameters, "nthread": self.threads},
            self.regularizers,
            data,
            rebalancing,
            self.config.rounds,
            seed,
        )
        rounds.run(session, declared)
        told = FitReport(epochs=rounds.done, steps=rounds.done, history=rounds.history, contributions=declared)
        fitted = FittedXgboost(rounds.raw, data.classes, rebalancing.shift, told, self.threads)
        told.notes = {"world": self.world, "trees": len(fitted.trees.trees), **rounds.notes()}
        told.contributions |= self._penalties(fitted, data)
        return fitted

    def _penalties(self, fitted: FittedXgboost, data: FitData) -> dict[str, Contribution]:
        """Means over trees of the leaves' norms before shrinkage: the weights that XGBoost penalizes, tree by tree."""
        rate = float(self.config.params.get("learning_rate", self.config.params.get("eta", 0.3))) or 1.0
        leaves = [leaf.astype(np.float64) / rate for leaf in fitted.trees.leaves()]
        norm1 = float(np.mean([np.abs(leaf).sum() for leaf in leaves]))
        norm2 = float(np.mean([(leaf**2).sum() / 2 for leaf in leaves]))
        loss = mean_loss(fitted.scores(data.train.x), data.train.y)
        return Penalties.of(self.regularizers).contributions(self.regularizers, loss, norm1, norm2)

    def resolved(self) -> dict[str, Any]:
        """Blocks with defaults and the parameters they became."""
        blocks = {name: config.dump() for name, config in self.regularizers.items()}
        return {**blocks, "xgboost": {"rounds": self.config.rounds, "parameters": dict(self._parameters)}}

    def post_blocks(self) -> list[Regularizer[Any]]:
        """Blocks that act on final scores."""
        return acting(self._shared, "post")


def _strength(config: Block) -> float:
    return float(getattr(config, "strength", getattr(config, "p", getattr(config, "tau", 1.0))))


class FittedXgboost:
    """A booster as scores and nodes. `shift` (classes,) is the prior correction of classRebalancing."""

    def __init__(
        self, raw: bytes, classes: int, shift: npt.NDArray[np.float64], report: FitReport, threads: int
    ) -> None:
        self.booster = xgboost.Booster({"nthread": threads, "verbosity": 0}, model_file=bytearray(raw))
        self.trees = trees.read(bytes(self.booster.save_raw("json")))
        self.report, self._classes = report, classes
        self._shift = shift - shift[0] if classes == 2 else shift  # noqa: PLR2004 - the first logit of two stays 0

    def scores(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """XGBoost's own margins, and the prior correction."""
        return margins(self.booster, xgboost.DMatrix(x), self._classes) + self._shift

    def graph(self, graph: Graph, standardized: str) -> str:
        """One TreeEnsembleRegressor; log odds z become logits (0, z + shift)."""
        if self._classes and self.trees.columns == 1:
            z = self.trees.append(graph, standardized, [float(self._shift[1])])
            return graph.add("Concat", graph.add("Mul", z, graph.scalar(0.0)), z, axis=1)
        return self.trees.append(graph, standardized, self._shift.tolist())

    def weights(self) -> Mapping[str, npt.NDArray[Any]]:
        """None: trees live in the graph."""
        return {}

    def files(self) -> Mapping[str, bytes]:
        """None."""
        return {}
