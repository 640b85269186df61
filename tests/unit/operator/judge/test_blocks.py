from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espalier_operator.decisions.judge import Block, Schedule
from espalier_operator.decisions.judge.blocks import REPLAY_LIMIT

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
SCHEDULE = Schedule()


def test_the_first_block_lies_after_the_warm_up() -> None:
    started = NOON + 7 * SECOND  # warm until 12:01:07, so the first whole block is 12:01:30 to 12:02:00
    assert SCHEDULE.first_end(started) == NOON + 120 * SECOND
    assert SCHEDULE.first_end(NOON) == NOON + 90 * SECOND


def test_nothing_is_due_before_end_and_lag() -> None:
    assert SCHEDULE.next_due(NOON, None) == NOON + 120 * SECOND
    assert SCHEDULE.due(NOON, None, NOON + 119 * SECOND) == ()
    (block,) = SCHEDULE.due(NOON, None, NOON + 120 * SECOND)
    assert block == Block(NOON + 90 * SECOND, 30 * SECOND)
    assert block.start == NOON + 60 * SECOND


def test_late_labels_shift_everything() -> None:
    late = Schedule(label_delay=timedelta(minutes=30))
    assert late.first_end(NOON) == SCHEDULE.first_end(NOON) + timedelta(minutes=30)


def test_missed_blocks_come_in_order_and_in_bounds() -> None:
    last = NOON + 90 * SECOND
    due = SCHEDULE.due(NOON, last, NOON + timedelta(hours=3))
    assert len(due) == REPLAY_LIMIT
    assert [block.end for block in due] == [last + (index + 1) * 30 * SECOND for index in range(REPLAY_LIMIT)]


def test_history_ends_where_the_canary_begins() -> None:
    start, end = SCHEDULE.history(NOON + 7 * SECOND, 60)
    assert (start, end) == (NOON - timedelta(minutes=30), NOON)


@given(
    st.integers(1, 600),
    st.integers(0, 120),
    st.integers(0, 10_000),
    st.integers(0, 20_000),
)
def test_blocks_are_aligned_disjoint_and_readable(interval: int, lag: int, offset: int, later: int) -> None:
    schedule = Schedule(interval * SECOND, lag * SECOND)
    started, now = NOON + offset * SECOND, NOON + (offset + later) * SECOND
    blocks = schedule.due(started, None, now)
    for block in blocks:
        assert block.end.timestamp() % interval == 0
        assert block.start >= started + schedule.warm_up
        assert block.end + schedule.lag <= now
    for left, right in pairwise(blocks):
        assert right.start == left.end
    if blocks:
        assert (
            schedule.due(started, blocks[-1].end, now)[:1] == schedule.due(started, None, now, 1000)[len(blocks) :][:1]
        )


@pytest.mark.parametrize("zone_hours", [0, 5])
def test_zones_do_not_matter(zone_hours: int) -> None:
    """Aligned to the epoch, so every rollout of a fleet asks at the same instant."""
    shifted = NOON.astimezone(tz=None) + timedelta(hours=zone_hours) - timedelta(hours=zone_hours)
    assert SCHEDULE.first_end(shifted) == SCHEDULE.first_end(NOON)
