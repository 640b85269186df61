"""The HTTP surface: Open Inference Protocol v2, feedback, metrics. Thin: every route asks State and answers JSON."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from espalier_server.errors import RequestError, TooLateError
from espalier_server.metrics import CONTENT_TYPE
from espalier_server.protocol import describe_server, read_json
from espalier_server.state import Phase

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from espalier_server.serving import ServedModel
    from espalier_server.state import State

_MODEL = "/v2/models/{model}"
_VERSION = f"{_MODEL}/versions/{{version}}"


def build(state: State) -> ASGIApp:
    """The ASGI application of one pod."""
    routes = Routes(state)
    infer = Infer(state)
    app = Starlette(
        routes=[
            Route(f"{_MODEL}/infer", infer, methods=["POST"]),
            Route(f"{_VERSION}/infer", infer, methods=["POST"]),
            Route("/v1/feedback", routes.feedback, methods=["POST"]),
            Route("/metrics", routes.metrics),
            Route("/v2/health/live", routes.live),
            Route("/v2/health/ready", routes.ready),
            Route("/v2", routes.server),
            Route("/v2/models", routes.models),
            Route(_MODEL, routes.model),
            Route(_VERSION, routes.model),
            Route(f"{_MODEL}/ready", routes.model_ready),
            Route(f"{_VERSION}/ready", routes.model_ready),
        ],
        exception_handlers={RequestError: _refused, HTTPException: _http_error, Exception: _crashed},
    )
    return Envelope(app, state)


class Envelope:
    """Adds the serving version to every answer and, while draining, asks clients to open their next connection
    elsewhere.
    """

    def __init__(self, app: ASGIApp, state: State) -> None:
        self._app = app
        self._state = state
        self._version = (b"x-espalier-version", state.config.version.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = [self._version]
                if self._state.phase is Phase.DRAINING:
                    extra.append((b"connection", b"close"))
                message["headers"] = [*message.get("headers", []), *extra]
            await send(message)

        await self._app(scope, receive, with_headers)


class Infer:
    """POST …/infer. An ASGI application of its own: the hot path pays for no Request and no Response object."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI. Counts every request exactly once, whatever becomes of it."""
        self._state.check_name(scope["path_params"])
        metrics = self._state.metrics
        outcome = "error"
        metrics.inflight.inc()
        try:
            body, outcome = await self._answer(scope, receive)
        except RequestError as error:
            outcome = error.outcome
            raise
        finally:
            metrics.inflight.dec()
            metrics.outcomes[outcome].inc()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive) -> tuple[bytes, str]:
        """The response's body and its outcome. Times answers and time-outs, from the body's last byte to the
        answer's.
        """
        served = self._state.served()
        raw = await self._state.bodies.read(scope, receive)
        try:
            return await self._compute(served, raw)
        finally:
            self._state.bodies.release(raw)

    async def _compute(self, served: ServedModel, raw: bytes) -> tuple[bytes, str]:
        """Times answers and time-outs, from the body's last byte to the answer's."""
        metrics, workers = self._state.metrics, self._state.workers
        began = time.perf_counter()
        now_ms = time.time_ns() // 1_000_000
        try:
            answer = await workers.run(lambda: served.compute(raw, now_ms), small=served.is_small(len(raw)))
        except TooLateError:
            metrics.duration.observe(time.perf_counter() - began)
            raise
        served.count(answer)
        metrics.duration.observe(time.perf_counter() - began)
        return answer.body, answer.outcome


class Routes:
    """Everything that is not infer."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def live(self, _: Request) -> Response:
        """The event loop turns; a broken artifact ends the process, so nothing else can be dead."""
        return _json({"live": True})

    async def ready(self, _: Request) -> Response:
        """The one model is verified and the pod is not going away."""
        self._state.require_ready()
        return _json({"ready": True})

    async def model_ready(self, request: Request) -> Response:
        """`ready`, for a name and perhaps a version."""
        self._state.check_name(request.path_params)
        self._state.require_ready()
        return _json({"name": self._state.config.model, "ready": True})

    async def server(self, _: Request) -> Response:
        """Name, release and extensions of this server."""
        return _json(describe_server())

    async def models(self, _: Request) -> Response:
        """The one name served here (an addition of KServe)."""
        return _json({"models": [self._state.config.model]})

    async def model(self, request: Request) -> Response:
        """Tensors, classes, and the digest that the operator compares with the intended one."""
        self._state.check_name(request.path_params)
        return _json(self._state.served().description)

    async def feedback(self, request: Request) -> Response:
        """Join a delayed label to its prediction."""
        served = self._state.served()
        raw = await self._state.bodies.read(request.scope, request.receive)
        try:
            receipt = served.feedback.take(read_json(raw), time.time_ns() // 1_000_000)
        finally:
            self._state.bodies.release(raw)
        return _json({"version": receipt.version, "result": receipt.result})

    async def metrics(self, _: Request) -> Response:
        """Prometheus text format."""
        return Response(self._state.metrics.text(), headers={"content-type": CONTENT_TYPE})


def _json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:  # noqa: ANN401 - JSON
    return Response(orjson.dumps(content), status, headers, media_type="application/json")


async def _refused(_: Request, error: Exception) -> Response:
    """A request that this room refused on purpose."""
    assert isinstance(error, RequestError)  # noqa: S101 - registered for this type only
    headers = {} if error.retry_after is None else {"retry-after": str(error.retry_after)}
    return _json({"error": str(error)}, error.status, headers)


async def _http_error(request: Request, error: Exception) -> Response:
    """404 and 405 of the router, in the protocol's words."""
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this type only
    path = f"{request.method} {request.url.path[:200]}"
    problem = HTTPStatus(error.status_code).phrase
    return _json({"error": f"{path}: {problem}"}, error.status_code, dict(error.headers or {}))


async def _crashed(_: Request, __: Exception) -> Response:
    """A bug. The trace is in the log, where it belongs; starlette raises it again after this answer."""
    return _json({"error": "internal error; see the server's log"}, 500)
