"""Whole jobs on small data, in a folder that stands for S3, as a process or in this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq

from espalier_api import artifact
from espalier_api.training import TrainingJob, TrainingResult
from espalier_trainer.main import main

if TYPE_CHECKING:
    from pathlib import Path

VERSION = "models/vision/tiny/v1"


def job(**changes: Any) -> dict[str, Any]:
    """A classification of three Gaussians with a small network; top-level fields can be replaced."""
    base: dict[str, Any] = {
        "model": {"namespace": "vision", "name": "tiny"},
        "version": "v1",
        "attempt": 1,
        "specHash": "sha256:one",
        "task": {"type": "classification"},
        "data": {
            "snapshot": {"uri": "s3://datasets/tiny/"},
            "target": "label",
            "features": {"exclude": ["g"]},
            "split": {"validation": 0.2, "calibration": 0.15, "test": 0.25, "seed": 3},
        },
        "engine": {
            "torch": {
                "architecture": {"mlp": {"hidden": [16]}},
                "optimizer": {"adamw": {"learningRate": 0.02}},
                "epochs": 6,
                "batchSize": 32,
            }
        },
        "regularizers": {"l2": {"strength": 1e-3}, "dropout": {"p": 0.2}, "calibration": {}},
        "seed": 3,
        "artifact": {"uri": f"s3://{VERSION}/"},
        "checkpoint": {"uri": "s3://models/vision/tiny/.checkpoints/v1/", "interval": "5m"},
    }
    return {**base, **changes}


def parsed(**changes: Any) -> TrainingJob:
    return TrainingJob.model_validate(job(**changes))


def gaussians(n: int = 240, classes: int = 3, seed: int = 0) -> pa.Table:
    draw = np.random.default_rng(seed)
    y = draw.integers(0, classes, n)
    x = 1.5 * draw.normal(size=(classes, 5))[y] + draw.normal(size=(n, 5))
    return pa.table(
        {**{f"f{i}": 10 + 3 * x[:, i] for i in range(5)}, "label": y, "g": np.where(draw.random(n) < 0.5, "u", "v")}
    )


def line(n: int = 240, seed: int = 0) -> pa.Table:
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(n, 4))
    return pa.table(
        {
            **{f"f{i}": x[:, i] for i in range(4)},
            "label": 500 + 100 * (x @ [1.0, -0.5, 0, 0]) + 20 * draw.normal(size=n),
        }
    )


def stage(folder: Path, table: pa.Table | None = None) -> Path:
    """The snapshot below the folder."""
    (folder / "datasets/tiny").mkdir(parents=True, exist_ok=True)
    pq.write_table(gaussians() if table is None else table, folder / "datasets/tiny/part-0.parquet")
    return folder


def arguments(folder: Path, spec: dict[str, Any], *, local: bool = True) -> list[str]:
    (folder / "job.json").write_text(json.dumps(spec))
    return ["--job", str(folder / "job.json"), "--port", "0", *(["--local", str(folder)] if local else [])]


def train(folder: Path, **changes: Any) -> TrainingResult:
    """Run in this process; TERMINATION_LOG must point to <folder>/term."""
    code = main(arguments(folder, job(**changes)))
    result = TrainingResult.from_termination_message((folder / "term").read_text())
    assert result.exit_code == code
    return result


def start(folder: Path, spec: dict[str, Any], *, local: bool = True, **env: str) -> subprocess.Popen[str]:
    """Run as a process, one thread, its log on stdout."""
    command = [sys.executable, "-m", "espalier_trainer", *arguments(folder, spec, local=local)]
    environment = {**os.environ, "TERMINATION_LOG": str(folder / "term"), "OMP_NUM_THREADS": "1", **env}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def events(log: str) -> list[dict[str, Any]]:
    return [json.loads(entry) for entry in log.splitlines() if entry.startswith("{")]


def answer(folder: Path, x: np.ndarray) -> dict[str, np.ndarray]:
    """What the published graph in `folder` answers to rows `x`, by output name."""
    session = onnxruntime.InferenceSession(
        (folder / artifact.MODEL_ONNX).read_bytes(), providers=["CPUExecutionProvider"]
    )
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, {artifact.ONNX_INPUT: x}), strict=True))
