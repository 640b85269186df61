"""Each validator rule: one spec it objects to, one next to it that passes. A new rule must join rule_cases.py, or a test here fails."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import espalier_api.rules
from espalier_api.model import RegularizedModelSpec
from espalier_api.rules import RULES, Subject, engine_support, errors, not_in_this_release, validate
from espalier_api.rules.privacy import private_normalization
from espalier_api.training import TrainingJob
from tests.unit.api.rule_cases import CASES, Case
from tests.unit.api.rule_specs import BASE, levels, spec

JOB: dict[str, Any] = {
    "model": {"namespace": "vision", "name": "digits"},
    "version": "v1",
    "attempt": 1,
    "specHash": "sha256:h",
    **{part: BASE[part] for part in ("task", "data", "engine")},
    "artifact": {"uri": "s3://models/vision/digits/v1/"},
    "checkpoint": {"uri": "s3://models/vision/digits/.checkpoints/v1/"},
}
LEANING = frozenset(rule.id for rule in RULES if rule.keeps)
IDS = [f"{case[0]}-{number}" for number, case in enumerate(CASES)]


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that sees to everything; what this release sees to changes as blocks are added."""
    monkeypatch.setattr(engine_support, "KEPT", LEANING)


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_objects_to_one_and_accepts_the_other(case: Case) -> None:
    rule, level, bad, good, besides = case[:5]
    assert levels(rule, bad, besides) == set(level.split())
    assert levels(rule, good, case[5] if len(case) > 5 else besides) == set()


@pytest.mark.parametrize("case", [case for case in CASES if "automatic" in case[1]], ids=lambda case: case[0])
def test_what_the_engine_does_not_see_to_is_refused(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_support, "KEPT", LEANING - {case[0]})
    assert levels(case[0], case[2], case[4]) == {"error"}


def test_all_38_rules_of_the_guide_are_here_with_both_specs() -> None:
    guide = {f"R{number}" for number in range(1, 39)}
    assert {rule.id for rule in RULES} == {case[0] for case in CASES} == guide | {"R39", "R40", "R41", "R42"}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_a_rule_says_what_why_and_what_to_do(rule: Any) -> None:
    assert len(rule.message) > 20
    assert len(rule.why) > 20
    assert rule.remedy[0].isupper()
    assert rule.level != "automatic" or rule.keeps


def test_what_is_kept_are_rules_that_lean_on_the_engine() -> None:
    assert engine_support.KEPT <= LEANING


def test_rules_know_nothing_of_torch() -> None:
    folder = Path(espalier_api.rules.__file__).parent
    imported = {
        name
        for file in folder.glob("*.py")
        for name in re.findall(r"^(?:from|import) (\w+)", file.read_text(), re.MULTILINE)
    }
    assert imported <= {"__future__", "collections", "dataclasses", "espalier_api", "itertools", "math", "typing"}


def test_message_names_rule_reason_and_remedy() -> None:
    """The exemplar of design/exemplars.md, section 5."""
    gated = "{evaluation: {gates: [{metric: calibrationErrorExcess, max: 0.02}]}}"
    found = validate(Subject.of_spec(spec("{labelSmoothing: {}}", gated)))
    r11 = next(finding for finding in errors(found) if finding.rule == "R11")
    assert str(r11) == (
        "R11: labelSmoothing shifts probabilities and an ECE gate is set, but no calibration is declared. "
        "Add regularizers.calibration: {method: temperature, split: calibration} and data.split.calibration: 0.1, or drop the gate"
    )
    assert r11.field == "regularizers.calibration"


def test_an_automatic_finding_says_what_is_done_and_asks_for_nothing() -> None:
    (r8,) = (finding for finding in validate(Subject.of_spec(spec("{l1: {}}"))) if finding.rule == "R8")
    assert str(r8) == (
        "R8: l1 with adamw thresholds in its metric; the engine sees to it: the threshold after a step is that of the step: "
        "per element with adam, one per group for groups. Nothing to do"
    )
    assert errors((r8,)) == ()


def test_private_normalization_is_what_R1_promises() -> None:  # noqa: N802 - a rule's id
    declared = spec("{privacy: {}, normalization: {kind: batch, groups: 4}, l2: {}}").regularizers
    assert (
        private_normalization(declared)
        == spec("{privacy: {}, normalization: {kind: group, groups: 4}, l2: {}}").regularizers
    )
    for untouched in ("{normalization: {kind: batch}}", "{privacy: {}, normalization: {kind: layer}}", "{privacy: {}}"):
        assert private_normalization(spec(untouched).regularizers) == spec(untouched).regularizers


def test_processes_are_counted_over_pods_and_gpus() -> None:
    gpus = "{training: {nodes: 3, resources: {limits: {nvidia.com/gpu: 2, cpu: 4}}}}"
    assert Subject.of_spec(spec("{}", gpus)).processes == 6
    assert Subject.of_spec(spec("{}", "{training: {nodes: 2, processesPerNode: 4}}")).processes == 8
    assert Subject.of_spec(spec("{}")).processes == 1
    classical = (
        "{engine: {sklearn: {estimator: ridge}}, training: {nodes: 2, resources: {limits: {nvidia.com/gpu: 2}}}}"
    )
    assert Subject.of_spec(spec("{}", classical)).processes == 2  # a GPU is no process where nothing uses it
    job = TrainingJob.model_validate(JOB | {"nodes": 3, "processesPerNode": 2})
    assert [Subject.of_job(job).processes, Subject.of_job(job, 12).processes] == [6, 12]


def test_all_findings_are_listed_in_order_of_rules() -> None:
    found = validate(
        Subject.of_spec(spec("{l2: {}, weightDecay: {}, labelSmoothing: {}, robustLoss: {}, mcDropout: {}}"))
    )
    numbers = [int(finding.rule[1:]) for finding in found]
    assert numbers == sorted(numbers)
    assert {7, 11, 13, 24} <= set(numbers)


@pytest.mark.parametrize(
    "field, part",
    [
        ("serving.autoscaling", "{serving: {autoscaling: {}}}"),
        ("engine.sklearn.estimator", "{engine: {sklearn: {estimator: ridge}}}"),
    ],
)
def test_what_this_release_cannot_honour_is_refused_with_its_field(field: str, part: str) -> None:
    found = not_in_this_release(spec("{}", part))
    assert [finding.field for finding in found] == [field]
    assert found[0].remedy


def test_the_plain_spec_has_nothing_against_it() -> None:
    plain = RegularizedModelSpec.model_validate(BASE)
    assert validate(Subject.of_spec(plain)) == ()
    assert not_in_this_release(plain) == ()
