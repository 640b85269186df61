"""`espalier lint --explain`, and how levels look in a report."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from espalier_api.rules import RULES, engine_support
from espalier_api.rules.at_run_time import CHECKS
from espalier_cli.errors import CliError
from espalier_cli.explain import explain
from espalier_cli.main import app
from tests.unit.cli.test_cli_lint import GOOD

SPARSE = GOOD.replace("{l2: {strength: 1e-4}}", "{l1: {}}")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_every_rule_is_explained(rule: object) -> None:
    text = explain(rule.id)  # type: ignore[attr-defined]
    for part in (rule.id, rule.level, rule.message, rule.why, rule.remedy, rule.keeps):  # type: ignore[attr-defined]
        assert part in text
    assert text.count("  Run time ") == len(CHECKS.get(rule.id, ()))  # type: ignore[attr-defined]


def test_it_is_said_whether_this_release_sees_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_support, "KEPT", frozenset({"R26"}))
    assert "(of this release)" in explain("r26")
    assert "so this one refuses" in explain("R31")
    assert "Engine" not in explain("R11")


def test_a_rule_that_is_none_gets_a_hint() -> None:
    with pytest.raises(CliError, match=r"no rule 'R111'; did you mean R11"):
        explain("R111")
    with pytest.raises(CliError, match=f"they are R1 to {RULES[-1].id}"):
        explain("nonsense")


def test_the_command_explains_instead_of_looking_at_files() -> None:
    shown = CliRunner().invoke(app, ["lint", "--explain", "R11"])
    assert shown.exit_code == 0
    assert shown.output.startswith("R11 (warning: asks, and refuses nothing)\n  What ")
    assert CliRunner().invoke(app, ["lint"]).exit_code == 2


def test_what_the_engine_does_by_itself_is_told_and_accepted() -> None:
    shown = CliRunner().invoke(app, ["lint", "-f", "-"], input=SPARSE)
    assert shown.exit_code == 0
    first, last = shown.output.strip().splitlines()
    assert first.startswith("automatic -: RegularizedModel vision/digits: spec.regularizers.l1: R8: l1 with adamw")
    assert last == "1 object: accepted"
