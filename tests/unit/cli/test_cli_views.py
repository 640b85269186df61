"""What a person sees: the numbers that decide stand in the text, whatever is missing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console, RenderableType

from espalier_cli.compare import compare
from espalier_cli.errors import CliError
from espalier_cli.texts import age, evidence_bar, left, number
from espalier_cli.views import detail, table

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
SINCE = "2026-11-01T11:56:00Z"
MODEL: dict[str, Any] = {
    "metadata": {"name": "digits", "namespace": "vision", "creationTimestamp": "2026-10-30T12:00:00Z"},
    "spec": {},
    "status": {
        "conditions": [
            {
                "type": "Ready",
                "status": "True",
                "reason": "Serving",
                "message": "v3 serves",
                "lastTransitionTime": SINCE,
            }
        ],
        "versions": [
            {
                "version": "v4",
                "state": "Canary",
                "createdAt": SINCE,
                "digest": "sha256:" + "4" * 64,
                "metrics": {"accuracy": {"value": 0.93, "low": 0.92, "high": 0.94}, "logLoss": {"value": 0.3}},
                "gates": [{"metric": "accuracy", "passed": True, "value": 0.93, "bound": ">= 0.9"}],
                "tracking": {"mlflow": "https://mlflow/#/experiments/1/runs/f00", "evidently": "evidently.html"},
            },
            {"version": "v3", "state": "Champion", "metrics": {"accuracy": {"value": 0.9, "low": 0.89, "high": 0.91}}},
        ],
        "training": {
            "version": "v5",
            "attempt": 2,
            "phase": "Training",
            "progress": 0.42,
            "epoch": 42,
            "epochs": 100,
            "lastFailure": "Evicted",
        },
    },
}
ROLLOUT: dict[str, Any] = {
    "metadata": {"name": "digits"},
    "spec": {"modelRef": {"name": "digits"}, "traffic": {"replicas": {}}},
    "status": {
        "phase": "Progressing",
        "aliases": {"champion": "v3", "challenger": "v4"},
        "columns": {"weight": "25/25%", "step": "2/3", "sli": "errors 1.8/60"},
        "stable": {"version": "v3", "ready": 2, "replicas": 2},
        "canary": {"version": "v4", "ready": 1, "replicas": 2},
        "step": {"index": 1, "of": 3, "weight": 25, "observedWeight": 25, "remaining": "7m20s"},
        "slis": [
            {
                "name": "errors",
                "state": "Pass",
                "evidence": 1.8,
                "abortAt": 60,
                "canary": "4/1020 (0.39 %)",
                "stable": "21/9180 (0.23 %)",
                "allowed": "1.1 x stable + 0.05 pp",
                "blocks": 17,
            }
        ],
        "quarantined": [{"version": "v2", "at": SINCE}],
        "history": [{"version": "v2", "outcome": "RolledBack", "message": "errors: at least 2x worse", "at": SINCE}],
        "lastRequest": {"id": "1", "verb": "promote", "at": SINCE, "result": "went to step 2"},
    },
}


def shown(view: RenderableType) -> str:
    console = Console(width=200, record=True, file=None, quiet=False, force_terminal=False)
    with console.capture() as captured:
        console.print(view)
    return captured.get()


def searched(**changes: Any) -> dict[str, Any]:
    search = {
        "method": "bayesian",
        "trials": 20,
        "failed": 1,
        "metric": "valLoss",
        "best": 0.12345678,
        "number": 17,
        "params": {"regularizers.l2.strength": 0.001234567, "regularizers.calibration": "true"},
        **changes,
    }
    version = {"version": "v3", "state": "Champion", "search": search}
    trials = {"done": 5, "total": 20, "best": 0.25}
    training = {"version": "v4", "attempt": 1, "phase": "Searching", "trials": trials}
    return {**MODEL, "status": {"versions": [version], "training": training}}


def test_a_search_is_told_in_a_line_and_a_pareto_set_in_another() -> None:
    text = shown(detail(searched(), None, NOW))
    assert "trial 5/20, best 0.25" in text
    line = "Search of v3, bayesian: 20 trials, 1 failed; best valLoss 0.1235 in trial 17: l2.strength=0.001235, calibration=true"
    assert line in text
    assert "Pareto" not in text
    points = [{"number": 17, "value": 0.12, "second": 25450}, {"number": 3, "value": 0.2, "second": 640}]
    text = shown(detail(searched(secondMetric="parameters", second=25450, pareto=points), None, NOW))
    assert "Pareto set, valLoss/parameters: #17 0.12/25,450  #3 0.2/640" in text


def test_the_table_tells_the_story_of_a_canary_in_one_line() -> None:
    line = shown(table([MODEL], [ROLLOUT], NOW)).splitlines()[1].split()
    assert line == [
        "digits",
        "True",
        "Serving",
        "v4",
        "Canary",
        "v3",
        "Progressing",
        "25/25%",
        "2/3",
        "errors",
        "1.8/60",
        "2d",
    ]


def test_detail_shows_evidence_counts_time_left_and_why() -> None:
    text = shown(detail(MODEL, ROLLOUT, NOW))
    for part in (
        "RegularizedModel vision/digits",
        "Training v5, attempt 2: Training",
        "42%  epoch 42/100",
        "last failure: Evicted",
        "stable  v3    2/2 ready",
        "canary  v4    1/2 ready",
        "step    2/3",
        "5% → 25% → 50% → 100%  7m20s left",
        "1.8/60",
        "4/1020 (0.39 %)",
        "21/9180 (0.23 %)",
        "v4    mlflow      https://mlflow/#/experiments/1/runs/f00",
        "v4    evidently   evidently.html",
        "quarantined: v2",
        "v2 RolledBack  errors: at least 2x worse",
        "last request: promote (4m ago): went to step 2",
    ):
        assert part in text, part


def test_objects_without_status_are_shown_too() -> None:
    fresh = {"metadata": {"name": "new"}, "spec": {}}
    rollout = {"metadata": {"name": "new"}, "spec": {**ROLLOUT["spec"], "modelRef": {"name": "new"}}}
    assert "Unknown" in shown(table([fresh], [rollout], NOW))
    assert "not seen yet" in shown(detail(fresh, rollout, NOW))
    assert "No CanaryRollout refers to this model" in shown(detail(fresh, None, NOW))


def test_compare_shows_values_intervals_and_change() -> None:
    text = shown(compare(MODEL, "v3", "v4"))
    assert "0.9 [0.89, 0.91]" in text
    assert "0.93 [0.92, 0.94]" in text
    assert "+0.03" in text
    with pytest.raises(CliError, match="there are: v4, v3"):
        compare(MODEL, "v3", "v9")


@pytest.mark.parametrize("seconds,text", [(5, "5s"), (119, "119s"), (240, "4m"), (7200, "2h"), (200_000, "2d")])
def test_ages(seconds: int, text: str) -> None:
    assert age(NOW - timedelta(seconds=seconds), NOW) == text


def test_bars_grow_with_the_logarithm_of_evidence() -> None:
    assert evidence_bar(1.0, 100.0).count("█") == 0
    assert evidence_bar(10.0, 100.0).count("█") == 10
    assert evidence_bar(5000.0, 100.0).count("█") == 20
    assert evidence_bar(None, 100.0) == ""


def test_small_texts() -> None:
    assert left(timedelta(seconds=440)) == "7m20s left"
    assert left(None) == ""
    assert (number(0.123456), number(681_881.0), number(None)) == ("0.1235", "681,881", "-")
