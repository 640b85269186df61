from __future__ import annotations

import json
import math
from datetime import UTC, datetime

import pytest

from espalier_operator.decisions.judge import ArmCounts, BlockCounts, EvidenceState, SequentialParams, advance
from espalier_operator.decisions.judge.evidence import floor_to

END = datetime(2026, 11, 1, 3, 0, 30, tzinfo=UTC)


@pytest.mark.parametrize("total,bad", [(1, 2), (-1, -1), (5, -1), (math.inf, 0), (math.nan, 0), (5, math.nan)])
def test_impossible_counts_cannot_be_made(total: float, bad: float) -> None:
    with pytest.raises(ValueError, match="bad <= total"):
        ArmCounts(total, bad)


def test_counts_read_well() -> None:
    assert str(ArmCounts(300, 11)) == "11/300 (3.67 %)"
    assert str(ArmCounts()) == "0/0 (0.00 %)"
    assert str(ArmCounts(123456789, 1234567)) == "1234567/123456789 (1.00 %)"


def test_status_is_json_with_few_decimals() -> None:
    state = advance(
        EvidenceState(dispersion=1.234567, dispersion_note="why"),
        BlockCounts(END, ArmCounts(100, 4), ArmCounts(900, 5), served=(120.0, 1100.0)),
        SequentialParams("quality"),
    )
    text = json.dumps(state.to_status())
    assert EvidenceState.from_status(json.loads(text)) == state
    status = state.to_status()
    assert status["lastBlockEnd"] == "2026-11-01T03:00:30Z"
    assert all(len(repr(value).partition(".")[2]) <= 9 for value in status["logE"])
    assert len(status["bounds"]) < 2048
    assert status["sums"]["stableServed"] == 1100


def test_what_go_does_to_numbers_does_no_harm() -> None:
    """Kubernetes' encoder writes 1.0 as 1."""
    status = json.loads(json.dumps(EvidenceState().to_status()).replace(".0,", ",").replace(".0]", "]"))
    assert EvidenceState.from_status(status) == EvidenceState()


def test_a_status_whose_bound_was_pruned_still_has_its_evidence() -> None:
    state = advance(EvidenceState(), BlockCounts(END, ArmCounts(100, 4), ArmCounts(900, 5)), SequentialParams("errors"))
    status = {key: value for key, value in state.to_status().items() if key != "bounds"}
    assert EvidenceState.from_status(status).log_e == state.log_e


@pytest.mark.parametrize(
    "status,field",
    [
        ({"logE": [1.0]}, "logE"),
        ({"logE": ["nan"] * 11}, "logE"),
        ({"bounds": "1,2"}, "bounds"),
        ({"bounds": ",".join("0" * 11)}, "bounds needs 8 rows"),
    ],
)
def test_broken_evidence_is_refused_by_name(status: dict[str, object], field: str) -> None:
    with pytest.raises(ValueError, match=field):
        EvidenceState.from_status(status)


@pytest.mark.parametrize("value", [0.1, -0.1, 1e-10, -1e-10, 123.456789123456, -0.144934005, 47.422424381])
def test_rounding_goes_down_and_only_once(value: float) -> None:
    rounded = floor_to(value, 10**9)
    assert value - 1.0001e-9 <= rounded <= value
    assert float(json.loads(json.dumps(rounded))) == rounded
