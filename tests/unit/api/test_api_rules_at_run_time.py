"""The parts of rules that a manifest cannot tell: each check with facts that trip it and facts that just do not."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from espalier_api.rules import RULES
from espalier_api.rules import at_run_time as at

if TYPE_CHECKING:
    from collections.abc import Callable

OWN = at.Facts(("cat", "dog"), ("a", "b"), "sha256:p", "sha256:a", "sha256:i")
WEIGHTS = {"weights": True}

CASES: list[tuple[str, Callable[..., at.Findings], tuple[Any, ...], tuple[Any, ...], dict[str, Any]]] = [
    # rule, check, facts that trip it, facts that just do not, keywords of both
    ("R1", at.check_private_layers, ({"body.1": "BatchNorm2d"},), ({"body.1": "GroupNorm"},), {}),
    ("R2", at.check_penalty_paths, (["sparsityPrior"],), ([],), {}),
    ("R5", at.check_private_reference, ("ewc", OWN), ("ewc", replace(OWN, private=True)), {}),
    ("R10", at.check_teacher, (replace(OWN, label_smoothing=0.05),), (OWN,), {}),
    ("R17", at.check_bound_after_rounding, (1.0, {"head": 1.21}), (1.0, {"head": 1.0}), {}),
    ("R22", at.check_ranges, (256, 255), (256, 256), {}),
    ("R22", at.check_simulation, (1.1e-4,), (1e-4,), {}),
    ("R22", at.check_simulation, (float("nan"),), (0.0,), {}),
    ("R23", at.check_average_window, (0.99, 90), (0.99, 110), {}),
    ("R25", at.check_residual_blocks, (3,), (4,), {}),
    (
        "R27",
        at.check_soup,
        ({"a": OWN, "b": replace(OWN, initialization="sha256:j")},),
        ({"a": OWN, "b": replace(OWN, private=True)},),
        {},
    ),
    ("R32", at.check_disjoint, ({"train": [1, 2], "calibration": [2]},), ({"train": [1, 2], "calibration": [3]},), {}),
    ("R33", at.check_reference, ("ewc", None, OWN), ("ewc", OWN, OWN), WEIGHTS),
    ("R33", at.check_reference, ("ewc", replace(OWN, classes=("dog", "cat")), OWN), ("ewc", OWN, OWN), WEIGHTS),
    ("R33", at.check_reference, ("ewc", replace(OWN, features=("b", "a")), OWN), ("ewc", OWN, OWN), WEIGHTS),
    ("R33", at.check_reference, ("ewc", replace(OWN, preprocessing="q"), OWN), ("ewc", OWN, OWN), WEIGHTS),
    (
        "R33",
        at.check_reference,
        ("ewc", replace(OWN, preprocessing=""), replace(OWN, preprocessing="")),
        ("ewc", OWN, OWN),
        WEIGHTS,
    ),
    (
        "R33",
        at.check_reference,
        ("distillation", replace(OWN, features=("a",)), OWN),
        ("distillation", replace(OWN, preprocessing="other", architecture="other"), OWN),
        {"weights": False},
    ),
    ("R36", at.check_group_batch, (32, {"rare": 0.24, "common": 0.76}), (32, {"rare": 0.25, "common": 0.75}), {}),
]


@pytest.mark.parametrize(
    "rule, check, bad, good, keywords", CASES, ids=[f"{case[0]}-{number}" for number, case in enumerate(CASES)]
)
def test_objects_to_these_facts_and_accepts_those(
    rule: str, check: Callable[..., at.Findings], bad: Any, good: Any, keywords: dict[str, Any]
) -> None:
    (finding,) = check(*bad, **keywords)
    assert finding.rule == rule
    assert finding.level in {"error", "warning"}
    assert finding.field
    assert finding.message
    assert finding.remedy[0].isupper()
    assert check(*good, **keywords) == ()


def test_every_check_is_in_the_table_and_belongs_to_a_rule() -> None:
    assert {(rule, check) for rule, checks in at.CHECKS.items() for check in checks} == {case[:2] for case in CASES}
    assert at.CHECKS.keys() <= {rule.id for rule in RULES}


def test_everything_that_differs_is_named() -> None:
    other = replace(OWN, classes=(), preprocessing="sha256:other")
    (finding,) = at.check_reference("functional", other, OWN, weights=True)
    assert finding.message == "the model that functional refers to differs from this one in classes and preprocessing"


def test_two_regressions_have_no_classes_in_common_and_agree() -> None:
    regression = replace(OWN, classes=())
    assert at.check_reference("ewc", regression, regression, weights=True) == ()


def test_a_group_that_is_empty_is_not_divided_by() -> None:
    (finding,) = at.check_group_batch(64, {"nobody": 0.0, "everybody": 1.0})
    assert finding.remedy == "Leave the group out"


@pytest.mark.parametrize("share, batch", [(0.1, 80), (0.3, 27), (1.0, 8)])
def test_the_batch_that_is_advised_suffices(share: float, batch: int) -> None:
    (finding,) = at.check_group_batch(1, {"g": share})
    assert finding.remedy == f"Raise engine.torch.batchSize to {batch} or more"
    assert at.check_group_batch(batch, {"g": share}) == ()
