"""POST …/infer on the whole application: answers, abstentions, refusals; every request is counted once, a bad one is
never a 500.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from espalier_api.serving import OutputGuards, OutputRange
from tests.unit.server.test_server_tensors import JSON, NEARLY
from tests.unit.server.tiny import Version, classifier_files, logarithm_graph, npz, regressor_files, softmax, task

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.server.conftest import Pod

ROWS = [[1.0, 2.0, 3.0], [9.0, 1.0, 1.0]]


def regressor(**reference: Any) -> Version:
    return Version(files=regressor_files(**reference), kind="regression")


async def test_answer_of_one_row(pod: Pod) -> None:
    response = await pod.infer(ROWS[:1], id="mine")
    answer = response.json()
    assert response.status_code == 200
    assert response.headers["x-espalier-version"] == "v4"
    assert (answer["model_name"], answer["model_version"]) == ("digits", "v4")
    assert answer["parameters"] == {"request_id": "mine"}
    label, probabilities = answer["outputs"]
    assert label == {"name": "label", "datatype": "BYTES", "shape": [1], "data": ["eel"]}
    assert (probabilities["name"], probabilities["datatype"], probabilities["shape"]) == (
        "probabilities",
        "FP32",
        [1, 3],
    )
    np.testing.assert_allclose(probabilities["data"], softmax(np.array(ROWS[:1], dtype=np.float32))[0], atol=1e-6)


async def test_every_row_of_a_batch_has_its_own_id(pod: Pod) -> None:
    answer = (await pod.infer(ROWS)).json()
    identities = answer["parameters"]["prediction_ids"]
    assert answer["id"] == identities[0]
    assert len(set(identities)) == 2
    assert answer["outputs"][0]["data"] == ["eel", "cat"]
    assert answer["outputs"][1]["shape"] == [2, 3]


async def test_the_form_with_a_version(pod: Pod) -> None:
    tensor = {"name": "input", "shape": [1, 3], "datatype": "FP64", "data": [[1, 2, 3]]}
    assert (await pod.client.post("/v2/models/digits/versions/v4/infer", json={"inputs": [tensor]})).status_code == 200
    assert (await pod.client.post("/v2/models/digits/versions/v3/infer", json={"inputs": [tensor]})).status_code == 404


@pytest.mark.parametrize("outputs,names", [([{"name": "label"}], ["label"]), ([], ["label", "probabilities"])])
async def test_only_requested_outputs_are_sent(pod: Pod, outputs: list[Any], names: list[str]) -> None:
    answer = (await pod.infer(ROWS, outputs=outputs)).json()
    assert [output["name"] for output in answer["outputs"]] == names


async def test_a_regression_answers_values(start: Callable[..., Pod]) -> None:
    pod = start(regressor())
    answer = (await pod.infer(ROWS)).json()
    assert answer["outputs"] == [{"name": "value", "datatype": "FP32", "shape": [2, 1], "data": [14.0, 14.0]}]


async def test_below_min_confidence_the_server_abstains(start: Callable[..., Pod]) -> None:
    pod = start(output_guards=OutputGuards(min_confidence=0.9))
    answer = (await pod.infer(ROWS)).json()
    assert answer["outputs"][0]["data"] == [None, "cat"]
    assert answer["parameters"]["rejected"] == [True, False]
    assert await pod.metric("inference_requests_total", outcome="rejected") == 1
    assert await pod.metric("inference_requests_total", outcome="ok") == 0
    assert await pod.metric("inference_duration_seconds_count") == 1


@pytest.mark.parametrize("declared,promised", [(None, 0.9), (0.2, 0.9), (0.9, 0.2)])
async def test_the_stricter_of_spec_and_abstention_decides(
    start: Callable[..., Pod], declared: float | None, promised: float
) -> None:
    version = Version()
    version.seal(task={**task().dump(), "minConfidence": promised})
    pod = start(version, output_guards=OutputGuards(min_confidence=declared))
    assert (await pod.infer(ROWS)).json()["parameters"]["rejected"] == [True, False]


async def test_a_value_out_of_range_is_not_answered(start: Callable[..., Pod]) -> None:
    pod = start(regressor(), output_guards=OutputGuards(range=OutputRange(max=20.0)))
    answer = (await pod.infer([[1.0, 2.0, 3.0], [1.0, 2.0, 30.0]])).json()
    assert answer["outputs"][0]["data"] == [14.0, None]
    assert answer["parameters"]["rejected"] == [False, True]


async def test_an_answer_that_is_not_finite_is_the_versions_error(start: Callable[..., Pod]) -> None:
    rows = np.array([[1.0, 1.0, 1.0]], dtype=np.float32)
    files = regressor_files() | {
        "model.onnx": logarithm_graph(),
        "golden.npz": npz(input=rows, value=np.array([[0.0]])),
    }
    pod = start(Version(files=files, kind="regression"))
    response = await pod.infer([[0.0, 1.0, 1.0]])
    assert response.status_code == 500
    assert "not finite" in response.json()["error"]
    assert await pod.metric("inference_requests_total", outcome="error") == 1


@pytest.mark.parametrize(
    "body,field",
    [
        (b"", "body"),
        (b"{", "body"),
        (b"[]", "body"),
        (b"\xff\xfe", "body"),
        (b'{"inputs": [NaN]}', "body"),
        (b"[" * 5000 + b"]" * 5000, "body"),
        (b"{}", "inputs"),
        (b'{"inputs": []}', "inputs"),
    ],
)
async def test_a_broken_body_is_the_clients_mistake(pod: Pod, body: bytes, field: str) -> None:
    response = await pod.client.post("/v2/models/digits/infer", content=body)
    assert response.status_code == 400
    assert response.json()["error"].startswith(f"{field}: ")
    assert await pod.metric("inference_requests_total", outcome="invalid") == 1
    assert await pod.metric("inference_duration_seconds_count") == 0


@pytest.mark.parametrize(
    "extra,field",
    [
        ({"id": 5}, "id"),
        ({"id": "x" * 300}, "id"),
        ({"outputs": {}}, "outputs"),
        ({"outputs": [5]}, "outputs[0].name"),
        ({"outputs": [{"name": "label"}, {"name": "secret"}]}, "outputs[1].name"),
        ({"outputs": [{"name": ["label"]}]}, "outputs[0].name"),
    ],
)
async def test_other_fields_are_checked_too(pod: Pod, extra: dict[str, Any], field: str) -> None:
    response = await pod.infer(ROWS, **extra)
    assert response.status_code == 400
    assert response.json()["error"].startswith(f"{field}: ")


async def test_too_many_rows(pod: Pod) -> None:
    response = await pod.infer([[1.0, 2.0, 3.0]] * 101)
    assert response.status_code == 400
    assert "limits.maxBatch" in response.json()["error"]


async def test_a_body_that_is_too_large(pod: Pod) -> None:
    response = await pod.client.post("/v2/models/digits/infer", content=b" " * 65537)
    assert response.status_code == 413

    async def chunks() -> Any:
        for _ in range(100):
            yield b" " * 1000

    response = await pod.client.post("/v2/models/digits/infer", content=chunks())
    assert response.status_code == 413
    assert "limits.maxBodyBytes" in response.json()["error"]


@pytest.mark.parametrize("headers", [{"content-type": "text/csv"}, {"content-encoding": "gzip"}])
async def test_a_body_that_is_not_plain_json(pod: Pod, headers: dict[str, str]) -> None:
    response = await pod.client.post("/v2/models/digits/infer", content=b"1,2,3", headers=headers)
    assert response.status_code == 415


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON; charset=utf-8", ""])
async def test_json_by_any_of_its_names(pod: Pod, content_type: str) -> None:
    tensor = {"name": "input", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}
    body = json.dumps({"inputs": [tensor]}).encode()
    response = await pod.client.post("/v2/models/digits/infer", content=body, headers={"content-type": content_type})
    assert response.status_code == 200


@pytest.mark.parametrize("path", ["/v2/models/other/infer", "/v2/models/digits/versions/v9/infer", "/v2/model/x", "/"])
async def test_unknown_names_are_404_and_count_for_nobody(pod: Pod, path: str) -> None:
    response = await pod.client.post(path, json={})
    assert response.status_code == 404
    assert "error" in response.json()
    assert await pod.metric("inference_requests_total", outcome="invalid") == 0


@pytest.mark.parametrize("method,path", [("GET", "/v2/models/digits/infer"), ("POST", "/v2"), ("PUT", "/v1/feedback")])
async def test_the_wrong_method_is_405_with_allow(pod: Pod, method: str, path: str) -> None:
    response = await pod.client.request(method, path)
    assert response.status_code == 405
    assert response.headers["allow"]
    assert response.json()["error"].endswith("Method Not Allowed")


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(
    st.binary(max_size=200)
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.fixed_dictionaries(
        {"inputs": st.lists(NEARLY, min_size=1, max_size=1)},
        optional={"id": JSON, "outputs": JSON, "parameters": JSON},
    ).map(lambda value: json.dumps(value).encode())
)
async def test_no_body_is_ever_a_500(pod: Pod, body: bytes) -> None:
    response = await pod.client.post("/v2/models/digits/infer", content=body)
    assert response.status_code in {200, 400}
    assert response.json()


async def test_each_request_is_counted_exactly_once(pod: Pod) -> None:
    for rows in ([[1.0, 2.0, 3.0]], ROWS, [[1.0, 2.0]]):
        await pod.infer(rows)
    assert await pod.metric("inference_requests_total", outcome="ok") == 2
    assert await pod.metric("inference_requests_total", outcome="invalid") == 1
    assert await pod.metric("inference_inflight") == 0


async def test_served_inputs_are_counted_per_bin(pod: Pod) -> None:
    await pod.infer(ROWS)
    assert await pod.metric("model_feature_observations_total", feature="a", bin="1") == 1
    assert await pod.metric("model_feature_observations_total", feature="a", bin="9") == 1
    assert await pod.metric("model_feature_observations_total", feature="a", bin="5") == 0


async def test_classes_beyond_ascii_and_quotes_are_only_text(start: Callable[..., Pod]) -> None:
    version = Version(files=classifier_files())
    names = ['c"at\\', "hünd\n", "鰻"]
    content = json.loads(version.manifest)
    version.seal(task={**content["task"], "classes": names, "features": ['a"', "b\\", "c"]})
    version.files["reference.json"] = b'{"features": {"a\\"": {"edges": [1.0], "ratios": [0.5, 0.5]}}}'
    version.seal(task={**content["task"], "classes": names, "features": ['a"', "b\\", "c"]})
    pod = start(version)
    answer = (await pod.infer(ROWS)).json()
    assert answer["outputs"][0]["data"] == ["鰻", 'c"at\\']
    text = (await pod.client.get("/metrics")).text
    assert r'feature="a\"",bin="0"' in text
    assert r'actual="hünd\n",predicted="c\"at\\"' in text
