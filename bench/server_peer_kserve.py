"""The benchmark's graph behind kserve's SDK, by its own environment's Python: PORT MODEL.onnx. Nothing but the graph: no ids, no drift."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import onnxruntime
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer  # type: ignore[import-not-found]


class Digits(Model):  # type: ignore[misc] # kserve is not in our environment
    """One session, one thread, as in our server."""

    def __init__(self, path: str) -> None:
        super().__init__("digits")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, options)
        self.ready = True

    async def predict(self, payload: InferRequest, *_: Any, **__: Any) -> InferResponse:  # noqa: ANN401 - kserve's protocol
        """The request's one tensor to label and probabilities."""
        rows = payload.inputs[0].as_numpy().astype(np.float32)
        label, probabilities = self.session.run(["label", "probabilities"], {"input": rows})
        outputs = []
        for name, datatype, values in (("label", "INT64", label), ("probabilities", "FP32", probabilities)):
            output = InferOutput(name=name, shape=list(values.shape), datatype=datatype)
            output.set_data_from_numpy(values, binary_data=False)
            outputs.append(output)
        return InferResponse(response_id=payload.id or "1", model_name="digits", infer_outputs=outputs)


if __name__ == "__main__":
    server = ModelServer(http_port=int(sys.argv[1]), workers=1, enable_grpc=False, access_log_format=None)
    server.start([Digits(sys.argv[2])])
