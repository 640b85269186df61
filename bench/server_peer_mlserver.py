"""The benchmark's graph behind MLServer, by its own environment's Python: PORT MODEL.onnx. Nothing but the graph: no ids, no drift.

`parallel_workers=0` computes in the server's process: faster for a graph this small than MLServer's default of one more process.
"""

from __future__ import annotations

import asyncio
import sys

import numpy as np
import onnxruntime
from mlserver import MLModel, MLServer, ModelSettings, Settings  # type: ignore[import-not-found]
from mlserver.codecs import NumpyCodec  # type: ignore[import-not-found]
from mlserver.types import InferenceRequest, InferenceResponse  # type: ignore[import-not-found]

PATH = sys.argv[2] if len(sys.argv) > 2 else ""  # noqa: PLR2004 - the two arguments


class Digits(MLModel):  # type: ignore[misc] # MLServer is not in our environment
    """One session, one thread, as in our server."""

    async def load(self) -> bool:
        """Open the session."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(PATH, options)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """The request's one tensor to label and probabilities."""
        rows = NumpyCodec.decode_input(payload.inputs[0]).astype(np.float32)
        found = self.session.run(["label", "probabilities"], {"input": rows})
        named = zip(("label", "probabilities"), found, strict=True)
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output(n, v) for n, v in named])


async def main() -> None:
    """Serve until the process is ended."""
    port = int(sys.argv[1])
    settings = Settings(http_port=port, grpc_port=port + 1, metrics_port=port + 2, parallel_workers=0, host="127.0.0.1")
    model = ModelSettings(name="digits", implementation=Digits)
    await MLServer(settings).start([model])


if __name__ == "__main__":
    asyncio.run(main())
