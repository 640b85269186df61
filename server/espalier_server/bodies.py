"""Request bodies: bounded in bytes and in time, JSON only."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from espalier_server.errors import BodyTooLargeError, BodyTooSlowError, InvalidRequestError, UnsupportedBodyError

if TYPE_CHECKING:
    from starlette.types import Receive, Scope

    from espalier_api.serving import ServingLimits


async def read_body(scope: Scope, receive: Receive, limits: ServingLimits) -> bytes:
    """The whole body. Raises UnsupportedBodyError, BodyTooLargeError, BodyTooSlowError, or InvalidRequestError when
    the client went away.
    """
    _check_headers(scope["headers"], limits.max_body_bytes)
    try:
        async with asyncio.timeout(limits.request_timeout_seconds):
            return await _collect(receive, limits.max_body_bytes)
    except TimeoutError as error:
        raise BodyTooSlowError(f"body: not here within {limits.request_timeout_seconds:g} s") from error


async def _collect(receive: Receive, limit: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise InvalidRequestError("body", "the client went away before its end")
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _check_headers(headers: list[tuple[bytes, bytes]], limit: int) -> None:
    """Refuse by the headers alone what cannot be read anyway. A missing Content-Type is taken as JSON, as curl users
    expect.
    """
    for name, value in headers:
        if name == b"content-type" and value.split(b";")[0].strip().lower() not in {b"application/json", b""}:
            raise UnsupportedBodyError(f"Content-Type: must be application/json, is {value.decode('latin-1')[:80]!r}")
        if name == b"content-encoding" and value.strip().lower() not in {b"identity", b""}:
            raise UnsupportedBodyError("Content-Encoding: compressed bodies are not read; send plain JSON")
        if name == b"content-length" and value.isdigit() and int(value[:20]) > limit:
            raise _too_large(limit)


def _too_large(limit: int) -> BodyTooLargeError:
    return BodyTooLargeError(f"body: more than {limit} bytes (limits.maxBodyBytes); send fewer rows per request")
