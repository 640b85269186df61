"""Prepared data for engines without torch, and the graph of what they fitted as a function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from espalier_api.artifact import ONNX_INPUT, ONNX_PROBABILITIES, ONNX_VALUE
from espalier_api.engines import Engine as EngineConfig
from espalier_api.regularizers import Regularizers
from espalier_trainer import engines
from espalier_trainer.engines import Engine, FitData, Part
from espalier_trainer.export.graph import served_graph
from espalier_trainer.preprocessing import Preprocessor

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from espalier_trainer.engines import Fitted

GOLDEN = 64


def gaussians(
    n: int = 400, classes: int = 3, features: int = 6, seed: int = 0, shares: tuple[float, ...] | None = None
) -> FitData:
    """Overlapping Gaussians, three quarters for training; `shares` are the classes' frequencies."""
    draw = np.random.default_rng(seed)
    y = draw.choice(classes, size=n, p=shares)
    x = 1.2 * draw.normal(size=(classes, features))[y] + draw.normal(size=(n, features))
    return parts(x, y.astype(np.int64), classes)


def curve(n: int = 400, features: int = 6, seed: int = 0) -> FitData:
    """A smooth target of the first two features, of unit variance."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(n, features))
    y = np.sin(2 * x[:, 0]) + x[:, 1] + 0.3 * draw.normal(size=n)
    return parts(x, (y - y.mean()) / y.std(), 0)


def parts(x: npt.NDArray[Any], y: npt.NDArray[Any], classes: int, weight: npt.NDArray[Any] | None = None) -> FitData:
    """The first three quarters train, the rest validates; weights are scaled to mean 1 as the run does."""
    cut = 3 * len(y) // 4
    x = x.astype(np.float32)
    one = None if weight is None else weight[:cut] / weight[:cut].mean()
    return FitData(
        train=Part(x[:cut], y[:cut], one),
        validation=Part(x[cut:], y[cut:]),
        classes=classes,
        features=tuple(f"f{i}" for i in range(x.shape[1])),
        splits=frozenset({"train", "validation", "calibration", "test"}),
    )


def engine(config: Mapping[str, Any], blocks: Mapping[str, Any] | None = None) -> Engine:
    """The engine as a job makes it, from what a manifest says."""
    (name, chosen), *_ = EngineConfig.model_validate(config).chosen().items()
    return engines.load(name, chosen, dict(Regularizers.model_validate(blocks or {}).declared()))


def served(fitted: Fitted, data: FitData, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """What the exported graph answers to standardized rows: probabilities (rows, classes) or values (rows, 1)."""
    count = len(data.features)
    plain = Preprocessor(data.features, np.zeros(count, dtype=np.float32), np.ones(count, dtype=np.float32))
    model = served_graph(fitted, plain, data.classes, 1.0)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (answer,) = session.run([ONNX_PROBABILITIES if data.classes else ONNX_VALUE], {ONNX_INPUT: x})
    return np.asarray(answer, dtype=np.float64)


def golden(data: FitData, seed: int = 9) -> npt.NDArray[np.float32]:
    """64 rows beyond the training data's edges too."""
    return 2 * np.random.default_rng(seed).normal(size=(GOLDEN, len(data.features))).astype(np.float32)
