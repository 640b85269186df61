"""The adapter against sockets: every way to fail has a reason and a bound, and a fleet asks once."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from espalier_operator.adapters import prometheus as adapter
from espalier_operator.adapters import strict_session
from espalier_operator.adapters.prometheus import Prometheus, open_sources
from espalier_operator.decisions.judge import DownReason, Query, RangeQuery, SourceDown
from espalier_operator.decisions.judge.series import Matrix, Vector
from espalier_operator.settings import PrometheusSource
from tests.contract.operator.prometheus import stub as stubs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

NOON = datetime.fromtimestamp(1793534400, tz=UTC)
QUERY = Query('max by (pod) (last_over_time(x{a=~"b|c"}[60s]))', NOON)
PAST = RangeQuery("x", NOON, NOON + timedelta(seconds=60), timedelta(seconds=30))


@pytest.fixture
def stub() -> Iterator[Any]:
    with stubs.serving() as served:
        yield served


@pytest.fixture
async def source(stub: Any) -> AsyncIterator[Prometheus]:
    opened = Prometheus("default", PrometheusSource(stub.url, timeout=timedelta(seconds=0.5)))
    yield opened
    opened.close()


async def down(source: Prometheus, query: Query = QUERY) -> SourceDown:
    answer = await source.instant(query)
    assert isinstance(answer, SourceDown), answer
    return answer


async def test_an_answer(stub: Any, source: Prometheus) -> None:
    answer = await source.instant(QUERY)
    assert isinstance(answer, Vector)
    assert [(sample.labels["outcome"], sample.value) for sample in answer.samples] == [("ok", 1042), ("error", 3)]
    assert answer.of("vision", "digits") == answer.samples
    ((path, asked, _),) = stub.requests
    assert path == "/api/v1/query"
    assert asked == {"query": QUERY.text, "time": "1793534400.000", "timeout": "0.5"}


async def test_a_range(stub: Any, source: Prometheus) -> None:
    stub.answer(stubs.MATRIX)
    answer = await source.range(PAST)
    assert isinstance(answer, Matrix)
    assert [time for time, _ in answer.steps] == [NOON + timedelta(seconds=30 * index) for index in range(3)]
    assert [len(vector) for _, vector in answer.steps] == [1, 2, 2]
    ((path, asked, _),) = stub.requests
    assert path == "/api/v1/query_range"
    assert (asked["start"], asked["end"], asked["step"]) == ("1793534400", "1793534460", "30")


async def test_a_scalar_and_an_empty_vector_and_infos(stub: Any, source: Prometheus) -> None:
    stub.answer(stubs.SCALAR)
    scalar = await source.instant(Query("scalar(x)", NOON))
    assert isinstance(scalar, Vector)
    assert scalar.samples[0].value == 0.25
    stub.answer(stubs.EMPTY)
    assert await source.instant(Query("empty", NOON)) == Vector(())
    stub.answer(stubs.INFO)
    assert isinstance(await source.instant(Query("info", NOON)), Vector)


@pytest.mark.parametrize(
    "document,status,reason,words",
    [
        (stubs.THANOS_PARTIAL, 200, DownReason.PARTIAL, "code = Unavailable"),
        (stubs.BAD_QUERY, 400, DownReason.REJECTED, "parse error"),
        (stubs.TOO_MANY_SAMPLES, 422, DownReason.REJECTED, "too many samples"),
        (stubs.QUERY_TIMEOUT, 503, DownReason.SERVER_ERROR, "query timed out"),
        ({"error": "slow down"}, 429, DownReason.SERVER_ERROR, "HTTP 429"),
        ({"message": "unauthorized"}, 401, DownReason.REJECTED, "HTTP 401"),
        ({"status": "error", "error": "no"}, 200, DownReason.MALFORMED, "not a Prometheus result"),
        ({"status": "success"}, 200, DownReason.MALFORMED, "unknown form"),
        ({"status": "success", "data": {"result": [{"metric": {}}]}}, 200, DownReason.MALFORMED, "unknown form"),
        ({"status": "success", "data": {"result": [{"metric": {}, "value": [1, "x"]}]}}, 200, DownReason.MALFORMED, ""),
        ({"status": "success", "data": {"result": None}}, 200, DownReason.MALFORMED, "unknown form"),
        ([1, 2], 200, DownReason.MALFORMED, "not a Prometheus result"),
    ],
)
async def test_what_is_no_answer(
    stub: Any, source: Prometheus, document: Any, status: int, reason: DownReason, words: str
) -> None:
    stub.answer(document, status)
    answer = await down(source)
    assert answer.reason is reason
    assert words in answer.message
    assert "default" in answer.message


async def test_a_login_page_is_no_answer(stub: Any, source: Prometheus) -> None:
    stub.body = b"<html><title>Sign in</title>"
    answer = await down(source)
    assert answer.reason is DownReason.MALFORMED
    assert "Sign in" in answer.message


async def test_a_cut_answer_is_no_answer(stub: Any, source: Prometheus) -> None:
    stub.cut = True
    assert (await down(source)).reason in {DownReason.REFUSED, DownReason.TIMEOUT}


async def test_silence_ends_at_the_timeout(stub: Any, source: Prometheus) -> None:
    stub.silent = True
    began = time.monotonic()
    assert (await down(source)).reason is DownReason.TIMEOUT
    assert time.monotonic() - began < 3
    assert len(stub.requests) == 1  # no retry behind our back


async def test_a_dripping_answer_ends_at_the_timeout(stub: Any, source: Prometheus) -> None:
    stub.drip = True
    began = time.monotonic()
    assert (await down(source)).reason is DownReason.TIMEOUT
    assert time.monotonic() - began < 3


async def test_an_endless_answer_is_cut(stub: Any, source: Prometheus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strict_session, "MAX_BYTES", 1000)
    stub.body = b" " * 200_000
    answer = await down(source)
    assert answer.reason is DownReason.MALFORMED
    assert "larger than" in answer.message


async def test_nobody_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    source = Prometheus("gone", PrometheusSource(f"http://127.0.0.1:{port}", timeout=timedelta(seconds=0.5)))
    answer = await down(source)
    assert answer.reason is DownReason.REFUSED
    assert "Connection refused" in answer.message
    assert str(port) in answer.message
    source.close()


async def test_a_name_that_does_not_exist() -> None:
    source = Prometheus("gone", PrometheusSource("http://prometheus.invalid:9090", timeout=timedelta(seconds=2)))
    assert (await down(source)).reason in {DownReason.REFUSED, DownReason.TIMEOUT}
    source.close()


async def test_a_redirect_loop_ends(stub: Any, source: Prometheus) -> None:
    stub.status, stub.headers = 302, {"Location": "/api/v1/query"}
    assert (await down(source)).reason is DownReason.REFUSED


async def test_the_token_is_read_anew_and_headers_are_sent(stub: Any, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    settings = PrometheusSource(stub.url, bearer_token_file=token)
    source = Prometheus("default", settings, {"X-Scope-OrgID": "team"})
    await source.instant(Query("a", NOON))
    token.write_text("second")
    await source.instant(Query("b", NOON))
    sent = [headers for _, _, headers in stub.requests]
    assert [headers["Authorization"] for headers in sent] == ["Bearer first", "Bearer second"]
    assert sent[0]["X-Scope-OrgID"] == "team"
    token.unlink()
    missing = await down(source, Query("c", NOON))
    assert missing.reason is DownReason.MISCONFIGURED
    assert "bearerTokenFile" in missing.message
    source.close()


async def test_a_missing_ca_file_is_named(stub: Any, tmp_path: Path) -> None:
    url = stub.url.replace("http", "https")
    source = Prometheus("tls", PrometheusSource(url, ca_file=tmp_path / "ca.pem"))
    answer = await down(source)
    assert answer.reason is DownReason.MISCONFIGURED
    assert "caFile" in answer.message
    source.close()


# --- a fleet asks once ---------------------------------------------------------------------------------------------


async def test_a_thousand_rollouts_ask_once(stub: Any, source: Prometheus) -> None:
    stub.gate = threading.Event()
    waiting = [asyncio.create_task(source.instant(QUERY)) for _ in range(1000)]
    await asyncio.sleep(0)
    stub.gate.set()
    answers = await asyncio.gather(*waiting)
    assert all(answer is answers[0] for answer in answers)
    assert await source.instant(QUERY) is answers[0]
    assert len(stub.requests) == 1


async def test_one_that_stops_waiting_does_not_take_the_answer_from_others(stub: Any, source: Prometheus) -> None:
    stub.gate = threading.Event()
    first, second = (asyncio.create_task(source.instant(QUERY)) for _ in range(2))
    await asyncio.sleep(0.01)
    first.cancel()
    stub.gate.set()
    assert isinstance(await second, Vector)


async def test_another_time_is_another_question(stub: Any, source: Prometheus) -> None:
    await source.instant(QUERY)
    await source.instant(Query(QUERY.text, NOON + timedelta(seconds=30)))
    assert len(stub.requests) == 2


async def test_a_failure_is_shared_for_a_moment_and_then_asked_again(
    stub: Any, source: Prometheus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "FAILURE_SECONDS", 0.05)
    stub.answer(stubs.QUERY_TIMEOUT, 503)
    first = await down(source)
    assert await down(source) is first
    assert len(stub.requests) == 1
    stub.answer(stubs.VECTOR)
    await asyncio.sleep(0.06)
    assert isinstance(await source.instant(QUERY), Vector)


async def test_the_cache_is_bounded(stub: Any, source: Prometheus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "CACHE_ENTRIES", 4)
    for index in range(10):
        await source.instant(Query(f"q{index}", NOON))
    assert len(source._answers) <= 4
    assert len(source._labels) <= 4
    monkeypatch.setattr(adapter, "CACHE_SERIES", 3)
    await source.instant(Query("r", NOON))
    assert len(source._answers) == 1


async def test_labels_are_shared_between_answers(source: Prometheus) -> None:
    first = await source.instant(QUERY)
    second = await source.instant(Query(QUERY.text, NOON + timedelta(seconds=30)))
    assert isinstance(first, Vector)
    assert isinstance(second, Vector)
    assert first.samples[0].labels is second.samples[0].labels


async def test_a_huge_answer_splits_the_fleet(stub: Any, source: Prometheus, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not source.sharded
    monkeypatch.setattr(adapter, "SERIES_BUDGET", 1)
    await source.instant(QUERY)
    assert source.sharded


async def test_a_slow_source_delays_no_other(stub: Any) -> None:
    with stubs.serving() as slow:
        slow.silent = True
        sources = open_sources(
            {
                "slow": PrometheusSource(slow.url, timeout=timedelta(seconds=1)),
                "fast": PrometheusSource(stub.url, timeout=timedelta(seconds=1)),
            }
        )
        stuck = [asyncio.create_task(sources["slow"].instant(Query(str(index), NOON))) for index in range(20)]
        await asyncio.sleep(0.05)
        began = time.monotonic()
        assert isinstance(await sources["fast"].instant(QUERY), Vector)
        assert time.monotonic() - began < 0.9
        answers = await asyncio.gather(*stuck)
        assert {answer.reason for answer in answers if isinstance(answer, SourceDown)} == {DownReason.TIMEOUT}
        for source in sources.values():
            source.close()


def test_recorded_answers_are_json() -> None:
    assert json.loads(stubs.Stub().body)["status"] == "success"
