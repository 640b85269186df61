"""XGBoost's model as arrays and as one ONNX node. Read from its own JSON, whose numbers are float32 in full.

XGBoost asks `x < threshold` in float32, sends NaN where training sent it, and sums leaves on top of base_score; with DART each tree
has a weight. base_score is kept behind the link (a probability for log odds), so it is turned back here.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from espalier_trainer.export.tree_ensemble import Ensemble, Tree

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from espalier_trainer.export.graph import Graph


@dataclass(frozen=True, slots=True)
class Trees:
    """A fitted booster. `base` (columns,) is in margin space; `outputs[i]` and `weights[i]` are the column and the weight of tree i."""

    trees: list[dict[str, Any]]
    outputs: list[int]
    weights: npt.NDArray[np.float32]
    base: npt.NDArray[np.float64]

    @property
    def columns(self) -> int:
        """Margins per row: 1, or one per class."""
        return len(self.base)

    def leaves(self) -> list[npt.NDArray[np.float32]]:
        """The leaf values of each tree, before DART's weight."""
        found = []
        for tree in self.trees:
            leaf = np.asarray(tree["left_children"]) < 0
            found.append(np.asarray(tree["split_conditions"], dtype=np.float32)[leaf])
        return found

    def append(self, graph: Graph, x: str, shift: Sequence[float]) -> str:
        """The node that computes the margins plus `shift` (columns,), shape (rows, columns)."""
        ensemble = Ensemble(mode="BRANCH_LT")
        for tree, output, weight in zip(self.trees, self.outputs, self.weights, strict=True):
            leaf = [child < 0 for child in tree["left_children"]]
            numbers = np.asarray(tree["split_conditions"], dtype=np.float32)
            values = [[(output, float(weight * v))] if end else [] for v, end in zip(numbers, leaf, strict=True)]
            ensemble.add(
                Tree(
                    tree["left_children"],
                    tree["right_children"],
                    tree["split_indices"],
                    numbers,
                    leaf,
                    values,
                    missing_left=tree["default_left"],
                )
            )
        return ensemble.append(graph, x, self.columns, (self.base + np.asarray(shift)).tolist())


def read(raw: bytes) -> Trees:
    """From `Booster.save_raw("json")`; ValueError for what this form cannot say (categories, vector leaves)."""
    learner = json.loads(raw)["learner"]
    booster = learner["gradient_booster"]
    model = booster.get("gbtree", booster)["model"]  # until 3.3 DART wrapped the tree booster
    trees, outputs = model["trees"], [int(i) for i in model["tree_info"]]
    if any(any(tree["split_type"]) or int(tree["tree_param"]["size_leaf_vector"]) > 1 for tree in trees):
        raise ValueError("the booster has categorical splits or vector leaves")
    dropped = booster.get("weight_drop") or model.get("weight_drop") or [1.0] * len(trees)
    weights = np.asarray(dropped, dtype=np.float32)
    parameters = learner["learner_model_param"]
    columns = max(int(parameters["num_class"]), 1)
    score = json.loads(parameters["base_score"])  # one number until 3.0, a list since
    base = np.broadcast_to(np.asarray(score, dtype=np.float64).ravel(), (columns,))
    if learner["objective"]["name"] == "binary:logistic":
        base = np.asarray([math.log(p / (1.0 - p)) for p in base])
    return Trees(trees, outputs, weights, base.copy())
