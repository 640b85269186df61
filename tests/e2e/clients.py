"""The operator's client of the API server, for tests that ask that server what the operator relies on."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from espalier_operator.runtime import connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from kubernetes.aio.client import ApiClient

TLS_GOODBYE = 0.25
"""Seconds. Closing the session waits for the connections it holds, not for those of watches that were broken off
before; these say goodbye to the server on their own time, and must have done so before the event loop ends.
"""


@asynccontextmanager
async def api_client() -> AsyncIterator[ApiClient]:
    """The operator's own client, closed with its connections."""
    api = await connect()
    try:
        yield api
    finally:
        await api.close()  # type: ignore[no-untyped-call]
        await asyncio.sleep(TLS_GOODBYE)
