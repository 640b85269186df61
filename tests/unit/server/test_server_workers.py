"""The bounded queue: both lanes share one limit, nobody waits longer than allowed, places come back."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from espalier_api.serving import ServingLimits
from espalier_server.errors import InvalidRequestError, ThrottledError, TooLateError
from espalier_server.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Iterator

LANES = pytest.mark.parametrize("small", [True, False])


@pytest.fixture
def workers() -> Iterator[Workers]:
    made = Workers(ServingLimits(concurrency=1, max_queue=2, request_timeout_seconds=0.2))
    yield made
    made.close()


@LANES
async def test_results_and_errors_come_back(workers: Workers, small: bool) -> None:
    assert await workers.run(lambda: 5, small=small) == 5
    with pytest.raises(InvalidRequestError):
        await workers.run(_refuse, small=small)
    assert await workers.run(lambda: 6, small=small) == 6


def _refuse() -> None:
    raise InvalidRequestError("x", "no")


@LANES
async def test_beyond_the_queue_requests_are_throttled_at_once(workers: Workers, small: bool) -> None:
    """One computes, two wait, the fourth hears so; afterwards there is room again."""
    results = await asyncio.gather(*(workers.run(lambda: 1, small=small) for _ in range(4)), return_exceptions=True)
    assert sorted(str(result) for result in results if result == 1) == ["1"] * 3
    assert [type(result) for result in results if result != 1] == [ThrottledError]
    assert await workers.run(lambda: 2, small=small) == 2


async def test_small_work_leaves_the_loop_its_turns(workers: Workers) -> None:
    """Between two pieces everybody else runs: three pieces do not become one long one."""
    order: list[str] = []

    async def other() -> None:
        for _ in range(4):
            order.append("other")
            await asyncio.sleep(0)

    pieces = [workers.run(lambda: order.append("piece"), small=True) for _ in range(3)]
    await asyncio.gather(*pieces, other())
    assert order.count("piece") == 3
    assert "piece,piece,piece" not in ",".join(order)


async def test_a_thread_that_takes_too_long_keeps_its_place_until_it_ends(workers: Workers) -> None:
    release = threading.Event()
    late = [asyncio.create_task(workers.run(release.wait)) for _ in range(3)]
    done = await asyncio.gather(*late, return_exceptions=True)
    assert [type(result) for result in done] == [TooLateError] * 3
    # the two that only waited have left, the one that computes has not
    also_late = [asyncio.create_task(workers.run(lambda: 1)) for _ in range(3)]
    results = await asyncio.gather(*also_late, return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["ThrottledError", "TooLateError", "TooLateError"]
    release.set()
    while True:
        try:
            assert await workers.run(lambda: 7) == 7
            break
        except (ThrottledError, TooLateError):
            await asyncio.sleep(0)


async def test_small_work_that_waited_too_long_is_dropped(workers: Workers) -> None:
    """A long piece (here: longer than allowed) makes the next one too late; it is not computed for nobody."""
    computed: list[int] = []
    release = threading.Event()
    first = asyncio.create_task(workers.run(lambda: release.wait(0.3), small=True))
    second = asyncio.create_task(workers.run(lambda: computed.append(1), small=True))
    await first
    with pytest.raises(TooLateError):
        await second
    assert computed == []


async def test_a_request_that_went_away_leaves_its_place(workers: Workers) -> None:
    gone = [asyncio.create_task(workers.run(lambda: 1, small=True)) for _ in range(3)]
    await asyncio.sleep(0)
    for task in gone:
        task.cancel()
    await asyncio.gather(*gone, return_exceptions=True)
    assert await workers.run(lambda: 2, small=True) == 2
