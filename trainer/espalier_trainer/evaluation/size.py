"""M7 and memory: what a version weighs, with everything that belongs to it."""

from __future__ import annotations

import resource
import sys
from typing import TYPE_CHECKING

import onnx
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from espalier_api.artifact import MODEL_ONNX
from espalier_trainer.errors import ParityError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from onnx import GraphProto, TensorProto


def model_bytes(files: Mapping[str, bytes], served: str = MODEL_ONNX) -> int:
    """Bytes of all files of the model: every `model.*` and every file in which one of the graphs keeps its weights. Of a
    quantized version only the graph that is served counts: its twin in floats is there to compare with.

    A graph whose weights lie in a file that the version lacks cannot be served: ParityError.
    """
    names = {name for name in files if name.startswith("model.")} if served == MODEL_ONNX else {served}
    for graph in [name for name in names if name.endswith(".onnx")]:
        for sidecar in sidecars(files[graph]):
            if sidecar not in files:
                raise ParityError(
                    f"{graph} keeps weights in {sidecar!r}, which is not among the files of the version",
                    "export with external_data=False or publish the file as well",
                )
            names.add(sidecar)
    return sum(len(files[name]) for name in names)


def sidecars(model: bytes) -> set[str]:
    """Names of the files outside in which an ONNX graph keeps tensors (torch's exporters write `model.onnx.data`)."""
    return {
        ExternalDataInfo(t).location
        for t in _tensors(onnx.load_model_from_string(model).graph)
        if uses_external_data(t)
    }


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """Initializers and tensor attributes, those of subgraphs included."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                yield from _tensors(inner)


def peak_memory_bytes() -> int:
    """Largest resident size of this process so far; the kernel counts KiB on Linux and bytes on macOS."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
