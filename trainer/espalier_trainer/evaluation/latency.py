"""Latency and answers of the exported artifact: what is measured is what is served."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnxruntime

from espalier_api.artifact import ONNX_INPUT, MetricValue

if TYPE_CHECKING:
    import numpy.typing as npt

CALLS: Final = 1000
CALLS_FOR_A_GATE: Final = 5000
WARM_UP: Final = 50
SECONDS: Final = 3.0
FEWEST: Final = 200
QUANTILES: Final = (0.5, 0.95, 0.99)

onnxruntime.disable_telemetry_events()  # a training pod reports to its operator and to nobody else


class Runtime:
    """The artifact in onnxruntime, one thread."""

    def __init__(self, model: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.outputs: list[str] = [o.name for o in self._session.get_outputs()]

    def __call__(self, x: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[Any]]:
        """Outputs by name for raw features (rows, features)."""
        return dict(zip(self.outputs, self._session.run(None, {ONNX_INPUT: x}), strict=True))

    def latency(self, x: npt.NDArray[np.float32], calls: int = CALLS) -> dict[str, MetricValue]:
        """latencyP50Seconds, latencyP95Seconds and latencyP99Seconds of single-row calls; stops after 3 s, never below 200 calls."""
        taken = self.times(x, calls)
        return {f"latencyP{round(100 * q)}Seconds": quantile(taken, q) for q in QUANTILES}

    def times(self, x: npt.NDArray[np.float32], calls: int) -> npt.NDArray[np.float64]:
        """Seconds of each single-row call after a warm-up, sorted."""
        rows = [np.ascontiguousarray(x[i : i + 1]) for i in range(len(x))]
        for i in range(WARM_UP):
            self(rows[i % len(rows)])
        taken: list[float] = []
        began = time.perf_counter()
        while len(taken) < calls and (len(taken) < FEWEST or time.perf_counter() - began < SECONDS):
            start = time.perf_counter()
            self(rows[len(taken) % len(rows)])
            taken.append(time.perf_counter() - start)
        return np.sort(taken)


def quantile(times: npt.NDArray[np.float64], q: float) -> MetricValue:
    """The q-quantile of sorted times with the order-statistic 95 % interval (normal approximation of the binomial rank)."""
    n = len(times)
    half = 1.96 * (n * q * (1 - q)) ** 0.5
    low, high = (int(np.clip(round(q * n + sign * half), 0, n - 1)) for sign in (-1, 1))
    return MetricValue(value=float(np.quantile(times, q)), low=float(times[low]), high=float(times[high]), n=n)
