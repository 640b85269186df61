"""Each validator rule: one spec it objects to, one next to it that passes. New rules must join the table, or the last test fails."""

from __future__ import annotations

from typing import Any

import pytest

from espalier_api.model import RegularizedModelSpec
from espalier_api.rules import RULES, Subject, errors, not_in_this_release, validate

BASE: dict[str, Any] = {
    "task": {"type": "classification"},
    "data": {"snapshot": {"uri": "s3://datasets/digits/"}, "target": "label"},
    "engine": {"torch": {"architecture": {"mlp": {}}}},
    "artifacts": {"uri": "s3://models/"},
}
REGRESSION = {"task": {"type": "regression"}}
CNN = {"engine": {"torch": {"architecture": {"cnn": {"image": [1, 8, 8]}}}}}
CALIBRATED = {"calibration": {}}
HELD_BACK = {"data": {**BASE["data"], "split": {"calibration": 0.1}}}
ECE_GATE = {"evaluation": {"gates": [{"metric": "calibrationErrorExcess", "max": 0.02}]}}
SHALLOW = {"engine": {"torch": {"architecture": {"mlp": {"hidden": [64, 64, 64, 64, 64], "residual": False}}}}}
DEEP = {"engine": {"torch": {"architecture": {"mlp": {"hidden": [64, 64, 64, 64, 64], "residual": True}}}}}
WARM = {"engine": {"torch": {"architecture": {"mlp": {}}, "epochs": 100, "schedule": {"cosine": {"warmup": 0.2}}}}}
RIDGE = {"task": {"type": "regression"}, "engine": {"sklearn": {"estimator": "ridge"}}}

OBJECTED: list[tuple[str, str, dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    # rule, level, blocks it objects to, blocks it accepts, what both specs say besides
    ("R3", "error", {"privacy": {}, "batchMixing": {}}, {"privacy": {}}, {}),
    (
        "R3",
        "error",
        {"privacy": {}, "calibrationLoss": {"kind": "mmce"}},
        {"privacy": {}, "calibrationLoss": {"kind": "brier"}},
        {},
    ),
    ("R7", "error", {"l2": {}, "weightDecay": {}}, {"l2": {}}, {}),
    ("R7", "error", {"elasticNet": {}, "l1": {}}, {"elasticNet": {}}, {}),
    (
        "R7",
        "error",
        {"l2": {"target": {"include": ["head.*"]}}, "weightDecay": {"target": {"include": ["head.*", "body.*"]}}},
        {"l2": {"target": {"include": ["head.*"]}}, "weightDecay": {"target": {"include": ["body.*"]}}},
        {},
    ),
    ("R8", "error", {"structuredSparsity": {}}, {"l2": {}}, RIDGE),
    ("R9", "warning", {"labelSmoothing": {}, "batchMixing": {}}, {"labelSmoothing": {}}, {}),
    (
        "R10",
        "warning",
        {"labelSmoothing": {}, "distillation": {"teacher": "big"}},
        {"distillation": {"teacher": "big"}},
        {},
    ),
    ("R11", "warning", {"labelSmoothing": {}}, {"labelSmoothing": {}, **CALIBRATED}, HELD_BACK),
    ("R11", "error", {"labelSmoothing": {}}, {"labelSmoothing": {}, **CALIBRATED}, {**HELD_BACK, **ECE_GATE}),
    ("R11", "warning", {"earlyStopping": {"patience": 2}}, {"earlyStopping": {"patience": 10}}, {}),
    (
        "R12",
        "error",
        {"labelSmoothing": {}, "safety": {"dataset": "s3://safe/"}},
        {"labelSmoothing": {}, "safety": {"dataset": "s3://safe/", "excludeFromSmoothing": True}},
        {},
    ),
    ("R13", "error", {"labelSmoothing": {}, "robustLoss": {}}, {"robustLoss": {}}, {}),
    ("R13", "error", {"labelSmoothing": {}}, {"l2": {}}, REGRESSION),
    (
        "R14",
        "warning",
        {"dropout": {}, "normalization": {"kind": "batch"}},
        {"dropout": {}, "normalization": {"kind": "layer"}},
        {},
    ),
    (
        "R15",
        "warning",
        {"normalization": {"kind": "batch"}},
        {"normalization": {"kind": "group"}},
        {"engine": {"torch": {"architecture": {"mlp": {}}, "batchSize": 8}}},
    ),
    (
        "R18",
        "warning",
        {"spectralNorm": {"mode": "bound"}, "normalization": {"kind": "batch"}},
        {"spectralNorm": {"mode": "penalty"}, "normalization": {"kind": "batch"}},
        {},
    ),
    (
        "R19",
        "warning",
        {"l2": {}, "normalization": {"kind": "batch"}},
        {"l2": {}, "normalization": {"kind": "none"}},
        {},
    ),
    (
        "R20",
        "error",
        {"pruning": {"sparsity": 0.9, "fineTuneEpochs": 0}},
        {"pruning": {"sparsity": 0.4, "fineTuneEpochs": 0}},
        {},
    ),
    ("R22", "error", {"quantization": {"bits": 2}}, {"quantization": {"bits": 2, "mode": "qat"}}, {}),
    ("R24", "error", {"mcDropout": {}}, {"mcDropout": {}, "dropout": {"p": 0.2}}, {}),
    ("R25", "error", {"stochasticDepth": {}}, {"dropout": {}}, SHALLOW),
    ("R28", "error", {"earlyStopping": {"patience": 10}}, {"earlyStopping": {"patience": 20}}, WARM),
    (
        "R28",
        "warning",
        {"earlyStopping": {"patience": 10}, "l2": {"schedule": {"kind": "linear", "end": 0.5}}},
        {"earlyStopping": {"patience": 10}, "l2": {"schedule": {"kind": "linear", "end": 0.1}}},
        {},
    ),
    ("R29", "warning", {"adversarial": {}, "batchMixing": {}}, {"adversarial": {}}, {}),
    ("R30", "warning", {"classRebalancing": {"priorCorrection": False}}, {"classRebalancing": {}}, {}),
    (
        "R30",
        "error",
        {"classRebalancing": {"method": "oversample"}, "sampleWeighting": {"column": "w"}},
        {"classRebalancing": {"method": "inverse"}, "sampleWeighting": {"column": "w"}},
        {},
    ),
    ("R32", "error", CALIBRATED, {"l2": {}}, {}),
    (
        "R32",
        "error",
        {"calibration": {"split": "validation"}, "earlyStopping": {}},
        {"calibration": {"split": "validation"}},
        {},
    ),
    (
        "R34",
        "error",
        {"augmentation": {"policy": "image.shift"}},
        {"augmentation": {"policy": "tabular.swapNoise"}},
        {},
    ),
    ("R34", "warning", {"augmentation": {"policy": "image.shift"}}, {"augmentation": {"policy": "image.erase"}}, CNN),
    (
        "R35",
        "warning",
        {"dropout": {"p": 0.5}, "weightDecay": {"strength": 0.5}, "l1": {}, "pruning": {"sparsity": 0.9}},
        {"dropout": {"p": 0.5}, "weightDecay": {"strength": 0.5}, "l1": {}},
        {},
    ),
    ("R38", "error", {"dropout": {}}, {"l2": {}}, RIDGE),
    ("R38", "error", {"ewc": {}}, {"l2": {}}, {}),
    ("R39", "error", CALIBRATED, {"l2": {}}, REGRESSION),
    ("R39", "error", {"robustLoss": {"kind": "gce"}}, {"robustLoss": {"kind": "huber"}}, REGRESSION),
]


def spec(blocks: dict[str, Any], besides: dict[str, Any]) -> RegularizedModelSpec:
    return RegularizedModelSpec.model_validate({**BASE, **besides, "regularizers": blocks})


def levels(rule: str, blocks: dict[str, Any], besides: dict[str, Any]) -> set[str]:
    return {finding.level for finding in validate(Subject.of_spec(spec(blocks, besides))) if finding.rule == rule}


@pytest.mark.parametrize(
    "rule, level, bad, good, besides",
    OBJECTED,
    ids=[f"{row[0]}-{number}" for number, row in enumerate(OBJECTED)],
)
def test_objects_to_one_and_accepts_the_other(
    rule: str, level: str, bad: dict[str, Any], good: dict[str, Any], besides: dict[str, Any]
) -> None:
    assert levels(rule, bad, besides) == {level}
    assert levels(rule, good, besides) == set()


def test_every_rule_is_in_the_table() -> None:
    assert {rule.id for rule in RULES} == {row[0] for row in OBJECTED}


def test_nothing_to_skip_accepts_a_deep_residual_network() -> None:
    assert levels("R25", {"stochasticDepth": {}}, DEEP) == set()


def test_message_names_rule_reason_and_remedy() -> None:
    """The exemplar of design/exemplars.md, section 5."""
    found = validate(Subject.of_spec(spec({"labelSmoothing": {}}, ECE_GATE)))
    r11 = next(finding for finding in errors(found) if finding.rule == "R11")
    assert str(r11) == (
        "R11: labelSmoothing shifts probabilities and an ECE gate is set, but no calibration is declared. "
        "Add regularizers.calibration: {method: temperature, split: calibration} and data.split.calibration: 0.1, or drop the gate"
    )
    assert r11.field == "regularizers.calibration"


def test_all_findings_are_listed_in_order_of_rules() -> None:
    found = validate(
        Subject.of_spec(
            spec({"l2": {}, "weightDecay": {}, "labelSmoothing": {}, "robustLoss": {}, "mcDropout": {}}, {})
        )
    )
    numbers = [int(finding.rule[1:]) for finding in found]
    assert numbers == sorted(numbers)
    assert {7, 11, 13, 24} <= set(numbers)


@pytest.mark.parametrize(
    "field, part",
    [
        ("search", {"search": {"space": {"regularizers.l2.strength": {"uniform": {"min": 0.0, "max": 1.0}}}}}),
        ("training.nodes", {"training": {"nodes": 2}}),
        ("artifacts.signing", {"artifacts": {"uri": "s3://models/", "signing": {"keySecretRef": {"name": "k"}}}}),
        ("serving.autoscaling", {"serving": {"autoscaling": {}}}),
        ("engine.xgboost", {"engine": {"xgboost": {}}}),
        ("engine.torch.architecture", CNN),
        ("engine.sklearn.estimator", {"engine": {"sklearn": {"estimator": "svc"}}}),
        ("regularizers.calibration.method", {"regularizers": {"calibration": {"method": "isotonic"}}}),
    ],
)
def test_what_this_release_cannot_honour_is_refused_with_its_field(field: str, part: dict[str, Any]) -> None:
    found = not_in_this_release(RegularizedModelSpec.model_validate({**BASE, **part}))
    assert [finding.field for finding in found] == [field]
    assert found[0].remedy


def test_the_plain_spec_has_nothing_against_it() -> None:
    plain = RegularizedModelSpec.model_validate(BASE)
    assert validate(Subject.of_spec(plain)) == ()
    assert not_in_this_release(plain) == ()
