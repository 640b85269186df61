"""The models: strict where people write, tolerant where an older operator reads, within the bounds of what they travel through."""

from __future__ import annotations

import json
import sys
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from espalier_api import conditions, metrics
from espalier_api.artifact import Manifest, version_digest
from espalier_api.evaluation import MetricName
from espalier_api.exit_codes import ExitCode, counts_as_attempt, is_final
from espalier_api.model import RegularizedModel, VersionStatus
from espalier_api.problems import problems
from espalier_api.regularizers import BLOCKS, Block, Regularizers, Schedule
from espalier_api.rollout import CanaryRolloutStatus, SliStatus
from espalier_api.serving import ServingConfig
from espalier_api.training import TERMINATION_MESSAGE_BYTES, TrainingResult

MODEL: dict[str, Any] = {
    "metadata": {"name": "digits"},
    "spec": {
        "task": {"type": "classification"},
        "data": {"snapshot": {"uri": "s3://datasets/digits/"}, "target": "label"},
        "engine": {"torch": {"architecture": {"mlp": {}}}},
        "artifacts": {"uri": "s3://models/"},
    },
}


def complaints(change: dict[str, Any]) -> list[str]:
    with pytest.raises(ValidationError) as refused:
        RegularizedModel.model_validate({**MODEL, "spec": {**MODEL["spec"], **change}})
    return [str(problem) for problem in problems(refused.value)]


def test_unknown_fields_are_refused_where_people_write() -> None:
    assert complaints({"regularizers": {"l2": {"lambda": 1}}}) == [
        "spec.regularizers.l2.lambda: there is no such field; remove it, or look for its name in `kubectl explain`"
    ]


def test_unknown_fields_are_ignored_in_status() -> None:
    """An operator that was rolled back reads what its successor wrote."""
    assert CanaryRolloutStatus.model_validate({"phase": "Idle", "ofTheFuture": 1}).phase == "Idle"


def test_a_status_is_never_lost_over_its_form() -> None:
    """A scheduler's endless message, or evidence beyond every float, must not stop a rollback."""
    sli = SliStatus.model_validate({"name": "errors", "message": "x" * 5000, "evidence": float("inf"), "logE": [1.0]})
    assert sli.message is not None
    assert len(sli.message) == 1024
    assert sli.message.endswith("x…")
    assert sli.evidence == sys.float_info.max
    json.loads(sli.to_json())
    with pytest.raises(ValidationError):
        VersionStatus.model_validate({"version": "v" + "1" * 40, "state": "Candidate"})


def test_missing_and_wrong_fields_are_named() -> None:
    assert complaints({"task": {}}) == ["spec.task.type: the field is required; add it"]
    (line,) = complaints({"regularizers": {"l2": {"strength": 0}}})
    assert line == "spec.regularizers.l2.strength: Input should be greater than 0, not 0"


def test_a_name_stands_once_in_a_list() -> None:
    slo = {"name": "quality", "objective": 0.9, "quality": {}}
    assert complaints({"slos": [slo, slo]}) == ["spec.slos: name 'quality' stands twice; every name is unique here"]


def test_a_broken_item_does_not_also_make_its_list_too_short() -> None:
    assert complaints({"search": {"space": {"regularizers.l2.strength": {}}}}) == [
        "spec.search.space.regularizers.l2.strength: space: set exactly one of uniform, logUniform, intUniform, choice, categories"
    ]


@pytest.mark.parametrize("name", sorted(BLOCKS))
def test_every_block_knows_its_source_and_meaning(name: str) -> None:
    """`kubectl explain` shows these; a block without words is not documented."""
    annotation = Regularizers.model_fields[BLOCKS[name]].annotation
    block = next(part for part in annotation.__args__ if part is not type(None))  # type: ignore[union-attr]
    assert issubclass(block, Block)
    assert block.__doc__
    assert all(field.description for field in block.model_fields.values()), name


def test_declared_blocks_come_with_their_names_in_manifests() -> None:
    blocks = Regularizers.model_validate({"weightDecay": {}, "l2": {}})
    assert [name for name, _ in blocks.declared()] == ["l2", "weightDecay"]


@pytest.mark.parametrize(
    "schedule, expected",
    [
        ({"kind": "constant", "to": 0.5}, [0.5, 0.5, 0.5]),
        ({"kind": "linear", "from": 0, "to": 1, "start": 0.2, "end": 0.6}, [0.0, 0.5, 1.0]),
        ({"kind": "cosine", "from": 1, "to": 0, "start": 0.2, "end": 0.6}, [1.0, 0.5, 0.0]),
        ({"kind": "step", "from": 1, "to": 0.1, "end": 0.5}, [1.0, 1.0, 0.1]),
    ],
)
def test_annealing_follows_its_formula(schedule: dict[str, Any], expected: list[float]) -> None:
    factor = Schedule.model_validate(schedule).factor
    assert [factor(progress) for progress in (0.1, 0.4, 0.9)] == pytest.approx(expected)


def test_a_result_fits_into_the_termination_message() -> None:
    result = TrainingResult(
        outcome="Succeeded",
        exit_code=0,
        message="m" * 3000,
        metrics={f"accuracy/region={number}": {"value": 0.5} for number in range(500)} | {"accuracy": {"value": 0.9}},
        diagnosis=[{"mode": "F2", "evidence": "e" * 1000, "suggestion": "s" * 1000}],
    )
    text = result.to_termination_message()
    assert len(text.encode()) <= TERMINATION_MESSAGE_BYTES
    kept = TrainingResult.from_termination_message(text)
    assert kept.metrics["accuracy"].value == 0.9
    assert kept.outcome == "Succeeded"


def test_diagnoses_survive_where_numbers_give_way() -> None:
    """The manifest has the numbers; nothing but this message carries what the trainer saw."""
    long = [{"mode": f"F{i}", "evidence": "e" * 1000, "suggestion": "s" * 1000} for i in range(1, 9)]
    number = {"value": 1 / 3, "low": 1 / 7, "high": 2 / 3, "n": 100_000}
    metrics = dict.fromkeys(get_args(MetricName), number) | {f"f1/g={i}": number for i in range(50)}
    result = TrainingResult(
        outcome="Succeeded", exit_code=0, message="m" * 900, metrics=metrics, diagnosis=long, classes=("c" * 80,) * 20
    )
    text = result.to_termination_message()
    assert len(text.encode()) <= TERMINATION_MESSAGE_BYTES
    kept = TrainingResult.from_termination_message(text)
    assert [d.mode for d in kept.diagnosis] == [f"F{i}" for i in range(1, 9)]
    few = result.model_copy(update={"diagnosis": result.diagnosis[:3], "classes": ()})
    kept = TrainingResult.from_termination_message(few.to_termination_message())
    assert set(kept.metrics) == set(get_args(MetricName))
    assert len(kept.diagnosis) == 3


@pytest.mark.parametrize("text", ["", '{"outcome":"Succ', "[]", '{"outcome":"Fine","exitCode":0}'])
def test_a_cut_or_foreign_termination_message_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - both json's and pydantic's are value errors
        TrainingResult.from_termination_message(text)


def test_exit_codes_decide_about_the_next_attempt() -> None:
    assert {code for code in ExitCode if is_final(code)} == {42, 43, 44}
    assert not counts_as_attempt(ExitCode.PREEMPTED)
    assert counts_as_attempt(137)


def test_a_version_is_the_bytes_of_its_manifest() -> None:
    assert version_digest(b"{}") == "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    manifest = Manifest.model_validate(
        {
            "namespace": "vision",
            "model": "digits",
            "version": "v1",
            "specHash": "x",
            "snapshotDigest": "sha256:" + "0" * 64,
            "contentSha256": "0" * 64,
            "createdAt": "2026-11-01T03:00:00Z",
            "seed": 7,
            "task": {"type": "classification", "classes": ["0"], "features": ["a"], "inputs": [], "outputs": []},
            "framework": "torch 2.6.0",
            "files": {},
            "metrics": {},
        }
    )
    assert json.loads(manifest.to_json())["createdAt"] == "2026-11-01T03:00:00Z"


def test_serving_knows_latency_in_order() -> None:
    config = ServingConfig(
        namespace="a",
        model="b",
        version="v1",
        artifact_uri="s3://m/",
        digest="sha256:" + "0" * 64,
        feedback={"key": "uid"},
    )
    assert list(config.latency_buckets) == sorted(config.latency_buckets)


def test_reasons_and_metrics_are_unique_and_told() -> None:
    words = [
        *conditions.REASONS,
        *conditions.MODEL_CONDITIONS,
        *conditions.ROLLOUT_CONDITIONS,
        *conditions.RETRAIN_CONDITIONS,
    ]
    assert all(word.meaning for word in words)
    assert len({str(reason) for reason in conditions.REASONS}) == len(conditions.REASONS)
    assert len({metric.name for metric in metrics.ALL}) == len(metrics.ALL)
    assert all(metric.name.endswith("_total") == (metric.kind == "counter") for metric in metrics.ALL)
