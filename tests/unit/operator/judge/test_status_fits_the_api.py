"""What the judge writes is what the CRD keeps: an unknown field would be pruned, and evidence lost with it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from espalier_api.rollout import SliStatus
from espalier_operator.decisions.judge import (
    ArmCounts,
    BlockCounts,
    DownReason,
    EvidenceState,
    NoData,
    Schedule,
    SequentialParams,
    SequentialSli,
    SourceDown,
    ThresholdSli,
    advance,
)
from espalier_operator.decisions.judge.presets import Drift, Errors
from espalier_operator.decisions.judge.threshold import ThresholdParams, ThresholdState, measure

if TYPE_CHECKING:
    from espalier_operator.decisions.judge import Look

END = datetime(2026, 11, 1, 3, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
ERRORS = SequentialSli(SequentialParams("errors"), Errors(MINUTE), Schedule())
DRIFT = ThresholdSli(ThresholdParams("drift", maximum=0.2), Drift(MINUTE), Schedule())


def evidence(blocks: int, phi: float = 1.234) -> EvidenceState:
    state = EvidenceState(dispersion=phi, dispersion_note="no history: 0 usable blocks of stable before the canary")
    for index in range(blocks):
        served = (1e9, 1e10)
        block = BlockCounts(END + index * MINUTE, ArmCounts(1e6, 10), ArmCounts(1e7, 9999), served)
        state = advance(state, block, ERRORS.params)
    return state


LOOKS = {
    "waiting": ERRORS.wait("first block ends at 03:00:00 UTC"),
    "down at the start": ERRORS.wait(SourceDown(DownReason.TIMEOUT, "x" * 700)),
    "judged": ERRORS.look(evidence(3)),
    "long lived": ERRORS.look(evidence(2880)),
    "no data": ERRORS.look(evidence(3), NoData("the source has no series of canary v4")),
    "threshold": DRIFT.look(measure(ThresholdState(), END, 0.31, DRIFT.params)),
    "threshold, not a number": DRIFT.look(measure(ThresholdState(), END, float("nan"), DRIFT.params)),
}


@pytest.mark.parametrize("name", LOOKS)
def test_nothing_is_pruned_and_nothing_is_too_long(name: str) -> None:
    look: Look = LOOKS[name]
    written: dict[str, Any] = json.loads(json.dumps(look.status))
    kept = SliStatus.model_validate(written).model_dump(mode="json", by_alias=True, exclude_unset=True)
    assert kept == written


@pytest.mark.parametrize("blocks", [1, 3, 2880])
def test_a_restart_through_the_api_changes_nothing(blocks: int) -> None:
    state = evidence(blocks)
    kept = SliStatus.model_validate(json.loads(json.dumps(ERRORS.look(state).status)))
    assert ERRORS.restore(kept.model_dump(mode="json", by_alias=True)) == state
