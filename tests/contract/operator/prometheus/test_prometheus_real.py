"""The judge on a real Prometheus: what it counts is what happened, event by event, through resets, births, deaths and outages."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from espalier_api.analysis import Analysis as AnalysisSpec
from espalier_operator.adapters.analysis import Analysis, Canary, analyse
from espalier_operator.adapters.prometheus import Prometheus
from espalier_operator.decisions.judge import (
    ArmCounts,
    Arms,
    DownReason,
    Query,
    SampleState,
    Sli,
    SourceDown,
    SourceTiming,
    compile_slis,
)
from espalier_operator.decisions.judge.dispersion import variance_ratio
from espalier_operator.decisions.judge.series import Vector
from espalier_operator.settings import PrometheusSource
from tests.contract.operator.prometheus import real

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

SCRAPE, BLOCK = 15, 30
BLOCKS = 40
NOW = datetime.fromtimestamp(time.time() // BLOCK * BLOCK - 2 * BLOCK, tz=UTC)
STARTED = NOW - timedelta(seconds=BLOCK * (BLOCKS + 2))  # warm-up 60 s, so the first block ends 90 s later
BEGAN = STARTED - timedelta(minutes=32)
ARMS = Arms("vision", "digits", "v4", "v3")
SPEC = {
    "slis": [
        {"name": "errors", "errorRatio": {}},
        {"name": "latency", "latency": {"threshold": "200ms"}},
        {"name": "odd-edge", "latency": {"threshold": "123ms"}, "dryRun": True},
        {"name": "mine", "counts": {"total": "all_total{v='$version'}", "bad": "bad_total{v='$version'}"}},
        {"name": "drift", "drift": {"maxPSI": 0.1}},
        {"name": "several", "query": "inference_requests_total", "max": 1},
        {"name": "wrong", "query": "sum(", "max": 1, "consecutiveErrorLimit": 0},
    ]
}


@dataclass
class Pod:
    """A process that counts. `per_scrape` events of each kind happen in every scrape interval."""

    version: str
    name: str
    born: int = 0
    """Scrapes after BEGAN; it has counted nothing before."""
    dies: int = 10**9
    """Its last scrape; then comes a staleness marker."""
    restarts: tuple[int, ...] = ()
    missed: tuple[int, ...] = ()
    model: str = "digits"
    per_scrape: dict[str, int] = field(default_factory=lambda: {"ok": 97, "error": 1})
    burst_every: int = 0

    def events(self, scrape: int) -> dict[str, int]:
        """What happens between the scrape before and this one."""
        if not self.born < scrape <= self.dies:
            return {}
        extra = 9 if self.burst_every and scrape % self.burst_every == 0 else 0
        return {**self.per_scrape, "error": self.per_scrape["error"] + extra}

    def scraped(self, last: int) -> dict[str, list[tuple[float, float]]]:
        """Samples by outcome, as Prometheus would have stored them."""
        counters, samples = dict.fromkeys(self.per_scrape, 0), {outcome: [] for outcome in self.per_scrape}
        for scrape in range(self.born, last + 1):
            at = BEGAN.timestamp() + scrape * SCRAPE
            if scrape in self.restarts:
                counters = dict.fromkeys(counters, 0)
            for outcome, count in self.events(scrape).items():
                counters[outcome] += count
            if scrape > self.dies:
                for points in samples.values():
                    points.append((at, real.STALE))
                break
            if scrape not in self.missed:
                for outcome, points in samples.items():
                    points.append((at, float(counters[outcome])))
        return samples


def scrape_at(moment: datetime) -> int:
    return round((moment - BEGAN).total_seconds() / SCRAPE)


CANARY_FROM = scrape_at(STARTED)
PODS = (
    Pod("v3", "stable-a", burst_every=7),
    Pod("v3", "stable-b", dies=CANARY_FROM + 31),
    Pod("v3", "stable-c", born=CANARY_FROM + 32),
    Pod("v4", "canary-a", born=CANARY_FROM - 2, restarts=(CANARY_FROM + 21,), per_scrape={"ok": 9, "error": 1}),
    Pod("v4", "canary-b", born=CANARY_FROM + 41, missed=(CANARY_FROM + 50,), per_scrape={"ok": 4, "error": 0}),
    Pod("v4", "other", model="letters", per_scrape={"ok": 1, "error": 50}),
)
STARTS = {pod.name: BEGAN + timedelta(seconds=pod.born * SCRAPE) for pod in PODS}


def truth(version: str, start: datetime, end: datetime) -> ArmCounts:
    """Events of one arm in ``(start, end]``."""
    counts = ArmCounts()
    for pod in PODS:
        for scrape in range(scrape_at(start) + 1, scrape_at(end) + 1):
            events = pod.events(scrape) if (pod.version, pod.model) == (version, "digits") else {}
            counts += ArmCounts(sum(events.values()), events.get("error", 0))
    return counts


def history() -> list[tuple[dict[str, str], list[tuple[float, float]]]]:
    """Every series of the made-up past."""
    last, series = scrape_at(NOW), []
    for pod in PODS:
        identity = {"namespace": "vision", "model": pod.model, "version": pod.version, "pod": pod.name}
        target = {**identity, "instance": f"{pod.name}:8080", "job": "pods", "node": "worker"}
        samples = pod.scraped(last)
        for outcome, points in samples.items():
            series.append(({"__name__": "inference_requests_total", "outcome": outcome, **target}, points))
        everything = [
            (at, value if math.isnan(value) else value + other)
            for (at, value), (_, other) in zip(samples["ok"], samples["error"], strict=True)
        ]
        for le, points in (("0.2", samples["ok"]), ("+Inf", everything)):
            series.append(({"__name__": "inference_duration_seconds_bucket", "le": le, **target}, points))
        if pod.name == "canary-a":
            series += drifting(target, last)
    for version, per_scrape in (("v4", 10), ("v3", 100)):
        for name, share in (("all_total", 1), ("bad_total", 0)):
            points = [(BEGAN.timestamp() + i * SCRAPE, float(i * per_scrape * share)) for i in range(last + 1)]
            series.append(({"__name__": name, "v": version}, points))
    return series


def drifting(target: dict[str, str], last: int) -> list[tuple[dict[str, str], list[tuple[float, float]]]]:
    """P = (.3, .4, .3) served where Q = (.2, .5, .3) was trained: PSI 0.062861."""
    series = []
    for index, (served, trained) in enumerate(((30, 0.2), (40, 0.5), (30, 0.3))):
        labels = {**target, "feature": "width", "bin": str(index)}
        times = [BEGAN.timestamp() + i * SCRAPE for i in range(last + 1)]
        seen = [(at, float(served * i)) for i, at in enumerate(times)]
        series.append(({"__name__": "model_feature_observations_total", **labels}, seen))
        reference = {name: labels[name] for name in ("namespace", "model", "version", "feature", "bin")}
        ratio = [(at, trained) for at in times]
        series.append(({"__name__": "model_feature_reference_ratio", "instance": "operator", **reference}, ratio))
    return series


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("prometheus")
    with real.running(real.binary(folder), folder) as started:
        started.write(history())
        yield started


@pytest.fixture
async def source(server: Any) -> AsyncIterator[Prometheus]:
    opened = Prometheus("default", PrometheusSource(server.url, timeout=timedelta(seconds=2)))
    yield opened
    opened.close()


def sli(name: str) -> Sli:
    spec = AnalysisSpec.model_validate(SPEC)
    slis = compile_slis(spec, SourceTiming(), warm_up=timedelta(seconds=60))
    return next(each for each in slis if each.name == name)


async def to_the_end(name: str, source: Prometheus, entry: Any | None = None) -> Analysis:
    """Every block until NOW, with a restart after each pass."""
    current = entry or {}
    while True:
        seen = await analyse(sli(name), current, source, Canary(ARMS, STARTED, STARTS), NOW + timedelta(seconds=30))
        if not seen.blocks or not seen.backlog:
            return seen
        current = json.loads(json.dumps(seen.look.status))


async def test_errors_are_counted_event_by_event(source: Prometheus) -> None:
    """Reset of canary-a, birth of canary-b (and a scrape it missed), death of stable-b, birth of stable-c."""
    seen = await to_the_end("errors", source)
    sums = seen.look.status["sums"]
    first = STARTED + timedelta(seconds=60)
    for version, role in (("v4", "canary"), ("v3", "stable")):
        expected = truth(version, first, NOW)
        assert ArmCounts(sums[f"{role}Total"], sums[f"{role}Bad"]) == expected, role
    assert seen.look.status["blocks"] == BLOCKS
    assert seen.look.state is SampleState.BREACH
    assert "at least" in seen.look.verdict.sentence


async def test_latency_is_counted_at_the_edge(source: Prometheus) -> None:
    """What was an error above is slow here: the same counts through two buckets."""
    errors, latency = await to_the_end("errors", source), await to_the_end("latency", source)
    assert latency.look.status["sums"] == errors.look.status["sums"]


async def test_a_missing_edge_is_named(source: Prometheus) -> None:
    seen = await to_the_end("odd-edge", source)
    assert seen.look.down is DownReason.MISCONFIGURED
    assert "le=0.123" in seen.look.reason


async def test_users_counters(source: Prometheus) -> None:
    sums = (await to_the_end("mine", source)).look.status["sums"]
    scrapes = BLOCKS * BLOCK / SCRAPE
    assert (sums["canaryTotal"], sums["stableTotal"]) == (10 * scrapes, 100 * scrapes)


async def test_dispersion_is_stables_own(source: Prometheus) -> None:
    seen = await to_the_end("errors", source)
    end = datetime.fromtimestamp(STARTED.timestamp() // BLOCK * BLOCK, tz=UTC)
    blocks = [
        truth("v3", end - timedelta(seconds=BLOCK * (i + 1)), end - timedelta(seconds=BLOCK * i)) for i in range(60)
    ]
    assert seen.look.status["dispersion"] == pytest.approx(max(1.0, variance_ratio(blocks[::-1])))
    assert seen.look.status["dispersion"] > 1


async def test_drift_is_psi(source: Prometheus) -> None:
    seen = await to_the_end("drift", source)
    assert seen.look.reason == ""
    assert seen.look.status["value"] == pytest.approx(0.062861, rel=1e-3)
    assert seen.look.state is SampleState.PASS


async def test_several_series_are_a_wrong_configuration(source: Prometheus) -> None:
    seen = await to_the_end("several", source)
    assert seen.look.down is DownReason.MISCONFIGURED
    assert "series where one is expected" in seen.look.reason


async def test_a_wrong_query_is_told_in_prometheus_words(source: Prometheus) -> None:
    seen = await to_the_end("wrong", source)
    assert (seen.look.state, seen.look.down) == (SampleState.SOURCE_DOWN, DownReason.REJECTED)
    assert "parse error" in seen.look.reason


async def test_an_unknown_model_is_no_data(source: Prometheus) -> None:
    canary = Canary(Arms("vision", "nothing", "v2", "v1"), STARTED, {})
    seen = await analyse(sli("errors"), {}, source, canary, STARTED + timedelta(seconds=120))
    assert seen.look.state is SampleState.NO_DATA
    assert "canary v2" in seen.look.reason


async def test_a_server_that_hangs_and_one_that_dies_lose_nothing(server: Any, source: Prometheus) -> None:
    steady = await to_the_end("errors", source)
    half = await analyse(
        sli("errors"), {}, source, Canary(ARMS, STARTED, STARTS), STARTED + timedelta(seconds=BLOCK * 12)
    )
    unasked = Query("vector(1)", NOW)
    quick = Prometheus("default", PrometheusSource(server.url, timeout=timedelta(seconds=0.3)))
    with server.paused():
        hanging = await quick.instant(unasked)
    server.kill()
    dead = await quick.instant(Query("vector(2)", NOW))
    assert isinstance(hanging, SourceDown)
    assert isinstance(dead, SourceDown)
    assert (hanging.reason, dead.reason) == (DownReason.TIMEOUT, DownReason.REFUSED)
    server.start()
    assert isinstance(await quick.instant(Query("vector(3)", NOW)), Vector)
    quick.close()
    resumed = await to_the_end("errors", source, json.loads(json.dumps(half.look.status)))
    assert resumed.look.status == steady.look.status
