"""Trees of any library as one TreeEnsembleRegressor node (ai.onnx.ml 3), written from arrays.

By hand because skl2onnx 1.20 fails on these with onnx 1.23 (booleans in integer attributes), and because raw scores are wanted, not
probabilities.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from espalier_trainer.export.graph import Graph

_NODE: Final = (
    "treeids",
    "nodeids",
    "featureids",
    "values",
    "modes",
    "truenodeids",
    "falsenodeids",
    "missing_value_tracks_true",
)
_TARGET: Final = ("treeids", "nodeids", "ids", "weights")


@dataclass(frozen=True, slots=True)
class Tree:
    """One tree as parallel arrays over nodes, root first; `left` is where a true comparison goes.

    `values[i]` are the (output, value) pairs of leaf i and empty for inner nodes. `missing_left`: where NaN goes; None: to the right.
    """

    left: Sequence[int]
    right: Sequence[int]
    feature: Sequence[int]
    threshold: npt.NDArray[np.float32]
    leaf: Sequence[bool]
    values: Sequence[Sequence[tuple[int, float]]]
    missing_left: Sequence[int] | None = None


@dataclass(slots=True)
class Ensemble:
    """Node and leaf lists of all trees, in ONNX's parallel form. `mode` says what a node asks: x <= threshold or x < threshold."""

    mode: Literal["BRANCH_LEQ", "BRANCH_LT"] = "BRANCH_LEQ"
    nodes: dict[str, list[Any]] = field(default_factory=lambda: {k: [] for k in _NODE})
    targets: dict[str, list[Any]] = field(default_factory=lambda: {k: [] for k in _TARGET})
    trees: int = 0

    def add(self, tree: Tree) -> None:
        """One more tree; nodes that cannot be reached from the root (pruned ones) are left out."""
        waiting = [0]
        while waiting:
            i = waiting.pop()
            leaf = bool(tree.leaf[i])
            row = {
                "treeids": self.trees,
                "nodeids": i,
                "featureids": 0 if leaf else int(tree.feature[i]),
                "values": 0.0 if leaf else float(tree.threshold[i]),
                "modes": "LEAF" if leaf else self.mode,
                "truenodeids": 0 if leaf else int(tree.left[i]),
                "falsenodeids": 0 if leaf else int(tree.right[i]),
                "missing_value_tracks_true": 0 if leaf or tree.missing_left is None else int(tree.missing_left[i]),
            }
            for name, value in row.items():
                self.nodes[name].append(value)
            if not leaf:
                waiting += [int(tree.right[i]), int(tree.left[i])]
                continue
            for output, value in tree.values[i]:
                for name, one in zip(_TARGET, (self.trees, i, output, float(value)), strict=True):
                    self.targets[name].append(one)
        self.trees += 1

    def append(self, graph: Graph, x: str, outputs: int, base: Sequence[float]) -> str:
        """The node: sums of leaves on top of `base` (outputs,); returns the name of its output (rows, outputs)."""
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
    """The largest float32 that is not above each threshold: `x <= threshold` then decides float32 inputs as in double precision."""
    near = threshold.astype(np.float32)
    return np.where(near.astype(np.float64) > threshold, np.nextafter(near, np.float32(-np.inf)), near)
