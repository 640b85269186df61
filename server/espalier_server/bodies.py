"""Request bodies: bounded in bytes and in time, each and all together, JSON only."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from espalier_server.errors import (
    BodyTooLargeError,
    BodyTooSlowError,
    InvalidRequestError,
    ThrottledError,
    UnsupportedBodyError,
)

if TYPE_CHECKING:
    from starlette.types import Receive, Scope

    from espalier_api.serving import ServingLimits

MOST_HELD = 64 << 20
"""Bytes of all bodies in memory at once; two of the largest bodies always fit. Many slow clients must not add up to an OOM kill."""


class Bodies:
    """Reads bodies, and knows how many bytes of them are held. Used from one event loop."""

    def __init__(self, limits: ServingLimits, most_held: int = MOST_HELD) -> None:
        self._limit = limits.max_body_bytes
        self._seconds = limits.request_timeout_seconds
        self._most = max(most_held, 2 * limits.max_body_bytes)
        self.held = 0

    async def read(self, scope: Scope, receive: Receive) -> bytes:
        """The whole body; give it back with `release` when the request is answered.

        Raises UnsupportedBodyError, BodyTooLargeError, BodyTooSlowError, ThrottledError when too many bytes are held already, or
        InvalidRequestError when the client went away.
        """
        _check_headers(scope["headers"], self._limit)
        body = bytearray()
        try:
            async with asyncio.timeout(self._seconds):
                await self._collect(receive, body)
        except BaseException as error:
            self.held -= len(body)
            if isinstance(error, TimeoutError):
                raise BodyTooSlowError(f"body: not here within {self._seconds:g} s") from error
            raise
        return bytes(body)

    def release(self, body: bytes) -> None:
        """The request is answered."""
        self.held -= len(body)

    async def _collect(self, receive: Receive, body: bytearray) -> None:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise InvalidRequestError("body", "the client went away before its end")
            chunk = message.get("body", b"")
            body += chunk
            self.held += len(chunk)
            if len(body) > self._limit:
                raise _too_large(self._limit)
            if self.held > self._most:
                raise ThrottledError(f"body: {self._most} bytes of requests are held already; try again in a second")
            if not message.get("more_body", False):
                return


def _check_headers(headers: list[tuple[bytes, bytes]], limit: int) -> None:
    """Refuse by the headers alone what cannot be read anyway. A missing Content-Type is taken as JSON, as curl users expect."""
    for name, value in headers:
        if name == b"content-type" and value.split(b";")[0].strip().lower() not in {b"application/json", b""}:
            raise UnsupportedBodyError(f"Content-Type: must be application/json, is {value.decode('latin-1')[:80]!r}")
        if name == b"content-encoding" and value.strip().lower() not in {b"identity", b""}:
            raise UnsupportedBodyError("Content-Encoding: compressed bodies are not read; send plain JSON")
        if name == b"content-length" and value.isdigit() and int(value[:20]) > limit:
            raise _too_large(limit)


def _too_large(limit: int) -> BodyTooLargeError:
    return BodyTooLargeError(f"body: more than {limit} bytes (limits.maxBodyBytes); send fewer rows per request")
