"""One ONNX graph and what it may be asked. The graph's input is raw features, its outputs are what design/training.md
fixes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from espalier_api.artifact import ONNX_INPUT, ONNX_LABEL, ONNX_PROBABILITIES, ONNX_VALUE
from espalier_server.errors import ArtifactError, ModelFailedError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from espalier_api.artifact import ManifestTask
    from espalier_server.artifact import Artifact

    Rows = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the graph said about N rows.

    Classification: `label` int64 [N] (class index) and `probabilities` float32 [N, K]. Regression: `value` float32 [N].
    The others are None.
    """

    label: NDArray[np.int64] | None = None
    probabilities: NDArray[np.float32] | None = None
    value: NDArray[np.float32] | None = None


class Model(Protocol):
    """What the rest of the server needs of a model; thread-safe."""

    @property
    def task(self) -> ManifestTask:
        """Classes, features and type, as recorded at training."""
        ...

    def run(self, rows: Rows) -> Answer:
        """Answer rows, float32 [N, features], finite, or NaN where the task is nullable. Raises ModelFailedError."""
        ...


class OnnxModel:
    """A Model on onnxruntime's CPU provider."""

    def __init__(self, path: str, task: ManifestTask, threads: int = 1) -> None:
        """Load the graph; `threads` is the number that one computation may use. Raises ArtifactError."""
        self.task = task
        self._session = _session(path, threads, task.served)
        self._outputs = _check_graph(self._session, task)

    def run(self, rows: Rows) -> Answer:
        """See Model."""
        try:
            found = self._session.run(self._outputs, {ONNX_INPUT: rows})
        except Exception as error:  # onnxruntime's errors share no public base; every one is the model's failure
            raise ModelFailedError(f"{self.task.served}: the graph failed: {error}") from error
        if len(found) == 1:
            return Answer(value=self._finite(found[0]).reshape(len(rows)))
        return Answer(label=found[0].reshape(len(rows)), probabilities=self._finite(found[1]))

    def _finite(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        if not np.isfinite(values).all():
            raise ModelFailedError(
                f"{self.task.served}: the answer is not finite; the version fails on valid input, roll it back"
            )
        return values


def load(artifact: Artifact) -> OnnxModel:
    """The model of a verified artifact."""
    return OnnxModel(str(artifact.model_path), artifact.manifest.task)


def _session(path: str, threads: int, name: str) -> Any:  # noqa: ANN401 - onnxruntime ships no types
    import onnxruntime  # noqa: PLC0415 - slow import; the server is live before it

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # an idle pod burns no CPU
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no public base; every one means the same here
        raise ArtifactError(f"{name}: onnxruntime cannot load it: {error}") from error


def _check_graph(session: Any, task: ManifestTask) -> list[str]:  # noqa: ANN401 - onnxruntime ships no types
    """The names of the outputs to ask for; raises ArtifactError unless the graph is what the manifest promises."""
    inputs = [(node.name, node.type, len(node.shape), node.shape[-1]) for node in session.get_inputs()]
    if inputs != [(ONNX_INPUT, "tensor(float)", 2, len(task.features))]:
        raise ArtifactError(
            f"{task.served}: inputs {inputs}; one float tensor {ONNX_INPUT!r} [rows, {len(task.features)}] is needed"
        )
    wanted = [ONNX_LABEL, ONNX_PROBABILITIES] if task.type == "classification" else [ONNX_VALUE]
    present = {node.name: node for node in session.get_outputs()}
    if missing := [name for name in wanted if name not in present]:
        raise ArtifactError(f"{task.served}: output {', '.join(missing)} is missing; it has {', '.join(present)}")
    if task.type == "classification" and present[ONNX_PROBABILITIES].shape[-1:] != [len(task.classes)]:
        shape = present[ONNX_PROBABILITIES].shape
        raise ArtifactError(f"{task.served}: probabilities {shape}, the manifest has {len(task.classes)} classes")
    return wanted
