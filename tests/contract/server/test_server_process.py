"""The process against a real object store: when it serves, when it refuses, how it ends."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from espalier_api.serving import ServingLimits
from tests.contract.seaweedfs import SECRET, STRANGER, free_port
from tests.contract.server.conftest import publish
from tests.unit.server.tiny import Version

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.contract.seaweedfs import S3

DRAIN_SECONDS = 5.0


def test_a_version_from_the_store_is_verified_and_served(serve: Callable[..., Any], version: Version) -> None:
    with serve(version.config()) as served:
        served.await_status("/v2/health/ready", 200)
        found = served.client.get("/v2/models/digits").json()
        assert found["parameters"]["digest"] == version.config().digest
        answer = served.infer()
        assert answer.json()["outputs"][0]["data"] == ["eel"]
        assert "model_load_seconds{" in served.client.get("/metrics").text


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "metrics.json"])
def test_a_tampered_version_is_never_served(serve: Callable[..., Any], s3: S3, version: Version, name: str) -> None:
    s3.client.put_object(Bucket="models", Key=f"vision/digits/v4/{name}", Body=b"\x00" + version.files[name][1:])
    with serve(version.config()) as served:
        assert served.exit_code() == 44
        assert served.words().startswith(f"ArtifactError: {name}: sha256 ")
        assert "ready:" not in served.log()


def test_another_manifest_than_the_intended_one(serve: Callable[..., Any], s3: S3) -> None:
    version = Version()
    config = version.config()
    version.seal(seed=8)
    publish(s3, version)
    with serve(config) as served:
        assert served.exit_code() == 44
        assert "is not the intended" in served.words()


@pytest.mark.parametrize("name", ["manifest.json", "reference.json"])
def test_a_half_written_version(serve: Callable[..., Any], s3: S3, name: str) -> None:
    version = Version()
    publish(s3, version, without=name)
    with serve(version.config()) as served:
        assert served.exit_code() == 44
        assert f"{name} does not exist" in served.words()


@pytest.mark.parametrize(
    "environment,message",
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "StorageDeniedError"),
        ({"AWS_ACCESS_KEY_ID": STRANGER}, "StorageDeniedError"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "no S3 credentials"),
        ({"AWS_SESSION_TOKEN": "planted-c0ffee"}, "StorageDeniedError"),
        ({"AWS_ENDPOINT_URL": "nonsense"}, "AWS_ENDPOINT_URL"),
    ],
)
def test_wrong_credentials_end_the_process(
    serve: Callable[..., Any], version: Version, environment: dict[str, str], message: str
) -> None:
    with serve(version.config(), **environment) as served:
        assert served.exit_code() == 42
        assert message in served.words()
        told = served.log() + served.words()
    assert SECRET not in told
    assert environment.get("AWS_SESSION_TOKEN", SECRET) not in told


def test_a_store_that_is_away_is_waited_for(serve: Callable[..., Any], version: Version) -> None:
    with serve(version.config(), AWS_ENDPOINT_URL=f"http://127.0.0.1:{free_port()}") as served:
        served.await_status("/v2/health/live", 200)
        deadline = time.monotonic() + 20
        while "trying again" not in served.log():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        response = served.client.get("/v2/health/ready")
        assert response.status_code == 503
        assert "object store is away" in response.json()["error"]
        served.terminate()
        assert served.exit_code() == 0


def test_a_bad_configuration_ends_the_process(serve: Callable[..., Any], version: Version) -> None:
    with serve(version.config(latency_buckets=(0.5, 0.1))) as served:
        assert served.exit_code() == 42
        assert "latencyBuckets" in served.words()


def test_drain(serve: Callable[..., Any], version: Version) -> None:
    """SIGTERM under load: unready at once, not one request lost, new connections welcome until the end, exit 0."""
    with serve(version.config(drain_seconds=DRAIN_SECONDS)) as served:
        served.await_status("/v2/health/ready", 200)
        seen: list[int] = []
        lost: list[Exception] = []
        stop = threading.Event()

        def ask() -> None:
            tensor = {"name": "input", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}
            while not stop.is_set():
                try:
                    with httpx.Client(base_url=f"http://127.0.0.1:{served.port}", timeout=10) as client:
                        seen.append(client.post("/v2/models/digits/infer", json={"inputs": [tensor]}).status_code)
                except httpx.TransportError as error:
                    lost.append(error)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        _await(lambda: len(seen) >= 3)
        began = time.monotonic()
        served.terminate()
        response = served.await_status("/v2/health/ready", 503)
        assert response.headers["connection"] == "close"
        answered = len(seen)
        _await(lambda: len(seen) >= answered + 6)  # each on a new connection
        stop.set()  # endpoints are gone: no more requests, before the drain is over
        for thread in threads:
            thread.join()
        assert served.exit_code() == 0
        assert time.monotonic() - began >= DRAIN_SECONDS
    assert set(seen) == {200}
    assert not lost


def _await(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_requests_in_flight_are_finished_at_the_end_of_the_drain(serve: Callable[..., Any], version: Version) -> None:
    """A request whose body is still arriving when the drain ends gets its answer."""
    with serve(version.config(drain_seconds=0.3)) as served:
        served.await_status("/v2/health/ready", 200)

        def slowly() -> Any:
            yield b'{"inputs": [{"name": "input", "shape": [1, 3], '
            served.terminate()
            time.sleep(1.0)
            yield b'"datatype": "FP32", "data": [1, 2, 3]}]}'

        response = served.client.post("/v2/models/digits/infer", content=slowly())
        assert response.status_code == 200
        assert served.exit_code() == 0


def test_a_second_signal_ends_at_once(serve: Callable[..., Any], version: Version) -> None:
    with serve(version.config(drain_seconds=600)) as served:
        served.await_status("/v2/health/ready", 200)
        served.terminate()
        served.await_status("/v2/health/ready", 503)
        served.terminate()
        assert served.exit_code() == 0


def test_a_pod_that_is_deleted_while_it_imports_goes_at_once(serve: Callable[..., Any], version: Version) -> None:
    with serve(version.config(), PYTHONPROFILEIMPORTTIME="1") as served:
        deadline = time.monotonic() + 30
        while "espalier_api" not in served.log():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        served.terminate()
        assert served.exit_code() == 0


def test_a_full_queue_is_429_with_retry_after(serve: Callable[..., Any], version: Version) -> None:
    """Requests of 1,000 rows go to the one thread; the queue holds one, the others hear so at once."""
    limits = ServingLimits(concurrency=1, max_queue=1, max_batch=50_000, max_body_bytes=2**24)
    with serve(version.config(limits=limits)) as served:
        served.await_status("/v2/health/ready", 200)
        rows = 30_000
        tensor = {"name": "input", "shape": [rows, 3], "datatype": "FP32", "data": [1.5] * (3 * rows)}
        responses: list[httpx.Response] = []

        def ask() -> None:
            responses.append(served.client.post("/v2/models/digits/infer", json={"inputs": [tensor]}))

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        throttled = [response for response in responses if response.status_code == 429]
        assert {response.status_code for response in responses} == {200, 429}
        assert {response.headers["retry-after"] for response in throttled} == {"1"}
        assert "limits.maxQueue" in throttled[0].json()["error"]
        text = served.client.get("/metrics").text
        assert f'outcome="throttled",version="v4"}} {len(throttled)}.0' in text


def test_it_is_live_within_two_seconds_of_cpu_time(serve: Callable[..., Any], version: Version) -> None:
    """Heavy libraries come after the socket: only what uvicorn and pydantic need is imported before it listens."""
    with serve(version.config(), PYTHONPROFILEIMPORTTIME="1") as served:
        served.await_status("/v2/health/ready", 200)
        log = served.log()
        live = log.index("Uvicorn running")
        assert log.index("onnxruntime") > live
        assert log.index("boto3") > live


GARBAGE = (
    b"\x00\x01\x02\xff" * 100,
    b"GET / HTTP/9.9\r\n\r\n",
    b"POST /v2/models/digits/infer HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
    b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 1e9\r\n\r\n",
    b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
    b"GET /" + b"x" * 200_000 + b" HTTP/1.1\r\n\r\n",
    b"GET /v2/models/%FF%00%0d%0a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
)


def test_garbage_on_the_socket_harms_nobody(serve: Callable[..., Any], version: Version) -> None:
    with serve(version.config()) as served:
        served.await_status("/v2/health/ready", 200)
        for garbage in GARBAGE:
            answer = _send(served.port, garbage)
            assert b" 500 " not in answer
            assert served.infer().status_code == 200
        assert "Traceback" not in served.log()


def _send(port: int, raw: bytes) -> bytes:
    """What a server answers to these bytes; nothing when it closed the connection before it had them all."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection, suppress(OSError):
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_WR)
        return connection.recv(65536)
    return b""
