"""Tiny versions to serve: graphs made by hand, whose answers a reader can compute, in artifacts as the trainer writes
them.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from espalier_api.artifact import (
    GOLDEN,
    MANIFEST,
    MODEL_ONNX,
    REFERENCE,
    REQUIRED_FILES,
    FileEntry,
    Manifest,
    ManifestTask,
    Tensor,
    version_digest,
)
from espalier_api.serving import FeedbackSettings, OutputGuards, ServingConfig, ServingLimits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from espalier_server.model import Rows

CLASSES = ("cat", "dog", "eel")
FEATURES = ("a", "b", "c")
KEY = "7b0c0ad4-3f0e-4d37-9be2-9f6f7f1f5d11"


def classifier_graph(scale: float = 1.0) -> bytes:
    """probabilities = softmax(scale * input), label = argmax: three features, three classes."""
    nodes = [
        helper.make_node("Mul", ["input", "scale"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0),
    ]
    outputs = [
        helper.make_tensor_value_info("label", TensorProto.INT64, ["N"]),
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 3]),
    ]
    return _model(nodes, outputs, [helper.make_tensor("scale", TensorProto.FLOAT, [], [scale])])


def regressor_graph() -> bytes:
    """value = a + 2 b + 3 c."""
    nodes = [helper.make_node("MatMul", ["input", "weights"], ["value"])]
    outputs = [helper.make_tensor_value_info("value", TensorProto.FLOAT, ["N", 1])]
    return _model(nodes, outputs, [helper.make_tensor("weights", TensorProto.FLOAT, [3, 1], [1.0, 2.0, 3.0])])


def logarithm_graph() -> bytes:
    """value = log(a): not finite for a <= 0, though such an input is valid."""
    nodes = [
        helper.make_node("Slice", ["input", "zero", "one", "one"], ["a"]),
        helper.make_node("Log", ["a"], ["value"]),
    ]
    outputs = [helper.make_tensor_value_info("value", TensorProto.FLOAT, ["N", 1])]
    axes = [
        helper.make_tensor("zero", TensorProto.INT64, [1], [0]),
        helper.make_tensor("one", TensorProto.INT64, [1], [1]),
    ]
    return _model(nodes, outputs, axes)


def _model(nodes: list[Any], outputs: list[Any], constants: list[Any]) -> bytes:
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", len(FEATURES)])]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def task(kind: str = "classification", classes: tuple[str, ...] = CLASSES) -> ManifestTask:
    """The manifest's task for the graphs above."""
    return ManifestTask(
        type="classification" if kind == "classification" else "regression",
        classes=classes if kind == "classification" else (),
        features=FEATURES,
        inputs=(Tensor(name="input", datatype="FP32", shape=(-1, 3)),),
        outputs=(),
    )


def softmax(rows: Rows) -> Rows:
    """What `classifier_graph` computes."""
    powers = np.exp(rows - rows.max(axis=1, keepdims=True))
    found: Rows = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    return found


def golden_rows(n: int = 64) -> Rows:
    """Positive, so that every graph above has a finite answer."""
    return np.random.default_rng(7).uniform(0.1, 3.0, size=(n, 3)).astype(np.float32)


def npz(**arrays: Any) -> bytes:
    """The bytes of an npz file."""
    sink = io.BytesIO()
    np.savez(sink, **arrays)
    return sink.getvalue()


def classifier_files() -> dict[str, bytes]:
    """All required files of a classification, without the manifest."""
    rows = golden_rows()
    probabilities = softmax(rows)
    golden = npz(input=rows, label=probabilities.argmax(axis=1), probabilities=probabilities)
    edges = np.linspace(0.0, 10.0, 11).tolist()
    reference = {"features": {name: {"edges": edges, "ratios": [0.1] * 10} for name in FEATURES}, "accuracy": 0.9}
    return _files(classifier_graph(), golden, reference)


def regressor_files(**reference: Any) -> dict[str, bytes]:
    """All required files of a regression whose test RMSE was 0.5."""
    rows = golden_rows()
    golden = npz(input=rows, value=rows @ np.array([[1.0], [2.0], [3.0]], dtype=np.float32))
    return _files(regressor_graph(), golden, {"features": {}, "rmse": 0.5, **reference})


def _files(graph: bytes, golden: bytes, reference: dict[str, Any]) -> dict[str, bytes]:
    known = {MODEL_ONNX: graph, GOLDEN: golden, REFERENCE: json.dumps(reference).encode()}
    return {name: known.get(name, f"content of {name}".encode()) for name in REQUIRED_FILES}


@dataclass(slots=True)
class Version:
    """An artifact in memory; a Store that a test can break."""

    files: dict[str, bytes] = field(default_factory=classifier_files)
    kind: str = "classification"
    name: str = "v4"
    manifest: bytes = b""
    reads: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.seal()

    def seal(self, **changes: Any) -> None:
        """Write the manifest for the files as they are now; keyword arguments replace its fields."""
        entries = {
            name: FileEntry(sha256=hashlib.sha256(content).hexdigest(), size=len(content))
            for name, content in self.files.items()
        }
        manifest = Manifest(
            namespace="vision",
            model="digits",
            version=self.name,
            spec_hash="sha256:" + "1" * 64,
            snapshot_digest="sha256:" + "2" * 64,
            content_sha256="3" * 64,
            created_at="2026-11-01T03:00:00Z",
            seed=7,
            task=task(self.kind),
            framework="torch 2.15.0",
            files=entries,
            metrics={},
        )
        content = manifest.dump() | changes
        self.manifest = json.dumps(content).encode()

    def read(self, name: str) -> Iterator[bytes]:
        """See espalier_server.storage.Store."""
        self.reads.append(name)
        content = self.manifest if name == MANIFEST else self.files[name]
        for start in range(0, max(len(content), 1), 1000):
            yield content[start : start + 1000]

    def config(self, **changes: Any) -> ServingConfig:
        """The serving.json that intends this version; keyword arguments replace its fields."""
        fields: dict[str, Any] = {
            "namespace": "vision",
            "model": "digits",
            "version": self.name,
            "artifact_uri": f"s3://models/vision/digits/{self.name}/",
            "digest": version_digest(self.manifest),
            "output_guards": OutputGuards(),
            "limits": ServingLimits(max_body_bytes=65536, max_batch=100, request_timeout_seconds=5),
            "feedback": FeedbackSettings(key=KEY),
            "drain_seconds": 1.0,
        }
        return ServingConfig(**{**fields, **changes})
