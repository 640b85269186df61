"""Support vector machines as support vectors and coefficients, one against the rest for many classes.

scikit-learn's own many-class SVC votes between pairs, which no temperature turns into honest probabilities; K margins of K machines can
be read as logits once `calibration` has scaled them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from espalier_trainer.errors import InvalidConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from espalier_trainer.export.graph import Graph

KERNELS: Final = ("linear", "rbf", "poly", "sigmoid")


@dataclass(frozen=True, slots=True)
class Machines:
    """f(x) = K(x, vectors) coefficients + intercept, (rows, machines); `vectors` (support, features)."""

    kernel: str
    gamma: float
    coef0: float
    degree: float
    vectors: npt.NDArray[np.float64]
    coefficients: npt.NDArray[np.float64]
    intercept: npt.NDArray[np.float64]

    def gram(self, x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Kernel of rows (rows, features) with the support vectors, (rows, support)."""
        inner = x @ self.vectors.T
        match self.kernel:
            case "linear":
                return np.asarray(inner)
            case "rbf":
                squares = (x**2).sum(axis=1)[:, None] + (self.vectors**2).sum(axis=1) - 2 * inner
                return np.asarray(np.exp(-self.gamma * np.maximum(squares, 0.0)))
            case "poly":
                return np.asarray((self.gamma * inner + self.coef0) ** self.degree)
            case _:
                return np.asarray(np.tanh(self.gamma * inner + self.coef0))

    def decide(self, x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Margins or values, (rows, machines)."""
        return np.asarray(self.gram(x) @ self.coefficients + self.intercept)

    @property
    def half_norm(self) -> float:
        """||w||^2 / 2 in feature space, summed over machines: what l2 penalizes."""
        return float((self.coefficients * (self.gram(self.vectors) @ self.coefficients)).sum() / 2)

    def append(self, graph: Graph, x: str) -> str:
        """The same as nodes in float32; returns the name of (rows, machines)."""
        bias = graph.constant("bias", self.intercept.astype(np.float32))
        if self.kernel == "linear":
            weight = graph.constant("weight", (self.vectors.T @ self.coefficients).astype(np.float32))
            return graph.add("Gemm", x, weight, bias)
        vectors = graph.constant("vectors", self.vectors.T.astype(np.float32))
        inner = graph.add("MatMul", x, vectors)
        if self.kernel == "rbf":
            own = graph.constant("squares", (self.vectors**2).sum(axis=1)[None, :].astype(np.float32))
            axes = graph.constant("axes", np.asarray([1], dtype=np.int64))
            squares = graph.add("Add", graph.add("ReduceSumSquare", x, axes, keepdims=1), own)
            distance = graph.add("Sub", squares, graph.add("Mul", inner, graph.scalar(2.0)))
            known = graph.add("Max", distance, graph.scalar(0.0))
            gram = graph.add("Exp", graph.add("Mul", known, graph.scalar(-self.gamma)))
        else:
            scaled = graph.add("Add", graph.add("Mul", inner, graph.scalar(self.gamma)), graph.scalar(self.coef0))
            gram = (
                graph.add("Pow", scaled, graph.scalar(self.degree))
                if self.kernel == "poly"
                else graph.add("Tanh", scaled)
            )
        return graph.add("Gemm", gram, graph.constant("dual", self.coefficients.astype(np.float32)), bias)


def fit(
    make: Callable[..., Any],
    x: npt.NDArray[np.float64],
    y: npt.NDArray[Any],
    classes: int,
    weight: npt.NDArray[np.float64] | None,
) -> Machines:
    """One machine for values (classes 0) and for two classes, else one per class against the rest. `make(**more)` builds one."""
    plain = make()
    if plain.kernel not in KERNELS:
        raise InvalidConfigError(f"engine.sklearn.params.kernel: {plain.kernel!r}; use one of {', '.join(KERNELS)}")
    gamma = _gamma(plain.gamma, x)
    targets = [y] if classes <= 2 else [(y == k).astype(np.int64) for k in range(classes)]  # noqa: PLR2004 - binary
    fitted = [make(gamma=gamma).fit(x, target, sample_weight=weight) for target in targets]
    used = np.unique(np.concatenate([m.support_ for m in fitted]))
    coefficients = np.zeros((len(used), len(fitted)))
    for column, machine in enumerate(fitted):
        coefficients[np.searchsorted(used, machine.support_), column] = machine.dual_coef_[0]
    intercept = np.asarray([float(m.intercept_[0]) for m in fitted])
    return Machines(plain.kernel, gamma, float(plain.coef0), float(plain.degree), x[used], coefficients, intercept)


def _gamma(asked: float | str, x: npt.NDArray[np.float64]) -> float:
    """scikit-learn's `scale` and `auto` as numbers, so that all machines share one."""
    if asked == "scale":
        return 1.0 / (x.shape[1] * float(x.var())) if x.var() else 1.0
    return 1.0 / x.shape[1] if asked == "auto" else float(asked)
