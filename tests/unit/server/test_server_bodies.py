"""Bodies: what is held is given back on every way out, and all bodies together are bounded."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from espalier_api.serving import ServingLimits
from espalier_server.bodies import Bodies
from espalier_server.errors import (
    BodyTooLargeError,
    BodyTooSlowError,
    InvalidRequestError,
    RequestError,
    ThrottledError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.unit.server.conftest import Pod

SCOPE: dict[str, Any] = {"headers": []}


def bodies(**limits: Any) -> Bodies:
    return Bodies(ServingLimits(max_body_bytes=1024, request_timeout_seconds=0.05, **limits), most_held=0)


def messages(*chunks: bytes, end: bool = True) -> Any:
    """An ASGI receive; without an end the client is silent for ever after its chunks."""
    waiting: list[dict[str, Any]] = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    if end:
        waiting[-1]["more_body"] = False

    async def receive() -> dict[str, Any]:
        if waiting:
            return waiting.pop(0)
        await asyncio.Event().wait()
        raise AssertionError

    return receive


def disconnecting(chunks: Iterable[bytes]) -> Any:
    """A client that goes away after its chunks."""
    waiting = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]

    async def receive() -> dict[str, Any]:
        return waiting.pop(0) if waiting else {"type": "http.disconnect"}

    return receive


async def test_chunks_are_one_body_and_held_until_released() -> None:
    found = bodies()
    body = await found.read(SCOPE, messages(b"ab", b"", b"c"))
    assert (body, found.held) == (b"abc", 3)
    found.release(body)
    assert found.held == 0


@pytest.mark.parametrize(
    "receive,error",
    [
        (messages(b"x" * 1000, b"x" * 25), BodyTooLargeError),
        (messages(b"abc", end=False), BodyTooSlowError),
        (disconnecting([b"abc"]), InvalidRequestError),
    ],
)
async def test_nothing_is_held_for_a_refused_body(receive: Any, error: type[RequestError]) -> None:
    found = bodies()
    with pytest.raises(error):
        await found.read(SCOPE, receive)
    assert found.held == 0


async def test_all_bodies_together_are_bounded() -> None:
    """Twice the largest body fits; a third is throttled, and fits again when one was released."""
    found = bodies()
    first = await found.read(SCOPE, messages(b"x" * 1024))
    await found.read(SCOPE, messages(b"x" * 1024))
    with pytest.raises(ThrottledError):
        await found.read(SCOPE, messages(b"x"))
    assert found.held == 2048
    found.release(first)
    assert await found.read(SCOPE, messages(b"x")) == b"x"


async def test_requests_give_back_what_they_held(pod: Pod) -> None:
    identity = (await pod.infer([[1.0, 2.0, 3.0]])).json()["id"]
    await pod.infer([[1.0]])
    await pod.feedback(identity, "eel")
    await pod.feedback("x", "eel")
    await pod.client.post("/v2/models/digits/infer", content=b" " * 65537)
    assert pod.state.bodies.held == 0
