"""What goes over the wire to the API server, and what every kind of answer becomes; against a stub that speaks HTTP and can misbehave.

Semantics (SSA, conflicts, garbage collection) are tested on a real API server in test_kube_server.py.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from kubernetes.aio.client import ApiClient, Configuration

from espalier_operator import telemetry
from espalier_operator.adapters import kube as k
from espalier_operator.adapters.resources import CONFIG_MAPS, HTTP_ROUTES, JOBS, resource_of
from espalier_operator.decisions.plan import ObjectRef

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MODEL = ObjectRef("espalier.dev/v1alpha1", "RegularizedModel", "vision", "digits")
JOB: dict[str, Any] = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j", "namespace": "vision"}}
CONFIG_MAP: dict[str, Any] = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "vision"}}


@dataclass
class Stub:
    """Answers in order; keeps what was asked."""

    answers: list[Any] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.text()
        self.asked.append(
            {
                "method": request.method,
                "path": request.path,
                "query": dict(request.query),
                "type": request.headers.get("Content-Type", ""),
                "auth": request.headers.get("Authorization"),
                "body": json.loads(body) if body else None,
            }
        )
        answer = self.answers.pop(0)
        if callable(answer):
            stream: web.StreamResponse = await answer(request)
            return stream
        code, document, *headers = answer
        return web.json_response(document, status=code, headers=headers[0] if headers else None)


@asynccontextmanager
async def served(*answers: Any, timeout: float = 5.0, silence: float = 5.0) -> AsyncIterator[tuple[k.AioKube, Stub]]:  # noqa: ASYNC109 - the client's
    stub = Stub(list(answers))
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", stub.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert runner.addresses
    configuration = Configuration(
        host=f"http://127.0.0.1:{runner.addresses[0][1]}", api_key={"BearerToken": "Bearer t0ken"}
    )
    client = ApiClient(configuration)
    try:
        yield (
            k.AioKube(client, timeout=timedelta(seconds=timeout), concurrency=2, silence=timedelta(seconds=silence)),
            stub,
        )
    finally:
        await client.close()
        await runner.cleanup()


# --- requests ------------------------------------------------------------------------------------------------------------
async def test_apply_is_server_side_forced_and_ours_in_every_group() -> None:
    async with served((201, JOB), (200, CONFIG_MAP)) as (kube, stub):
        assert await kube.apply(JOB) == JOB  # 201: the generated client would answer None
        assert await kube.apply(CONFIG_MAP) == CONFIG_MAP  # core: the generated client would ask /apis//v1
    assert [each["path"] for each in stub.asked] == [
        "/apis/batch/v1/namespaces/vision/jobs/j",
        "/api/v1/namespaces/vision/configmaps/c",
    ]
    for each in stub.asked:
        assert (each["method"], each["type"]) == ("PATCH", "application/apply-patch+yaml")
        assert each["query"] == {"fieldManager": "espalier", "force": "true"}
        assert each["auth"] == "Bearer t0ken"
    assert stub.asked[0]["body"] == JOB


async def test_status_is_a_merge_patch_with_a_precondition() -> None:
    async with served((200, {"metadata": {}})) as (kube, stub):
        await kube.patch_status(MODEL, {"phase": "Training", "training": None}, resource_version="7")
    (asked,) = stub.asked
    assert asked["path"] == "/apis/espalier.dev/v1alpha1/namespaces/vision/regularizedmodels/digits/status"
    assert asked["type"] == "application/merge-patch+json"
    assert asked["body"] == {"metadata": {"resourceVersion": "7"}, "status": {"phase": "Training", "training": None}}


async def test_delete_is_in_the_background_and_gone_is_a_success() -> None:
    async with served((200, {}), (404, {"message": "not found"})) as (kube, stub):
        await kube.delete(ObjectRef.of(JOB), uid="u1")
        await kube.delete(ObjectRef.of(JOB))
    assert stub.asked[0]["body"] == {
        "apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background", "preconditions": {"uid": "u1"},
    }  # fmt: skip


async def test_lists_are_paged_and_items_know_their_kind() -> None:
    first = {"metadata": {"continue": "more", "resourceVersion": "9"}, "items": [{"metadata": {"name": "a"}}]}
    last = {"metadata": {"resourceVersion": "9"}, "items": [{"metadata": {"name": "b"}}]}
    async with served((200, first), (200, last)) as (kube, stub):
        objects, version = await kube.list(JOBS, "", "x=y")
    assert [(each["kind"], each["metadata"]["name"]) for each in objects] == [("Job", "a"), ("Job", "b")]
    assert version == "9"
    assert stub.asked[0]["path"] == "/apis/batch/v1/jobs"
    assert stub.asked[1]["query"] == {"limit": "500", "labelSelector": "x=y", "continue": "more"}


def test_unknown_kinds_are_refused_with_the_remedy() -> None:
    with pytest.raises(KeyError, match=r"resources\.py"):
        resource_of("v1", "Secret")


# --- answers -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "code,error",
    [
        (400, k.InvalidError), (401, k.ForbiddenError), (403, k.ForbiddenError), (404, k.NotFoundError),
        (409, k.ConflictError), (410, k.GoneError), (422, k.InvalidError), (429, k.UnavailableError),
        (500, k.UnavailableError), (503, k.UnavailableError), (504, k.UnavailableError),
    ],
)  # fmt: skip
async def test_every_code_has_its_error(code: int, error: type[k.KubeError]) -> None:
    async with served((code, {"message": "the reason"}, {"Retry-After": "3"})) as (kube, _):
        with pytest.raises(error, match="the reason") as caught:
            await kube.get(MODEL)
    assert caught.value.code == code
    assert caught.value.retry_after == 3.0
    assert "RegularizedModel vision/digits" in str(caught.value)


async def test_a_terminating_namespace_is_told_apart_from_missing_rights() -> None:
    causes = [
        {
            "reason": "NamespaceTerminating",
            "message": "namespace vision is being terminated",
            "field": "metadata.namespace",
        }
    ]
    async with served((403, {"message": "forbidden", "details": {"causes": causes}}), (403, {"message": "no"})) as (
        kube,
        _,
    ):
        with pytest.raises(k.NamespaceTerminatingError):
            await kube.apply(JOB)
        with pytest.raises(k.ForbiddenError) as caught:
            await kube.apply(JOB)
    assert not isinstance(caught.value, k.NamespaceTerminatingError)


async def test_garbage_and_silence_are_unavailable_never_a_hang() -> None:
    async def silent(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(5)
        return web.Response()

    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = 100
        await response.prepare(request)
        await response.write(b"{")
        assert request.transport is not None
        request.transport.close()
        return response

    async with served(silent, cut, timeout=0.2) as (kube, _):
        for _ in range(2):
            with pytest.raises(k.UnavailableError):
                await kube.get(MODEL)


async def test_a_refused_connection_is_unavailable() -> None:
    client = ApiClient(Configuration(host="http://127.0.0.1:9"))
    kube = k.AioKube(client, timeout=timedelta(seconds=1), concurrency=1)
    with pytest.raises(k.UnavailableError):
        await kube.get(MODEL)
    await client.close()


async def test_calls_are_counted_by_verb_and_code() -> None:
    def count(code: str) -> float:
        labels = {"verb": "get", "resource": "regularizedmodels", "code": code}
        return telemetry.REGISTRY.get_sample_value("espalier_kubernetes_requests_total", labels) or 0.0

    before = count("409")
    async with served((409, {"message": "x"})) as (kube, _):
        with pytest.raises(k.ConflictError):
            await kube.get(MODEL)
    assert count("409") == before + 1


# --- watches -----------------------------------------------------------------------------------------------------------------
def stream(*lines: bytes, then: float = 0.0) -> Any:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for line in lines:
            await response.write(line)
        await asyncio.sleep(then)
        return response

    return handler


async def collect(kube: k.AioKube, resource: Any = CONFIG_MAPS) -> list[Any]:
    events = kube.watch(resource, "", "a=b", "5", lasting=timedelta(seconds=290))
    async with aclosing(events) as opened:  # type: ignore[type-var]
        return [event async for event in opened]


async def test_watches_cut_lines_as_they_like() -> None:
    """Events split over chunks, several in one chunk, and one larger than any buffer."""
    big = {"type": "ADDED", "object": {"metadata": {"name": "big"}, "data": {"x": "y" * 3_000_000}}}
    small = b'{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9"}}}\n'
    text = json.dumps(big).encode() + b"\n"
    async with served(stream(text[:1000], text[1000:], small + small)) as (kube, stub):
        events = await collect(kube)
    assert [event["type"] for event in events] == ["ADDED", "BOOKMARK", "BOOKMARK"]
    assert stub.asked[0]["query"] == {
        "watch": "true", "allowWatchBookmarks": "true", "resourceVersion": "5", "timeoutSeconds": "290", "labelSelector": "a=b",
    }  # fmt: skip


async def test_gone_comes_as_code_or_as_event() -> None:
    gone = b'{"type":"ERROR","object":{"kind":"Status","code":410,"message":"too old"}}\n'
    async with served((410, {"message": "too old"}), stream(gone)) as (kube, _):
        for _ in range(2):
            with pytest.raises(k.GoneError, match="too old"):
                await collect(kube)


async def test_a_silent_watch_ends() -> None:
    async with served(stream(b"", then=5), silence=0.2) as (kube, _):
        with pytest.raises(k.UnavailableError):
            await collect(kube)


async def test_a_kind_that_does_not_exist() -> None:
    async with served((404, {"message": "the server could not find the requested resource"})) as (kube, _):
        with pytest.raises(k.NotFoundError):
            await collect(kube, HTTP_ROUTES)
