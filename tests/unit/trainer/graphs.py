"""Runs nodes that a test appended to a Graph, by onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from espalier_trainer.export.graph import IR_VERSION, OPSET, Graph


def run(graph: Graph, output: str, name: str, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The value `output` (rows, ...) of the graph for its one float32 input `name` (rows, columns)."""
    proto = helper.make_graph(
        graph.nodes,
        "test",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", rows.shape[1]])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        graph.constants,
    )
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {name: rows.astype(np.float32)})[0])
