"""Health, metadata and what a client sees while the pod is loading or going away."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.unit.server.tiny import Version

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.server.conftest import Pod


async def test_metadata_holds_what_the_operator_compares(pod: Pod) -> None:
    for path in ("/v2/models/digits", "/v2/models/digits/versions/v4"):
        found = (await pod.client.get(path)).json()
        assert found["name"] == "digits"
        assert found["versions"] == ["v4"]
        assert found["platform"] == "onnx"
        assert found["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 3]}]
        assert [output["name"] for output in found["outputs"]] == ["label", "probabilities"]
        assert found["parameters"]["digest"] == Version().config().digest
        assert found["parameters"]["golden"]["n"] == 64
        assert found["parameters"]["golden"]["maxAbsDiff"] < 1e-4


@pytest.mark.parametrize(
    "path",
    [
        "/v2",
        "/v2/models",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/digits/ready",
        "/v2/models/digits/versions/v4/ready",
    ],
)
async def test_everything_answers_when_ready(pod: Pod, path: str) -> None:
    response = await pod.client.get(path)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-espalier-version"] == "v4"


@pytest.mark.parametrize(
    "path", ["/v2/models/other", "/v2/models/digits/versions/v3", "/v2/models/digits/versions/v3/ready"]
)
async def test_other_names_are_404(pod: Pod, path: str) -> None:
    assert (await pod.client.get(path)).status_code == 404


async def test_before_it_is_loaded_a_pod_is_live_and_not_ready(start: Callable[..., Pod]) -> None:
    pod = start(ready=False)
    assert (await pod.client.get("/v2/health/live")).status_code == 200
    for path in ("/v2/health/ready", "/v2/models/digits/ready", "/v2/models/digits"):
        response = await pod.client.get(path)
        assert response.status_code == 503
        assert response.headers["retry-after"] == "1"
        assert "downloaded and verified" in response.json()["error"]
    assert (await pod.infer([[1.0, 2.0, 3.0]])).status_code == 503
    assert (await pod.feedback("x", "cat")).status_code == 503
    assert await pod.metric("inference_requests_total", outcome="error") == 1


async def test_a_draining_pod_is_unready_answers_and_sends_clients_away(pod: Pod) -> None:
    pod.state.drain()
    assert (await pod.client.get("/v2/health/live")).status_code == 200
    assert (await pod.client.get("/v2/health/ready")).status_code == 503
    response = await pod.infer([[1.0, 2.0, 3.0]])
    assert response.status_code == 200
    assert response.headers["connection"] == "close"


async def test_a_pod_that_was_told_to_go_while_loading_stays_unready(start: Callable[..., Pod]) -> None:
    pod, loaded = start(ready=False), start()
    pod.state.drain()
    pod.state.serve(loaded.state.served())
    assert (await pod.client.get("/v2/health/ready")).status_code == 503
