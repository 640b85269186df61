"""Maps from scores to calibrated scores, the same in numpy and as ONNX nodes.

`PerClass` maps the probability p_k of each class by its own increasing function g_k and takes log g_k as the new scores, so that softmax
divides by their sum (one against the rest, as scikit-learn's CalibratedClassifierCV does). For two classes g_1 alone is fitted and
g_0 = 1 - g_1. Answers are kept 1e-6 away from 0 and 1, which is what float32 can tell in the served graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
from scipy.special import expit

from espalier_trainer.evaluation.calibration import softmax

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from espalier_trainer.export.graph import Graph

    Floats = npt.NDArray[np.float64]

EDGE: Final = 1e-6  # of what a curve answers
TINY: Final = 1e-12  # of what it is asked
BINARY: Final = 2


@dataclass(frozen=True, slots=True)
class Affine:
    """scores * scale + shift, both (classes,)."""

    scale: Floats
    shift: Floats

    def apply(self, scores: Floats) -> Floats:
        """(rows, classes)."""
        return scores * self.scale + self.shift

    def graph(self, graph: Graph, scores: str) -> str:
        """Mul and Add."""
        scaled = graph.add("Mul", scores, graph.constant("scale", self.scale.astype(np.float32)))
        return graph.add("Add", scaled, graph.constant("shift", self.shift.astype(np.float32)))


class Curve(Protocol):
    """One increasing function of a probability p, given together with 1 - p, which float32 could not compute near p = 1."""

    def __call__(self, p: Floats, rest: Floats) -> Floats:
        """(rows,) to (rows,) within 0..1."""
        ...

    def graph(self, graph: Graph, p: str, rest: str) -> str:
        """The same on values (rows, 1)."""
        ...


@dataclass(frozen=True, slots=True)
class Sigmoid:
    """1 / (1 + exp(-(a ln p - b ln(1 - p) + c))): Platt's for a = b, else the beta calibration of Kull et al. 2017."""

    a: float
    b: float
    c: float

    def __call__(self, p: Floats, rest: Floats) -> Floats:
        """(rows,)."""
        return np.asarray(expit(self.a * np.log(p) - self.b * np.log(rest) + self.c))

    def graph(self, graph: Graph, p: str, rest: str) -> str:
        """Logarithms, a weighted sum, Sigmoid."""
        first = graph.add("Mul", graph.add("Log", p), graph.scalar(self.a))
        total = graph.add("Sub", first, graph.add("Mul", graph.add("Log", rest), graph.scalar(self.b)))
        return graph.add("Sigmoid", graph.add("Add", total, graph.scalar(self.c)))


@dataclass(frozen=True, slots=True)
class Piecewise:
    """Linear between knots (x increasing), constant outside: what an isotonic regression predicts."""

    x: Floats
    y: Floats

    def __call__(self, p: Floats, rest: Floats) -> Floats:
        """(rows,)."""
        return np.interp(p, self.x, self.y)

    def graph(self, graph: Graph, p: str, rest: str) -> str:
        """y_0 plus, for each piece, its slope times how much of the piece lies below p."""
        widths = np.diff(self.x)
        if not len(widths):
            return graph.add("Add", graph.add("Mul", p, graph.scalar(0.0)), graph.scalar(float(self.y[0])))
        slopes = np.divide(np.diff(self.y), widths, out=np.zeros_like(widths), where=widths > 0)
        begun = graph.add("Sub", p, graph.constant("knots", self.x[:-1].astype(np.float32)[None, :]))
        above = graph.add("Max", begun, graph.scalar(0.0))
        covered = graph.add("Min", above, graph.constant("widths", widths.astype(np.float32)[None, :]))
        risen = graph.add("MatMul", covered, graph.constant("slopes", slopes.astype(np.float32)[:, None]))
        return graph.add("Add", risen, graph.scalar(float(self.y[0])))


def odds(scores: Floats) -> tuple[Floats, Floats]:
    """(p, 1 - p) of each class, both (rows, classes) and not below TINY; 1 - p is a sum of the others, so nothing cancels."""
    p = softmax(scores)
    rest = p @ (1.0 - np.eye(p.shape[1]))
    return np.maximum(p, TINY), np.maximum(rest, TINY)


@dataclass(frozen=True, slots=True)
class PerClass:
    """One curve per class, or the one of class 1 for two classes."""

    curves: Sequence[Curve]

    def apply(self, scores: Floats) -> Floats:
        """Scores (rows, classes) to log g, not yet divided by the sum."""
        p, rest = odds(scores)
        if len(self.curves) == 1:
            g = np.clip(self.curves[0](p[:, 1], rest[:, 1]), EDGE, 1.0 - EDGE)
            return np.log(np.stack([1.0 - g, g], axis=1))
        g = np.stack([curve(p[:, k], rest[:, k]) for k, curve in enumerate(self.curves)], axis=1)
        return np.asarray(np.log(np.clip(g, EDGE, 1.0 - EDGE)))

    def graph(self, graph: Graph, scores: str) -> str:
        """Softmax, the curves, Log."""
        count = BINARY if len(self.curves) == 1 else len(self.curves)
        p = graph.add("Softmax", scores, axis=1)
        others = graph.constant("others", (1.0 - np.eye(count)).astype(np.float32))
        floor = graph.scalar(TINY)
        both = graph.add("Max", p, floor), graph.add("Max", graph.add("MatMul", p, others), floor)
        columns = []
        for k, curve in zip(range(count - len(self.curves), count), self.curves, strict=True):
            index = graph.constant("class", np.asarray([k], np.int64))
            columns.append(curve.graph(graph, *(graph.add("Gather", v, index, axis=1) for v in both)))
        if len(columns) > 1:
            return graph.add("Log", self._clipped(graph, graph.add("Concat", *columns, axis=1)))
        g = self._clipped(graph, columns[0])
        return graph.add("Log", graph.add("Concat", graph.add("Sub", graph.scalar(1.0), g), g, axis=1))

    @staticmethod
    def _clipped(graph: Graph, g: str) -> str:
        return graph.add("Clip", g, graph.scalar(EDGE), graph.scalar(1.0 - EDGE))
