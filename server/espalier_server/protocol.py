"""The words of the Open Inference Protocol v2 (REST): requests read, answers written, a model described.

Additions within the protocol's own extension points: `id` of an answer is the id to send feedback with; with more
than one row `parameters.prediction_ids` holds one per row; `parameters.request_id` repeats the id that the client
sent; `parameters.rejected` tells, row by row, where the server abstained, and the answer there is null.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from espalier_api.artifact import ONNX_LABEL, ONNX_PROBABILITIES, ONNX_VALUE
from espalier_server.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from espalier_api.artifact import ManifestTask
    from espalier_api.serving import ServingConfig
    from espalier_server.golden import GoldenReport
    from espalier_server.inputs import InputReader
    from espalier_server.model import Rows

MAX_ID_LENGTH = 256
_NUMPY = orjson.OPT_SERIALIZE_NUMPY


@dataclass(frozen=True, slots=True)
class Query:
    """A checked request: rows for the model, the client's id, and the outputs to answer with (all of them when
    None).
    """

    rows: Rows
    request_id: str | None
    outputs: frozenset[str] | None


@dataclass(frozen=True, slots=True)
class Output:
    """One tensor of an answer; `data` is flattened."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: NDArray[Any] | list[Any]


def output_names(task: ManifestTask) -> tuple[str, ...]:
    """What an answer holds."""
    return (ONNX_LABEL, ONNX_PROBABILITIES) if task.type == "classification" else (ONNX_VALUE,)


def read_json(raw: bytes) -> Any:  # noqa: ANN401 - whatever JSON held
    """Parsed JSON; NaN, infinities and nesting beyond 1024 are refused. Raises InvalidRequestError."""
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidRequestError("body", f"is not JSON: {error}") from error


def read_query(raw: bytes, reader: InputReader, known: tuple[str, ...], max_rows: int) -> Query:
    """An infer request, checked; `known` are the outputs. Raises InvalidRequestError that names the field."""
    body = read_json(raw)
    if not isinstance(body, dict):
        raise InvalidRequestError("body", "must be a JSON object with inputs")
    rows = reader.read(body.get("inputs"), max_rows)
    return Query(rows, _request_id(body.get("id")), _wanted(body.get("outputs"), known))


def _request_id(value: Any) -> str | None:  # noqa: ANN401 - whatever JSON held
    if value is not None and (not isinstance(value, str) or len(value) > MAX_ID_LENGTH):
        raise InvalidRequestError("id", f"must be text of at most {MAX_ID_LENGTH} characters")
    return value


def _wanted(value: Any, known: tuple[str, ...]) -> frozenset[str] | None:  # noqa: ANN401 - whatever JSON held
    """The requested outputs; an empty list means all, as the protocol says."""
    if value is None or value == []:
        return None
    if not isinstance(value, list):
        raise InvalidRequestError("outputs", "must be a list of objects with a name")
    for index, output in enumerate(value):
        name = output.get("name") if isinstance(output, dict) else None
        if not isinstance(name, str) or name not in known:
            raise InvalidRequestError(f"outputs[{index}].name", f"must be one of {', '.join(known)}")
    return frozenset(output["name"] for output in value)


def write_answer(
    config: ServingConfig, query: Query, ids: Sequence[str], rejected: Sequence[bool] | None, outputs: Sequence[Output]
) -> bytes:
    """The response's body. `rejected` is given when at least one row was."""
    parameters: dict[str, Any] = {}
    if len(ids) > 1:
        parameters["prediction_ids"] = ids
    if query.request_id is not None:
        parameters["request_id"] = query.request_id
    if rejected is not None:
        parameters["rejected"] = rejected
    chosen = [output for output in outputs if query.outputs is None or output.name in query.outputs]
    answer: dict[str, Any] = {"model_name": config.model, "model_version": config.version, "id": ids[0]}
    if parameters:
        answer["parameters"] = parameters
    answer["outputs"] = [
        {"name": output.name, "datatype": output.datatype, "shape": output.shape, "data": output.data}
        for output in chosen
    ]
    return orjson.dumps(answer, option=_NUMPY)


def describe_server() -> dict[str, Any]:
    """GET /v2."""
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - asked once in a while

    try:
        release = version("espalier")
    except PackageNotFoundError:  # run from sources
        release = "0+source"
    return {"name": "espalier", "version": release, "extensions": ["feedback"]}


def describe_model(config: ServingConfig, task: ManifestTask, golden: GoldenReport) -> dict[str, Any]:
    """GET /v2/models/{model}: what the operator compares with the intended digest before it sends traffic."""
    if task.type == "classification":
        outputs: list[Mapping[str, Any]] = [
            {"name": ONNX_LABEL, "datatype": "BYTES", "shape": [-1]},
            {"name": ONNX_PROBABILITIES, "datatype": "FP32", "shape": [-1, len(task.classes)]},
        ]
    else:
        outputs = [{"name": ONNX_VALUE, "datatype": "FP32", "shape": [-1, 1]}]
    return {
        "name": config.model,
        "versions": [config.version],
        "platform": "onnx",
        "inputs": [tensor.dump() for tensor in task.inputs],
        "outputs": outputs,
        "parameters": {
            "digest": config.digest,
            "golden": {"n": golden.n, "maxAbsDiff": golden.max_abs_diff},
            "task": task.type,
            "classes": list(task.classes),
            "features": list(task.features),
            "nullable": task.nullable,
            **({} if task.windows is None else {"windows": task.windows.dump()}),
            **({} if task.tokens is None else {"tokens": task.tokens.dump()}),
            "categories": [column.dump() for column in task.categories],
        },
    }
