"""Every connection of the demo's clients has an end that is not the garbage collector's."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from espalier_cli.demo.kubectl import Kubectl, close_clients
from espalier_cli.demo.world import forget_versions

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LISTING = b"<ListBucketResult><Name>models</Name><KeyCount>0</KeyCount></ListBucketResult>"


class Answers(BaseHTTPRequestHandler):
    """The same document for every GET, over connections that stay open until the client closes them."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        content = LISTING if "list-type" in self.path else json.dumps({"metadata": {"name": "digits"}}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/xml" if content is LISTING else "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *words: object) -> None:
        """Nothing."""


class Server(ThreadingHTTPServer):
    """Tells when a client has closed its connection."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.connected, self.left = 0, threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def process_request_thread(self, request: object, client_address: object) -> None:
        self.connected += 1
        super().process_request_thread(request, client_address)  # type: ignore[arg-type]
        self.left.set()


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_looks_share_a_connection_until_it_is_closed(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = {"name": "here", "cluster": {"server": server.url}}
    context = {"name": "here", "context": {"cluster": "here", "user": "nobody"}}
    config = {"clusters": [here], "contexts": [context], "users": [{"name": "nobody", "user": {}}]}
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", "current-context": "here", **config}))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    kube = Kubectl("vision", "here")
    for _ in range(3):
        assert kube.get("deployment", "digits") == {"metadata": {"name": "digits"}}
    assert (server.connected, server.left.is_set()) == (1, False)
    close_clients()
    assert server.left.wait(10)
    close_clients()


def test_the_store_is_let_go(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def forward(*_: object) -> Iterator[str]:
        yield server.url
        assert server.connected == 1
        assert server.left.wait(10), "the client outlives its port-forward"

    monkeypatch.setattr(Kubectl, "forward", forward)
    monkeypatch.setattr(Kubectl, "secret", lambda *_: {"AWS_ACCESS_KEY_ID": "admin", "AWS_SECRET_ACCESS_KEY": "secret"})
    forget_versions(Kubectl("vision"), "digits")
