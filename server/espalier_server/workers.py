"""A bounded place for computation: so many at once, so many waiting, so long at most; beyond that a request hears so
at once.

Two lanes. Work that takes longer than a thread switch costs goes to threads, where onnxruntime leaves the GIL while
it computes. Small work (most tabular models: 20 µs) runs on the event loop, one piece per turn of the loop: the way
to a thread and back cost more than twice the CPU of the request (bench/server.py). Both lanes share one queue limit,
and both let the time in queue be seen: between two pieces the loop accepts further requests, which then wait, count
and are throttled like all others.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from espalier_server.errors import ThrottledError, TooLateError

if TYPE_CHECKING:
    from collections.abc import Callable

    from espalier_api.serving import ServingLimits

T = TypeVar("T")


class _Piece(Generic[T]):
    """Small work that waits for its turn."""

    __slots__ = ("future", "latest", "work")

    def __init__(self, work: Callable[[], T], latest: float, future: asyncio.Future[T]) -> None:
        self.work = work
        self.latest = latest
        self.future = future

    def do(self) -> None:
        """Settle the future, whatever happens; work whose time is over is dropped."""
        if self.future.cancelled():
            return
        if time.monotonic() > self.latest:
            self.future.set_exception(TooLateError("limits.requestTimeoutSeconds: the queue was too long"))
            return
        try:
            self.future.set_result(self.work())
        except Exception as error:  # noqa: BLE001 - handed to the request that awaits it
            self.future.set_exception(error)


class Workers:
    """Where models compute. Used from one event loop."""

    def __init__(self, limits: ServingLimits) -> None:
        self._pool = ThreadPoolExecutor(limits.concurrency, thread_name_prefix="infer")
        self._most = limits.concurrency + limits.max_queue
        self._timeout = limits.request_timeout_seconds
        self._taken = 0
        self._small: deque[_Piece[Any]] = deque()

    async def run(self, work: Callable[[], T], *, small: bool = False) -> T:
        """The result of `work`. Raises ThrottledError when the queue is full and TooLateError when the time is over.

        Work that is too late but still queued is dropped; work that already runs keeps its place until it ends,
        because a thread cannot be stopped and a place given away twice would let the queue grow without bound.
        """
        if self._taken >= self._most:
            raise ThrottledError(
                f"limits.maxQueue: {self._most} requests are being answered or wait; try again in a second"
            )
        self._taken += 1
        return await (self._on_loop(work) if small else self._in_thread(work))

    def close(self) -> None:
        """Give the threads up; queued work is dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        item = self._pool.submit(work)
        future = asyncio.wrap_future(item)
        future.add_done_callback(self._leave)
        done, _ = await asyncio.wait((future,), timeout=self._timeout)
        if not done:
            item.cancel()
            raise TooLateError(f"limits.requestTimeoutSeconds: no answer within {self._timeout:g} s")
        return future.result()

    async def _on_loop(self, work: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        if not self._small:
            loop.call_soon(self._turn)
        self._small.append(_Piece(work, time.monotonic() + self._timeout, future))
        try:
            return await future
        finally:
            self._taken -= 1

    def _turn(self) -> None:
        """One piece; the next one waits for the loop's next turn, after the sockets."""
        self._small.popleft().do()
        if self._small:
            asyncio.get_running_loop().call_soon(self._turn)

    def _leave(self, future: asyncio.Future[T]) -> None:
        self._taken -= 1
        if not future.cancelled():
            future.exception()  # seen: when its request has gone, nobody else will ask
