"""A whole pod without a network: the application over ASGI, its model from memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from espalier_server.app import build
from espalier_server.loading import load
from espalier_server.metrics import Metrics
from espalier_server.serving import ServedModel
from espalier_server.state import State
from espalier_server.workers import Workers
from tests.unit.server.tiny import Version

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path


@dataclass(slots=True)
class Pod:
    """One pod: its state and a client of its application."""

    state: State
    client: httpx.AsyncClient

    async def infer(self, rows: list[list[float]], **body: Any) -> httpx.Response:
        """POST rows of FP32; keyword arguments are further fields of the request."""
        data = [value for row in rows for value in row]
        tensor = {"name": "input", "shape": [len(rows), len(rows[0])], "datatype": "FP32", "data": data}
        return await self.client.post("/v2/models/digits/infer", json={"inputs": [tensor], **body})

    async def feedback(self, identity: object, label: object) -> httpx.Response:
        """POST one label."""
        return await self.client.post("/v1/feedback", json={"id": identity, "label": label})

    async def metric(self, name: str, **labels: str) -> float:
        """The value of the one series with these labels (identity is filled in); KeyError when there is none."""
        text = (await self.client.get("/metrics")).text
        wanted = {"namespace": "vision", "model": "digits", "version": "v4"} | labels
        for line in text.splitlines():
            head, _, value = line.rpartition(" ")
            if head.startswith(f"{name}{{") and all(f'{key}="{text}"' in head for key, text in wanted.items()):
                return float(value)
        raise KeyError(f"{name} {wanted}")


def make_pod(version: Version, folder: Path, *, ready: bool = True, **config: Any) -> Pod:
    """A pod that serves `version`, or that has not loaded it yet."""
    intended = version.config(**config)
    state = State(intended, Metrics(intended), Workers(intended.limits))
    if ready:
        loaded = load(intended, lambda _: version, folder, wait=_never, told=_never)
        state.serve(ServedModel(intended, loaded.model, loaded.golden, loaded.reference, state.metrics))
    transport = httpx.ASGITransport(app=build(state), raise_app_exceptions=True)
    return Pod(state, httpx.AsyncClient(transport=transport, base_url="http://pod"))


def _never(_: object) -> None:
    raise AssertionError("nothing here is unavailable")


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Callable[..., Pod]]:
    """Starts pods; they are closed at the end of the test."""
    pods: list[Pod] = []

    def starter(version: Version | None = None, **config: Any) -> Pod:
        pods.append(make_pod(version or Version(), tmp_path / f"pod-{len(pods)}", **config))
        return pods[-1]

    yield starter
    for pod in pods:
        await pod.client.aclose()
        pod.state.workers.close()


@pytest.fixture
def pod(start: Callable[..., Pod]) -> Pod:
    """A pod that serves the tiny classifier."""
    return start()
