"""Forests and boosted trees of scikit-learn, read from the fitted arrays. scikit-learn asks `x <= threshold` in double precision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from espalier_trainer.export.tree_ensemble import Ensemble, Tree, round_down

if TYPE_CHECKING:
    from collections.abc import Sequence

    from espalier_trainer.export.graph import Graph


def forest(graph: Graph, estimator: Any, x: str, outputs: int) -> str:  # noqa: ANN401 - untyped library
    """Mean over trees of class shares or values."""
    ensemble, count = Ensemble(), len(estimator.estimators_)
    for member in estimator.estimators_:
        tree = member.tree_
        shares = tree.value[:, 0, :]
        if outputs > 1:
            shares = shares / shares.sum(axis=1, keepdims=True)
        values = [[(k, share / count) for k, share in enumerate(row)] for row in shares.tolist()]
        leaf = (tree.children_left < 0).tolist()
        ensemble.add(
            Tree(tree.children_left, tree.children_right, tree.feature, round_down(tree.threshold), leaf, values)
        )
    return ensemble.append(graph, x, outputs, [0.0] * outputs)


def boosted(graph: Graph, estimator: Any, x: str, shift: Sequence[float]) -> str:  # noqa: ANN401 - untyped library
    """Sum over trees on top of the baseline and `shift` (columns,): raw scores, one column per tree of an iteration."""
    ensemble, columns = Ensemble(), estimator.n_trees_per_iteration_
    for iteration in estimator._predictors:  # noqa: SLF001 - the fitted trees have no public name
        for output, predictor in enumerate(iteration):
            nodes = predictor.nodes
            values = [[(output, value)] for value in nodes["value"].tolist()]
            leaf = nodes["is_leaf"].astype(np.bool_).tolist()
            threshold = round_down(nodes["num_threshold"])
            ensemble.add(Tree(nodes["left"], nodes["right"], nodes["feature_idx"], threshold, leaf, values))
    base = np.asarray(estimator._baseline_prediction, dtype=np.float64).ravel()  # noqa: SLF001 - see above
    return ensemble.append(graph, x, columns, (base + np.asarray(shift)).tolist())
