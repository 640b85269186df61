"""The benchmark's model: an MLP 64-256-256-10 with random weights, the size of the quickstart's digits network, as an artifact."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from espalier_api.artifact import (
    GOLDEN,
    MANIFEST,
    MODEL_ONNX,
    REFERENCE,
    REQUIRED_FILES,
    FileEntry,
    Manifest,
    ManifestTask,
    version_digest,
)
from espalier_api.serving import FeedbackSettings, ServingConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

FEATURES, HIDDEN, CLASSES = 64, 256, 10


def mlp() -> bytes:
    """The graph, in the trainer's shape: float32 `input` [N, 64] to `label` [N] and `probabilities` [N, 10]."""
    rng = np.random.default_rng(0)
    sizes = [FEATURES, HIDDEN, HIDDEN, CLASSES]
    nodes, constants, last = [], [], "input"
    for layer, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        weights = (rng.normal(size=(fan_in, fan_out)) / np.sqrt(fan_in)).astype(np.float32)
        constants += [numpy_helper.from_array(weights, f"w{layer}")]
        constants += [numpy_helper.from_array(np.zeros(fan_out, np.float32), f"b{layer}")]
        nodes.append(helper.make_node("Gemm", [last, f"w{layer}", f"b{layer}"], [f"z{layer}"]))
        last = f"z{layer}"
        if layer < len(sizes) - 2:
            nodes.append(helper.make_node("Relu", [last], [f"h{layer}"]))
            last = f"h{layer}"
    nodes.append(helper.make_node("Softmax", [last], ["probabilities"], axis=1))
    nodes.append(helper.make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0))
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", FEATURES])]
    outputs = [
        helper.make_tensor_value_info("label", TensorProto.INT64, ["N"]),
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", CLASSES]),
    ]
    graph = helper.make_graph(nodes, "mlp", inputs, outputs, constants)
    content: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    ).SerializeToString()
    return content


@dataclass(slots=True)
class MemoryStore:
    """An artifact that needs no S3; see espalier_server.storage.Store."""

    files: dict[str, bytes]

    def read(self, name: str) -> Iterator[bytes]:
        """The file in one piece."""
        yield self.files[name]


def artifact() -> tuple[MemoryStore, ServingConfig]:
    """The version and the serving.json that intends it. Its golden outputs come from onnxruntime itself."""
    import onnxruntime  # noqa: PLC0415 - after the graph exists

    graph = mlp()
    rows = np.random.default_rng(1).uniform(0, 16, size=(64, FEATURES)).astype(np.float32)
    label, probabilities = onnxruntime.InferenceSession(graph).run(["label", "probabilities"], {"input": rows})
    sink = io.BytesIO()
    np.savez(sink, input=rows, label=label, probabilities=probabilities)
    names = [f"px{index:02d}" for index in range(FEATURES)]
    bins = {name: {"edges": np.linspace(0, 16, 11).tolist(), "ratios": [0.1] * 10} for name in names}
    known = {MODEL_ONNX: graph, GOLDEN: sink.getvalue(), REFERENCE: json.dumps({"features": bins}).encode()}
    files = {name: known.get(name, b"-") for name in REQUIRED_FILES}
    files[MANIFEST] = _manifest(files, names)
    config = ServingConfig(
        namespace="bench",
        model="digits",
        version="v1",
        artifact_uri="s3://models/bench/digits/v1/",
        digest=version_digest(files[MANIFEST]),
        feedback=FeedbackSettings(key="bench"),
        drain_seconds=0,
    )
    return MemoryStore(files), config


def _manifest(files: dict[str, bytes], names: list[str]) -> bytes:
    task = ManifestTask(
        type="classification",
        classes=tuple(str(index) for index in range(CLASSES)),
        features=tuple(names),
        inputs=(),
        outputs=(),
    )
    entries = {name: FileEntry(sha256=hashlib.sha256(data).hexdigest(), size=len(data)) for name, data in files.items()}
    manifest = Manifest.model_validate(
        {
            "namespace": "bench",
            "model": "digits",
            "version": "v1",
            "specHash": "sha256:" + "0" * 64,
            "snapshotDigest": "sha256:" + "0" * 64,
            "contentSha256": "0" * 64,
            "createdAt": "2026-11-01T00:00:00Z",
            "seed": 0,
            "task": task.dump(),
            "framework": "numpy",
            "files": {name: entry.dump() for name, entry in entries.items()},
            "metrics": {},
        }
    )
    return manifest.to_json().encode()
