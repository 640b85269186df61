"""A bounded place for computation: so many at once, so many waiting, so long at most. Beyond that a request is told
so at once.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from espalier_server.errors import ThrottledError, TooLateError

if TYPE_CHECKING:
    from collections.abc import Callable

    from espalier_api.serving import ServingLimits

T = TypeVar("T")


class Workers:
    """Threads for the model; onnxruntime leaves the GIL while it computes."""

    def __init__(self, limits: ServingLimits) -> None:
        self._pool = ThreadPoolExecutor(limits.concurrency, thread_name_prefix="infer")
        self._most = limits.concurrency + limits.max_queue
        self._timeout = limits.request_timeout_seconds
        self._taken = 0

    async def run(self, work: Callable[[], T]) -> T:
        """The result of `work`. Raises ThrottledError when the queue is full and TooLateError when the time is over.

        Work that is too late but still queued is dropped; work that already runs keeps its place until it ends,
        because a thread cannot be stopped and a place given away twice would let the queue grow without bound.
        """
        if self._taken >= self._most:
            raise ThrottledError(
                f"limits.maxQueue: {self._most} requests are being answered or wait; try again in a second"
            )
        self._taken += 1
        work_item = self._pool.submit(work)
        future = asyncio.wrap_future(work_item)
        future.add_done_callback(self._leave)
        done, _ = await asyncio.wait((future,), timeout=self._timeout)
        if not done:
            work_item.cancel()
            raise TooLateError(f"limits.requestTimeoutSeconds: no answer within {self._timeout:g} s")
        return future.result()

    def close(self) -> None:
        """Give the threads up; queued work is dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _leave(self, future: asyncio.Future[T]) -> None:
        self._taken -= 1
        if not future.cancelled():
            future.exception()  # seen: when its request has gone, nobody else will ask
