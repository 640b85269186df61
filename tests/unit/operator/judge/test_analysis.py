"""Catching up: a fake Prometheus whose counters are functions of time, outages, restarts, replays."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from espalier_operator.adapters.analysis import Analysis, Canary, analyse
from espalier_operator.decisions.judge import (
    Arms,
    DownReason,
    SampleState,
    Schedule,
    SequentialParams,
    SequentialSli,
    SourceDown,
    VerdictKind,
)
from espalier_operator.decisions.judge.blocks import REPLAY_LIMIT
from espalier_operator.decisions.judge.presets import Errors
from espalier_operator.decisions.judge.series import Matrix, Sample, Vector

if TYPE_CHECKING:
    from espalier_operator.decisions.judge import Query, RangeQuery

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
CANARY = Canary(Arms("vision", "digits", "v4", "v3"), NOON, {})
ERRORS = SequentialSli(SequentialParams("errors"), Errors(timedelta(minutes=1)), Schedule())


class FakePrometheus:
    """A canary at 10 % of 200 requests per second; `harm` times stable's 0.5 % of errors."""

    scrape_interval = timedelta(seconds=15)
    lag = timedelta(seconds=30)
    sharded = False

    def __init__(self, harm: float = 1.0) -> None:
        self.harm = harm
        self.down = False
        self.asked: list[Query] = []

    async def instant(self, query: Query) -> Vector | SourceDown:
        self.asked.append(query)
        return SourceDown(DownReason.TIMEOUT, "late") if self.down else self._vector(query.time)

    async def range(self, query: RangeQuery) -> Matrix | SourceDown:
        if self.down:
            return SourceDown(DownReason.TIMEOUT, "late")
        times = [query.start + index * query.step for index in range(61)]
        return Matrix(tuple((time, self._vector(time)) for time in times))

    def _vector(self, time: datetime) -> Vector:
        seconds = (time - NOON) / SECOND + 86_400
        rates = {("v3", "ok"): 179.1, ("v3", "error"): 0.9}
        if seconds >= 86_400:
            bad = 0.1 * self.harm
            rates |= {("v4", "ok"): 20 - bad, ("v4", "error"): bad}
        return Vector(
            Sample(
                {"namespace": "vision", "model": "digits", "version": version, "pod": version, "outcome": outcome},
                float(int(seconds * rate)),
            )
            for (version, outcome), rate in rates.items()
        )


async def look(source: FakePrometheus, entry: Any, seconds: float) -> Analysis:
    return await analyse(ERRORS, entry, source, CANARY, NOON + seconds * SECOND)


def stored(analysis: Analysis) -> Any:
    return json.loads(json.dumps(analysis.look.status))


async def test_before_the_first_block_nothing_is_asked() -> None:
    source = FakePrometheus()
    seen = await look(source, {}, 119)
    assert (seen.look.state, seen.blocks, source.asked) == (SampleState.INCONCLUSIVE, (), [])
    assert seen.next_due == NOON + 120 * SECOND
    assert "12:01:30" in seen.look.reason


async def test_a_block_is_read_when_it_is_due_and_once() -> None:
    source = FakePrometheus()
    first = await look(source, {}, 120)
    assert [(block.end, judged) for block, judged in first.blocks] == [(NOON + 90 * SECOND, True)]
    assert len(source.asked) == 2  # both ends, one text
    again = await look(source, stored(first), 121)
    assert again.blocks == ()
    assert again.look.status == first.look.status
    assert again.next_due == NOON + 150 * SECOND


async def test_a_bad_canary_fails_within_minutes() -> None:
    entry: Any = {}
    source, seconds = FakePrometheus(harm=5), 120
    while (seen := await look(source, entry, seconds)).look.verdict.kind is not VerdictKind.FAIL:
        entry, seconds = stored(seen), seconds + 30
        assert seconds < 400
    assert "at least" in seen.look.verdict.sentence


async def test_an_outage_is_caught_up_block_by_block() -> None:
    source, steady = FakePrometheus(), FakePrometheus()
    entry = stored(await look(source, {}, 120))
    source.down = True
    held = await look(source, entry, 420)
    assert (held.look.state, held.blocks, held.backlog) == (SampleState.SOURCE_DOWN, (), True)
    source.down = False
    back = await look(source, stored(held), 420)
    assert len(back.blocks) == 10
    assert not back.backlog
    assert back.look.status == (await look(steady, {}, 420)).look.status


async def test_an_outage_at_the_start_is_told_and_forgotten() -> None:
    source = FakePrometheus()
    source.down = True
    held = await look(source, {}, 130)
    assert held.look.state is SampleState.SOURCE_DOWN
    source.down = False
    assert (await look(source, stored(held), 131)).look.status["blocks"] == 1


async def test_a_long_absence_takes_several_passes() -> None:
    source = FakePrometheus()
    seen = await look(source, {}, 3600)
    assert len(seen.blocks) == REPLAY_LIMIT
    assert seen.backlog
    passes = 1
    while seen.backlog:
        seen, passes = await look(source, stored(seen), 3600), passes + 1
    assert passes == 6
    assert seen.look.status["blocks"] == 117


@given(st.lists(st.tuples(st.integers(1, 200), st.booleans()), min_size=1, max_size=15), st.sampled_from([1.0, 3.0]))
async def test_when_one_looks_and_what_was_down_does_not_matter(steps: list[tuple[int, bool]], harm: float) -> None:
    """Any pattern of passes, restarts and outages ends with the evidence of one undisturbed run."""
    source, seconds = FakePrometheus(harm), 100
    entry: Any = {}
    for wait, down in steps:
        seconds, source.down = seconds + wait, down
        entry = stored(await look(source, entry, seconds))
    source.down = False
    steady: Any = {}
    for reader in ("disturbed", "steady"):
        current = entry if reader == "disturbed" else steady
        while (seen := await look(source, current, seconds)).backlog:
            current = stored(seen)
        if reader == "disturbed":
            entry = seen.look.status
        else:
            steady = seen.look.status
    assert entry == steady
