"""Forests and boosted trees as one TreeEnsembleRegressor node (ai.onnx.ml 3), written from the fitted arrays.

By hand because skl2onnx 1.20 fails on these with onnx 1.23 (booleans in integer attributes), and because raw scores are wanted, not
probabilities. Thresholds are rounded down to float32, so that `x <= threshold` decides float32 inputs exactly as scikit-learn does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from espalier_trainer.export.graph import Graph


@dataclass(slots=True)
class Ensemble:
    """Node and leaf lists of all trees, in ONNX's parallel form."""

    nodes: dict[str, list[Any]] = field(
        default_factory=lambda: {
            k: []
            for k in (
                "treeids",
                "nodeids",
                "featureids",
                "values",
                "modes",
                "truenodeids",
                "falsenodeids",
                "missing_value_tracks_true",
            )
        }
    )
    targets: dict[str, list[Any]] = field(
        default_factory=lambda: {k: [] for k in ("treeids", "nodeids", "ids", "weights")}
    )
    trees: int = 0

    def add(
        self,
        left: Sequence[int],
        right: Sequence[int],
        feature: Sequence[int],
        threshold: npt.NDArray[np.float64],
        leaf: npt.NDArray[np.bool_],
        values: Sequence[Sequence[tuple[int, float]]],
    ) -> None:
        """One tree: parallel arrays over nodes; `values[i]` are (output, value) pairs of leaf i."""
        down = round_down(threshold)
        for i, is_leaf in enumerate(leaf.tolist()):
            row = {
                "treeids": self.trees,
                "nodeids": i,
                "featureids": 0 if is_leaf else int(feature[i]),
                "values": 0.0 if is_leaf else float(down[i]),
                "modes": "LEAF" if is_leaf else "BRANCH_LEQ",
                "truenodeids": 0 if is_leaf else int(left[i]),
                "falsenodeids": 0 if is_leaf else int(right[i]),
                "missing_value_tracks_true": 0,
            }
            for name, value in row.items():
                self.nodes[name].append(value)
            for output, value in values[i] if is_leaf else ():
                for name, one in (("treeids", self.trees), ("nodeids", i), ("ids", output), ("weights", float(value))):
                    self.targets[name].append(one)
        self.trees += 1

    def append(self, graph: Graph, x: str, outputs: int, base: Sequence[float]) -> str:
        """The node; returns the name of its output (rows, outputs)."""
        attributes: dict[str, Any] = {
            **{f"nodes_{name}": values for name, values in self.nodes.items()},
            **{f"target_{name}": values for name, values in self.targets.items()},
            "n_targets": outputs,
            "aggregate_function": "SUM",
            "post_transform": "NONE",
            "base_values": [float(v) for v in base],
        }
        return graph.add("TreeEnsembleRegressor", x, domain="ai.onnx.ml", **attributes)


def round_down(threshold: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """The largest float32 that is not above each threshold."""
    near = threshold.astype(np.float32)
    return np.where(near.astype(np.float64) > threshold, np.nextafter(near, np.float32(-np.inf)), near)


def forest(graph: Graph, estimator: Any, x: str, outputs: int) -> str:  # noqa: ANN401 - untyped library
    """Mean over trees of class shares or values."""
    ensemble, count = Ensemble(), len(estimator.estimators_)
    for member in estimator.estimators_:
        tree = member.tree_
        leaf = tree.children_left < 0
        shares = tree.value[:, 0, :]
        if outputs > 1:
            shares = shares / shares.sum(axis=1, keepdims=True)
        values = [[(k, share / count) for k, share in enumerate(row)] for row in shares.tolist()]
        ensemble.add(tree.children_left, tree.children_right, tree.feature, tree.threshold, leaf, values)
    return ensemble.append(graph, x, outputs, [0.0] * outputs)


def boosted(graph: Graph, estimator: Any, x: str) -> tuple[str, int]:  # noqa: ANN401 - untyped library
    """Sum over trees on top of the baseline: raw scores, one column per tree of an iteration. Returns (name, columns)."""
    ensemble, columns = Ensemble(), estimator.n_trees_per_iteration_
    for iteration in estimator._predictors:  # noqa: SLF001 - the fitted trees have no public name
        for output, predictor in enumerate(iteration):
            nodes = predictor.nodes
            values = [[(output, value)] for value in nodes["value"].tolist()]
            leaf = nodes["is_leaf"].astype(np.bool_)
            ensemble.add(nodes["left"], nodes["right"], nodes["feature_idx"], nodes["num_threshold"], leaf, values)
    base = np.asarray(estimator._baseline_prediction, dtype=np.float64).ravel()  # noqa: SLF001 - see above
    return ensemble.append(graph, x, columns, base.tolist()), columns
