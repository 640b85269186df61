"""Builds the one graph that is served: raw features → preprocessing → model → temperature → outputs of the contract.

Written with onnx.helper, not traced: names, shapes and operators are exactly these, whatever engine or version made the weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper

from espalier_api.artifact import ONNX_INPUT, ONNX_LABEL, ONNX_PROBABILITIES, ONNX_VALUE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt
    from onnx import NodeProto

    from espalier_trainer.engines import Fitted
    from espalier_trainer.preprocessing import Preprocessor
    from espalier_trainer.protocol import ScoreTransform

OPSET: Final = 18
IR_VERSION: Final = 9  # read by every onnxruntime since 1.15


class Graph:
    """A growing list of nodes; values are named by what made them. `plain` asks for layers as they were before rounding."""

    FLOAT: Final = TensorProto.FLOAT
    INT64: Final = TensorProto.INT64

    def __init__(self, *, plain: bool = False) -> None:
        self.plain = plain
        self.nodes: list[NodeProto] = []
        self.constants: list[Any] = []
        self._count = 0

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{kind.lower()}_{self._count}"

    def constant(self, kind: str, array: npt.NDArray[Any]) -> str:
        """Store an array; return its name."""
        name = self._name(kind)
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def scalar(self, value: float) -> str:
        """A float32 number."""
        return self.constant("scalar", np.asarray(value, dtype=np.float32))

    def add(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:  # noqa: ANN401 - ONNX attributes
        """Append a node with one output; return the output's name."""
        name = output or self._name(operator)
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name=f"node_{name}", **attributes))
        return name


def scores_graph(append: Callable[[Graph, str], str], features: int, outputs: int) -> bytes:
    """Only a network as ONNX bytes: `append` adds its nodes to a value [N, features] and names the result [N, outputs]."""
    graph = Graph()
    scores = append(graph, ONNX_INPUT)
    proto = helper.make_graph(
        graph.nodes,
        "scores",
        [helper.make_tensor_value_info(ONNX_INPUT, TensorProto.FLOAT, ["N", features])],
        [helper.make_tensor_value_info(scores, TensorProto.FLOAT, ["N", outputs])],
        graph.constants,
    )
    model = helper.make_model(
        proto, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="espalier", ir_version=IR_VERSION
    )
    return bytes(model.SerializeToString())


def served_graph(
    fitted: Fitted,
    preprocessor: Preprocessor,
    classes: int,
    temperature: float,
    transforms: Sequence[ScoreTransform] = (),
    *,
    plain: bool = False,
) -> bytes:
    """The whole model as ONNX bytes, with what POST blocks do to scores: input float32 [N, features]; outputs
    `label` int64 [N] and `probabilities` [N, classes], or `value` [N, 1]. `plain` leaves rounding out.
    """
    graph = Graph(plain=plain)
    scores = fitted.graph(graph, preprocessor.append(graph, ONNX_INPUT))
    for transform in transforms:
        scores = transform.graph(graph, scores)
    if classes:
        tempered = graph.add("Div", scores, graph.scalar(temperature))
        graph.add("Softmax", tempered, output=ONNX_PROBABILITIES, axis=1)
        graph.add("ArgMax", scores, output=ONNX_LABEL, axis=1, keepdims=0)
        outputs = [
            helper.make_tensor_value_info(ONNX_LABEL, TensorProto.INT64, ["N"]),
            helper.make_tensor_value_info(ONNX_PROBABILITIES, TensorProto.FLOAT, ["N", classes]),
        ]
    else:
        scaled = graph.add("Mul", scores, graph.scalar(preprocessor.target_scale))
        graph.add("Add", scaled, graph.scalar(preprocessor.target_mean), output=ONNX_VALUE)
        outputs = [helper.make_tensor_value_info(ONNX_VALUE, TensorProto.FLOAT, ["N", 1])]
    features = helper.make_tensor_value_info(ONNX_INPUT, TensorProto.FLOAT, ["N", len(preprocessor.features)])
    proto = helper.make_graph(graph.nodes, "espalier", [features], outputs, graph.constants)
    domains = {node.domain for node in graph.nodes}
    opsets = [helper.make_opsetid("", OPSET)] + (
        [helper.make_opsetid("ai.onnx.ml", 3)] if "ai.onnx.ml" in domains else []
    )
    model = helper.make_model(proto, opset_imports=opsets, producer_name="espalier", ir_version=IR_VERSION)
    checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())
