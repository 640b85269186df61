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

    def p95(self, x: npt.NDArray[np.float32], calls: int = CALLS) -> MetricValue:
        """95th percentile in seconds of single-row calls, with the order-statistic interval. Stops after 3 s, never below 200 calls."""
        rows = [np.ascontiguousarray(x[i : i + 1]) for i in range(len(x))]
        for i in range(WARM_UP):
            self(rows[i % len(rows)])
        taken: list[float] = []
        began = time.perf_counter()
        while len(taken) < calls and (len(taken) < FEWEST or time.perf_counter() - began < SECONDS):
            start = time.perf_counter()
            self(rows[len(taken) % len(rows)])
            taken.append(time.perf_counter() - start)
        times = np.sort(taken)
        n = len(times)
        half = 1.96 * (n * 0.95 * 0.05) ** 0.5
        low, high = (int(np.clip(round(0.95 * n + sign * half), 0, n - 1)) for sign in (-1, 1))
        return MetricValue(value=float(np.quantile(times, 0.95)), low=float(times[low]), high=float(times[high]), n=n)
