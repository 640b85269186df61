"""Fitted estimators as scores and nodes, one class per kind. `shift` (classes,) is the prior correction of classRebalancing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from espalier_trainer.engines.classical import binary
from espalier_trainer.engines.sklearn import trees

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from espalier_trainer.engines import FitReport
    from espalier_trainer.engines.sklearn.kernels import Machines
    from espalier_trainer.export.graph import Graph

    Floats = npt.NDArray[np.float64]

_TINY: Final = 1e-7  # probabilities of trees are exactly 0 at times; logits need a floor that float32 keeps


class FittedSklearn:
    """What all kinds share. `estimator` is scikit-learn's own object."""

    def __init__(self, estimator: Any, classes: int, shift: Floats, report: FitReport) -> None:  # noqa: ANN401 - untyped library
        self.estimator, self.classes, self.report = estimator, classes, report
        self.shift = shift - shift[0] if classes == 2 else shift if classes else np.zeros(1)  # noqa: PLR2004 - (0, z)

    def scores(self, x: npt.NDArray[np.float32]) -> Floats:
        """Standardized features (rows, features) to logits (rows, classes) or standardized values (rows, 1)."""
        raise NotImplementedError

    def graph(self, graph: Graph, standardized: str) -> str:
        """The same as nodes."""
        raise NotImplementedError

    def norms(self) -> tuple[float, float] | None:
        """||w||_1 and ||w||^2 / 2 of the penalized weights; None where there are none that one can read."""
        return None

    def weights(self) -> Mapping[str, npt.NDArray[Any]]:
        """Arrays for model.safetensors."""
        return {}

    def files(self) -> Mapping[str, bytes]:
        """None."""
        return {}

    def _both(self, graph: Graph, z: str) -> str:
        """Log odds (rows, 1) to logits (0, z)."""
        return graph.add("Concat", graph.add("Mul", z, graph.scalar(0.0)), z, axis=1)


class Linear(FittedSklearn):
    """One Gemm. A binary logistic model has one row z; its logits are (0, z)."""

    def __init__(self, estimator: Any, classes: int, shift: Floats, report: FitReport) -> None:  # noqa: ANN401 - untyped library
        super().__init__(estimator, classes, shift, report)
        weight = np.atleast_2d(np.asarray(estimator.coef_, dtype=np.float64))
        bias = np.atleast_1d(np.asarray(estimator.intercept_, dtype=np.float64))
        if classes and len(weight) == 1:
            weight, bias = np.vstack([np.zeros_like(weight), weight]), np.concatenate([[0.0], bias])
        self.coefficients, self.intercept = weight, bias + self.shift

    def scores(self, x: npt.NDArray[np.float32]) -> Floats:
        """w x + b."""
        return np.asarray(x.astype(np.float64) @ self.coefficients.T + self.intercept)

    def graph(self, graph: Graph, standardized: str) -> str:
        """One Gemm."""
        weight = graph.constant("weight", self.coefficients.astype(np.float32))
        bias = graph.constant("bias", self.intercept.astype(np.float32))
        return graph.add("Gemm", standardized, weight, bias, transB=1)

    def norms(self) -> tuple[float, float]:
        """Of the coefficients; intercepts are free."""
        return float(np.abs(self.coefficients).sum()), float((self.coefficients**2).sum() / 2)

    def weights(self) -> Mapping[str, npt.NDArray[Any]]:
        """Coefficients and intercept."""
        return {"coef": self.coefficients, "intercept": self.intercept}


class Forest(FittedSklearn):
    """Logits are log shares."""

    def scores(self, x: npt.NDArray[np.float32]) -> Floats:
        """Of forests: log shares, or means."""
        if not self.classes:
            return np.asarray(self.estimator.predict(x), dtype=np.float64)[:, None]
        return np.asarray(np.log(np.clip(self.estimator.predict_proba(x), _TINY, None)) + self.shift)

    def graph(self, graph: Graph, standardized: str) -> str:
        """One TreeEnsembleRegressor."""
        shares = trees.forest(graph, self.estimator, standardized, self.classes or 1)
        if not self.classes:
            return shares
        logits = graph.add("Log", graph.add("Max", shares, graph.scalar(_TINY)))
        return graph.add("Add", logits, graph.constant("prior", self.shift.astype(np.float32)))


class Boosted(FittedSklearn):
    """Raw scores on top of the baseline."""

    def scores(self, x: npt.NDArray[np.float32]) -> Floats:
        """The decision function, or the prediction."""
        raw = self.estimator.decision_function(x) if self.classes else self.estimator.predict(x)
        return self.logits(np.asarray(raw, dtype=np.float64))

    def logits(self, raw: Floats) -> Floats:
        """What scikit-learn returns, as (rows, classes) with the prior corrected or (rows, 1)."""
        if not self.classes:
            return raw[:, None]
        return (raw if raw.ndim > 1 else binary(raw)) + self.shift

    def graph(self, graph: Graph, standardized: str) -> str:
        """One TreeEnsembleRegressor."""
        one = self.estimator.n_trees_per_iteration_ == 1
        raw = trees.boosted(
            graph, self.estimator, standardized, self.shift[-1:].tolist() if one else self.shift.tolist()
        )
        return self._both(graph, raw) if self.classes and one else raw


class Kernel(FittedSklearn):
    """`estimator` is our `Machines`."""

    estimator: Machines

    def scores(self, x: npt.NDArray[np.float32]) -> Floats:
        """Margins one against the rest, (0, margin) for two classes, or values."""
        raw = self.estimator.decide(x.astype(np.float64))
        return binary(raw[:, 0]) if self.classes == 2 else raw  # noqa: PLR2004 - binary

    def graph(self, graph: Graph, standardized: str) -> str:
        """Kernel and Gemm."""
        raw = self.estimator.append(graph, standardized)
        return self._both(graph, raw) if self.classes == 2 else raw  # noqa: PLR2004 - binary

    def norms(self) -> tuple[float, float]:
        """In feature space; there is no l1 norm of it that a block could penalize."""
        return 0.0, self.estimator.half_norm

    def weights(self) -> Mapping[str, npt.NDArray[Any]]:
        """Support vectors, dual coefficients and intercepts."""
        machines = self.estimator
        return {"vectors": machines.vectors, "dual": machines.coefficients, "intercept": machines.intercept}


_ACTIVATIONS: Final = {"relu": "Relu", "tanh": "Tanh", "logistic": "Sigmoid", "identity": "Identity"}


class Network(FittedSklearn):
    """scikit-learn's multi-layer perceptron, its last layer without the output activation."""

    def scores(self, x: npt.NDArray[np.float32]) -> Floats:
        """The layers in double precision."""
        hidden = x.astype(np.float64)
        *inner, last = zip(self.estimator.coefs_, self.estimator.intercepts_, strict=True)
        for weight, bias in inner:
            hidden = _activate(self.estimator.activation, hidden @ weight + bias)
        raw = np.asarray(hidden @ last[0] + last[1])
        return (binary(raw[:, 0]) if self.classes == 2 else raw) + self.shift  # noqa: PLR2004 - binary

    def graph(self, graph: Graph, standardized: str) -> str:
        """A Gemm per layer."""
        x, count = standardized, len(self.estimator.coefs_)
        for i, (weight, bias) in enumerate(zip(self.estimator.coefs_, self.estimator.intercepts_, strict=True)):
            w, b = (graph.constant(n, a.astype(np.float32)) for n, a in (("weight", weight), ("bias", bias)))
            x = graph.add("Gemm", x, w, b)
            if i < count - 1:
                x = graph.add(_ACTIVATIONS[self.estimator.activation], x)
        logits = self._both(graph, x) if self.classes == 2 else x  # noqa: PLR2004 - binary
        return graph.add("Add", logits, graph.constant("prior", self.shift.astype(np.float32)))

    def norms(self) -> tuple[float, float]:
        """Of all layers' weights; biases are free."""
        flat = np.concatenate([w.ravel() for w in self.estimator.coefs_]).astype(np.float64)
        return float(np.abs(flat).sum()), float((flat**2).sum() / 2)

    def weights(self) -> Mapping[str, npt.NDArray[Any]]:
        """`<layer>.weight` (inputs, outputs) and `<layer>.bias`."""
        pairs = enumerate(zip(self.estimator.coefs_, self.estimator.intercepts_, strict=True))
        return {f"{i}.{n}": a for i, pair in pairs for n, a in zip(("weight", "bias"), pair, strict=True)}


def _activate(name: str, z: Floats) -> Floats:
    match name:
        case "relu":
            return np.maximum(z, 0.0)
        case "tanh":
            return np.asarray(np.tanh(z))
        case "logistic":
            return np.asarray(0.5 * (1.0 + np.tanh(z / 2)))
        case _:
            return z


KINDS: Final[Mapping[str, type[FittedSklearn]]] = {
    "linear": Linear,
    "forest": Forest,
    "boosted": Boosted,
    "kernel": Kernel,
    "network": Network,
}
