"""A Prometheus of sockets and recorded bytes: everything a real one, a proxy or a broken network has been seen to answer."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

VECTOR = {
    "status": "success",
    "data": {
        "resultType": "vector",
        "result": [
            {
                "metric": {
                    "namespace": "vision",
                    "model": "digits",
                    "version": "v4",
                    "pod": "digits-v4-7d9c-x2k",
                    "instance": "10.244.0.17:8080",
                    "outcome": "ok",
                },
                "value": [1793534400, "1042"],
            },
            {
                "metric": {
                    "namespace": "vision",
                    "model": "digits",
                    "version": "v4",
                    "pod": "digits-v4-7d9c-x2k",
                    "instance": "10.244.0.17:8080",
                    "outcome": "error",
                },
                "value": [1793534400, "3"],
            },
        ],
    },
}
MATRIX = {
    "status": "success",
    "data": {
        "resultType": "matrix",
        "result": [
            {
                "metric": {"version": "v3", "outcome": "ok"},
                "values": [[1793534400, "100"], [1793534430, "190"], [1793534460, "280"]],
            },
            {"metric": {"version": "v3", "outcome": "error"}, "values": [[1793534430, "1"], [1793534460, "NaN"]]},
        ],
    },
}
SCALAR = {"status": "success", "data": {"resultType": "scalar", "result": [1793534400, "0.25"]}}
EMPTY = {"status": "success", "data": {"resultType": "vector", "result": []}}
THANOS_PARTIAL = {**VECTOR, "warnings": ["receive series from Addr: 10.0.0.7:10901: rpc error: code = Unavailable"]}
INFO = {**VECTOR, "infos": ["PromQL info: metric might not be a counter, name does not end in _total: x"]}
BAD_QUERY = {"status": "error", "errorType": "bad_data", "error": "invalid parameter query: 1:5: parse error"}
TOO_MANY_SAMPLES = {
    "status": "error",
    "errorType": "execution",
    "error": "query processing would load too many samples into memory in query execution",
}
QUERY_TIMEOUT = {"status": "error", "errorType": "timeout", "error": "query timed out in query execution"}


@dataclass
class Stub:
    """What to answer, and what was asked."""

    status: int = 200
    body: bytes = json.dumps(VECTOR).encode()
    headers: dict[str, str] = field(default_factory=dict)
    silent: bool = False
    drip: bool = False
    cut: bool = False
    gate: threading.Event | None = None
    requests: list[tuple[str, dict[str, str], dict[str, str]]] = field(default_factory=list)
    url: str = ""

    def answer(self, document: Any, status: int = 200) -> None:
        """Serve a JSON document from now on."""
        self.status, self.body = status, json.dumps(document).encode()


class _Server(ThreadingHTTPServer):
    """Serves one stub; `closing` lets go of whatever it keeps waiting."""

    daemon_threads = True

    def __init__(self, stub: Stub) -> None:
        self.stub, self.closing = stub, threading.Event()
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has given up resets the connection: that is what these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        stub, parts = self.server.stub, urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        stub.requests.append((parts.path, query, dict(self.headers)))
        if stub.gate is not None:
            stub.gate.wait(10)
        if stub.silent:
            self.server.closing.wait(10)
            return
        self.send_response(stub.status)
        for name, value in stub.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(stub.body) + (50 if stub.cut else 0)))
        self.end_headers()
        self.close_connection = stub.cut
        with suppress(OSError):  # the client may have given up
            self._send(stub)

    def _send(self, stub: Stub) -> None:
        if not stub.drip:
            self.wfile.write(stub.body)
            return
        for byte in stub.body:
            if self.server.closing.wait(0.05):
                return
            self.wfile.write(bytes([byte]))
            self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Quiet."""


@contextmanager
def serving() -> Iterator[Stub]:
    """A stub on a free local port."""
    stub = Stub()
    server = _Server(stub)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    stub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield stub
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join(5)
