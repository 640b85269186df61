from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from espalier_api.analysis import Analysis
from espalier_operator.decisions.judge import (
    SequentialSli,
    SourceTiming,
    ThresholdSli,
    bake_params,
    compile_slis,
    problems,
)
from espalier_operator.decisions.judge.presets import Drift, Errors, Latency, Quality, UserCounts, UserQuery

TIMING = SourceTiming()
EVERY_KIND: list[dict[str, Any]] = [
    {"name": "errors", "errorRatio": {}},
    {"name": "latency", "latency": {"threshold": "200ms"}, "weight": 2},
    {"name": "quality", "quality": {}, "labelDelay": "10m10s"},
    {"name": "mine", "counts": {"bad": "b", "total": "t"}, "dryRun": True},
    {"name": "drift", "drift": {"maxPSI": 0.3}},
    {"name": "p99", "query": "p99", "max": 0.02, "failureLimit": 3, "consecutiveErrorLimit": 0},
]


def compiled(*slis: dict[str, Any], **analysis: Any) -> dict[str, Any]:
    spec = Analysis.model_validate({"slis": list(slis), **analysis})
    return {sli.name: sli for sli in compile_slis(spec, TIMING, warm_up=timedelta(seconds=60))}


def test_every_kind_has_its_preset() -> None:
    slis = compiled(*EVERY_KIND)
    presets = {name: type(sli.preset) for name, sli in slis.items()}
    assert presets == {
        "errors": Errors,
        "latency": Latency,
        "quality": Quality,
        "mine": UserCounts,
        "drift": Drift,
        "p99": UserQuery,
    }
    assert slis["latency"].preset.threshold == 0.2
    assert slis["drift"].params.maximum == 0.3
    assert (slis["p99"].params.failure_limit, slis["p99"].params.consecutive_error_limit) == (3, 0)
    assert isinstance(slis["p99"], ThresholdSli)
    assert isinstance(slis["errors"], SequentialSli)


def test_the_budget_is_shared_by_those_that_act() -> None:
    slis = compiled(*EVERY_KIND)
    alphas = {name: slis[name].params.alpha for name in ("errors", "latency", "quality", "mine")}
    assert alphas == pytest.approx({"errors": 0.0125, "latency": 0.025, "quality": 0.0125, "mine": 0.01})
    assert sum(alphas[name] for name in ("errors", "latency", "quality")) == pytest.approx(0.05)


def test_three_slis_abort_at_sixty() -> None:
    slis = compiled(*EVERY_KIND[:1], {"name": "l", "latency": {"threshold": "1s"}}, {"name": "q", "quality": {}})
    assert slis["errors"].params.abort_at == pytest.approx(60)


def test_defaults_are_the_designs() -> None:
    params = compiled({"name": "errors", "errorRatio": {}})["errors"].params
    assert (params.alpha, params.ratio, params.floor) == (0.05, 1.1, 0.0005)
    assert (params.min_requests, params.min_bad, params.beta) == (20, 3, None)


def test_one_sli_may_differ() -> None:
    slis = compiled(
        {"name": "errors", "errorRatio": {}, "sequential": {"maxRatio": 2, "floor": 0, "minBad": 1}},
        {"name": "latency", "latency": {"threshold": "200ms"}},
        sequential={"minRequests": 500},
    )
    errors, latency = slis["errors"].params, slis["latency"].params
    assert (errors.ratio, errors.floor, errors.min_bad, errors.min_requests) == (2, 0, 1, 500)
    assert (latency.ratio, latency.floor, latency.min_bad, latency.min_requests) == (1.1, 0.0005, 3, 500)


def test_late_labels_are_waited_for_in_whole_blocks() -> None:
    assert compiled(*EVERY_KIND)["quality"].schedule.label_delay == timedelta(minutes=10, seconds=30)


def test_evidence_may_be_required() -> None:
    spec = Analysis.model_validate({"sequential": {"beta": 0.01}})
    (errors,) = compile_slis(spec, TIMING, warm_up=timedelta(0), require_evidence=True)
    assert isinstance(errors, SequentialSli)
    assert errors.params.beta == 0.01


def test_after_promotion_more_is_allowed() -> None:
    params = bake_params(compiled({"name": "errors", "errorRatio": {}})["errors"].params, 0.01)
    assert (params.baseline, params.ratio) == (0.01, 2.0)


@pytest.mark.parametrize(
    "sli,words",
    [
        (
            {"name": "c", "counts": {"bad": "rate(b[1m])", "total": "t"}},
            r"spec.analysis.slis\[c\].counts.bad: uses rate",
        ),
    ],
)
def test_what_cannot_be_judged_is_named(sli: dict[str, Any], words: str) -> None:
    (problem,) = problems(Analysis.model_validate({"slis": [sli]}))
    with pytest.raises(ValueError, match=words):
        compiled(sli)
    assert problem.startswith("spec.analysis.slis[")
