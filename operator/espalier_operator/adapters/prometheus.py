"""Prometheus behind a small Protocol: a vector, a matrix, or why there is none. Never an exception, never an endless
wait.

Built on prometheus-api-client, whose defaults would hurt a gate: no timeout, retries that take six seconds per refused
call, one session for all threads, warnings of partial answers dropped, a scalar that looks like a series. So each
worker thread has a client of its own over `StrictSession`, which bounds time and size, reads the bearer token anew,
and refuses what cannot be judged before the library sees it.
"""

from __future__ import annotations

import asyncio
import math
import sys
import threading
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import requests
from prometheus_api_client import PrometheusConnect
from urllib3.exceptions import HTTPError
from urllib3.exceptions import TimeoutError as TransportTimeoutError
from urllib3.util.retry import Retry

from espalier_api import metrics
from espalier_operator import telemetry
from espalier_operator.adapters.strict_session import BadAnswerError, StrictSession
from espalier_operator.decisions.judge.readings import SourceDown
from espalier_operator.decisions.judge.series import Matrix, Sample, Vector
from espalier_operator.decisions.judge.verdict import DownReason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import timedelta

    from espalier_operator.decisions.judge.queries import Query, RangeQuery
    from espalier_operator.settings import PrometheusSource

__all__ = ["MetricSource", "Prometheus", "open_sources"]

QUERIES: Final = telemetry.counter(metrics.SOURCE_QUERIES)
QUERY_DURATION: Final = telemetry.histogram(metrics.SOURCE_QUERY_DURATION)
CACHE_HITS: Final = telemetry.counter(metrics.SOURCE_CACHE_HITS)

THREADS: Final = 4
"""Queries at once per source; its own pool, so a slow source delays no other."""
SERIES_BUDGET: Final = 100_000
"""A fleet answer with more series is asked for by namespace from then on."""
CACHE_ENTRIES: Final = 128
CACHE_SERIES: Final = 500_000
FAILURE_SECONDS: Final = 5.0
"""A failure is remembered this long: a thousand rollouts that wait for one source ask it once."""

_NO_RETRY: Final = Retry(total=0, read=False)  # read=False: a timeout stays one instead of "retries exceeded"

AnswerT = TypeVar("AnswerT")
Labels = dict[str, str]
LabelsKey = tuple[tuple[str, str], ...]


class MetricSource(Protocol):
    """Where SLIs are read."""

    @property
    def scrape_interval(self) -> timedelta:
        """How often it looks at the servers."""

    @property
    def lag(self) -> timedelta:
        """How long after an instant its samples are complete."""

    @property
    def sharded(self) -> bool:
        """True when fleet queries must name their namespace because the answers grew too large."""

    async def instant(self, query: Query) -> Vector | SourceDown:
        """An instant vector."""

    async def range(self, query: RangeQuery) -> Matrix | SourceDown:
        """A vector at every step."""


@dataclass(slots=True, eq=False)
class _Entry:
    """One shared answer; failures expire."""

    task: asyncio.Task[Vector | SourceDown]
    expires: float = math.inf
    series: int = 0


class Prometheus:
    """One configured source. Belongs to one event loop; close it when the operator stops."""

    def __init__(self, name: str, settings: PrometheusSource, headers: Mapping[str, str] | None = None) -> None:
        self.name = name
        self._settings = settings
        self._headers = dict(headers or {})
        self._timeout = settings.timeout.total_seconds()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix=f"prometheus-{name}")
        self._local = threading.local()
        self._answers: OrderedDict[Query, _Entry] = OrderedDict()
        self._labels: dict[str, dict[LabelsKey, Labels]] = {}
        self._sharded = False

    @property
    def scrape_interval(self) -> timedelta:
        """From the settings."""
        return self._settings.scrape_interval

    @property
    def lag(self) -> timedelta:
        """From the settings."""
        return self._settings.lag

    @property
    def sharded(self) -> bool:
        """Stays once an answer was too large."""
        return self._sharded

    async def instant(self, query: Query) -> Vector | SourceDown:
        """The answer to `query`, asked for once however many rollouts want it."""
        entry = self._answers.get(query)
        if entry is not None and entry.expires > time.monotonic():
            CACHE_HITS.labels(self.name).inc()
            self._answers.move_to_end(query)
        else:
            entry = self._answers[query] = _Entry(asyncio.create_task(self._instant(query)))
            entry.task.add_done_callback(lambda _: self._settle(entry))
        return await asyncio.shield(entry.task)

    async def range(self, query: RangeQuery) -> Matrix | SourceDown:
        """The answer to `query`; not kept, each canary asks its own once."""

        def ask(client: PrometheusConnect) -> Matrix:
            step = f"{query.step.total_seconds():g}"
            return _matrix(client.custom_query_range(query.text, query.start, query.end, step, self._server_side()))

        return await self._ask(ask)

    def close(self) -> None:
        """Give the threads back; queries under way are abandoned."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _instant(self, query: Query) -> Vector | SourceDown:
        def ask(client: PrometheusConnect) -> Vector:
            at = {"time": f"{query.time.timestamp():.3f}"}
            return self._vector(query.text, client.custom_query(query.text, {**at, **self._server_side()}))

        answer = await self._ask(ask)
        if isinstance(answer, Vector) and len(answer) > SERIES_BUDGET:
            self._sharded = True
        return answer

    async def _ask(self, ask: Callable[[PrometheusConnect], AnswerT]) -> AnswerT | SourceDown:
        """Run one call in the pool, count it, and turn every way to fail into SourceDown."""
        began = time.monotonic()
        future = asyncio.get_running_loop().run_in_executor(self._pool, self._guarded, ask)
        try:
            answer = await asyncio.wait_for(future, 2 * self._timeout)
        except TimeoutError:
            message = f"source {self.name} gave no answer within {2 * self._timeout:g} s"
            answer = SourceDown(DownReason.TIMEOUT, message)
        QUERIES.labels(self.name, answer.reason.value if isinstance(answer, SourceDown) else "Ok").inc()
        QUERY_DURATION.labels(self.name).observe(time.monotonic() - began)
        return answer

    def _guarded(self, ask: Callable[[PrometheusConnect], AnswerT]) -> AnswerT | SourceDown:
        """In a worker thread: the call, or why it failed."""
        try:
            return ask(self._client())
        except BadAnswerError as error:
            return SourceDown(error.reason, f"source {self.name}: {error}")
        except (requests.Timeout, TransportTimeoutError):
            return SourceDown(DownReason.TIMEOUT, f"source {self.name} did not answer within {self._timeout:g} s")
        except (requests.RequestException, HTTPError) as error:
            return SourceDown(DownReason.REFUSED, f"source {self.name} at {self._settings.url}: {_root(error)}")
        except OSError as error:
            message = f"source {self.name}: {error}; check bearerTokenFile and caFile in the operator's settings"
            return SourceDown(DownReason.MISCONFIGURED, message)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            return SourceDown(DownReason.MALFORMED, f"source {self.name} answered in an unknown form: {error!r}")

    def _client(self) -> PrometheusConnect:
        """A client of this thread alone: neither requests nor the library promises to be shared."""
        client = getattr(self._local, "client", None)
        if client is None:
            session = StrictSession(
                self._timeout,
                token_file=self._settings.bearer_token_file,
                ca_file=self._settings.ca_file,
                headers=self._headers,
            )
            client = PrometheusConnect(self._settings.url, retry=_NO_RETRY, session=session, timeout=self._timeout)
            self._local.client = client
        return client

    def _server_side(self) -> dict[str, str]:
        """The server gives up when we do; plain seconds, for `0.3s` is no Prometheus duration."""
        return {"timeout": f"{self._timeout:g}"}

    def _vector(self, text: str, rows: Any) -> Vector:  # noqa: ANN401 - whatever JSON held
        """Samples that share their labels with the previous answer to the same text: a fleet's labels hardly change."""
        if rows and not isinstance(rows[0], dict):  # a scalar: [time, "value"]
            return Vector((Sample({}, float(rows[1])),))
        known, kept = self._labels.get(text, {}), dict[LabelsKey, Labels]()
        samples = []
        for row in rows:
            key = tuple(sorted(row["metric"].items()))
            labels = kept[key] = known.get(key) or {sys.intern(name): sys.intern(value) for name, value in key}
            samples.append(Sample(labels, float(row["value"][1])))
        self._labels[text] = kept
        return Vector(samples)

    def _settle(self, entry: _Entry) -> None:
        """Once answered: let failures expire, and forget the oldest answers beyond the bounds."""
        answer = None if entry.task.cancelled() else entry.task.result()
        if isinstance(answer, Vector):
            entry.series = len(answer)
        else:
            entry.expires = time.monotonic() + (FAILURE_SECONDS if answer is not None else 0)
        series = sum(each.series for each in self._answers.values())
        while len(self._answers) > CACHE_ENTRIES or (series > CACHE_SERIES and len(self._answers) > 1):
            _, oldest = self._answers.popitem(last=False)
            series -= oldest.series
        texts = {query.text for query in self._answers}
        for text in self._labels.keys() - texts:
            del self._labels[text]


def open_sources(sources: Mapping[str, PrometheusSource]) -> dict[str, Prometheus]:
    """A client per configured source, by name."""
    return {name: Prometheus(name, settings) for name, settings in sources.items()}


def _matrix(rows: Iterable[Mapping[str, Any]]) -> Matrix:
    """Turn series of points into a vector per instant."""
    steps: dict[float, list[Sample]] = {}
    for row in rows:
        for at, value in row["values"]:
            steps.setdefault(float(at), []).append(Sample(row["metric"], float(value)))
    return Matrix(tuple((datetime.fromtimestamp(at, tz=UTC), Vector(steps[at])) for at in sorted(steps)))


def _root(error: BaseException) -> str:
    """The words of the innermost cause: `Connection refused` without four layers of wrapping."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return str(error) or type(error).__name__
