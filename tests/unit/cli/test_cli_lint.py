"""`espalier lint`: what it says, in whose words, and how it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from espalier_cli.errors import CliError
from espalier_cli.linting import lint
from espalier_cli.main import app

if TYPE_CHECKING:
    from pathlib import Path

GOOD = """
apiVersion: espalier.dev/v1alpha1
kind: RegularizedModel
metadata: {name: digits, namespace: vision}
spec:
  task: {type: classification}
  data: {snapshot: {uri: "s3://datasets/digits/"}, target: label}
  engine: {torch: {architecture: {mlp: {}}}}
  regularizers: {l2: {strength: 1e-4}}
  artifacts: {uri: "s3://models/"}
"""
RULES = GOOD.replace(
    "{l2: {strength: 1e-4}}",
    "{labelSmoothing: {}}\n  evaluation: {gates: [{metric: calibrationErrorExcess, max: 0.02}]}",
)
OTHERS = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: other}\n"


def report(tmp_path: Path, text: str) -> list[str]:
    file = tmp_path / "manifest.yaml"
    file.write_text(text)
    return [str(remark) for remark in lint([file]).remarks]


def test_a_good_manifest_is_accepted_even_with_numbers_that_yaml_reads_as_text(tmp_path: Path) -> None:
    assert report(tmp_path, GOOD) == []


def test_a_rule_is_told_with_object_field_id_and_fix(tmp_path: Path) -> None:
    (line,) = report(tmp_path, RULES)
    assert line.startswith(
        "RegularizedModel vision/digits: spec.regularizers.calibration: R11: labelSmoothing shifts probabilities"
    )
    assert "Add regularizers.calibration" in line


@pytest.mark.parametrize(
    "old,new,expected",
    [
        (
            "task: {type: classification}",
            "task: {type: clustering}",
            "spec.task.type: Input should be 'classification' or 'regression'",
        ),
        ("artifacts: {uri", "artefacts: {uri", "spec.artifacts: the field is required; add it"),
        ("{l2: {strength: 1e-4}}", "{l2: {strenght: 1}}", "spec.regularizers.l2.strenght: there is no such field"),
        (
            "strength: 1e-4",
            "strength: 7",
            "spec.regularizers.l2.strength: Input should be less than or equal to 1, not 7",
        ),
        ("v1alpha1", "v1", "espalier.dev/v1 RegularizedModel is not one of espalier.dev/v1alpha1"),
        ("{mlp: {}}", "{mlp: {}, cnn: {image: [1, 8, 8]}}", "architecture: set exactly one of mlp, cnn"),
        (
            "  artifacts:",
            "  serving: {autoscaling: {}}\n  artifacts:",
            "NotYetImplemented: serving.autoscaling is part of the API but not of this release",
        ),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert any(expected in line for line in report(tmp_path, GOOD.replace(old, new)))


def test_all_documents_of_all_files_are_looked_at(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"{OTHERS}---\n{RULES}")
    (tmp_path / "b.yml").write_text(
        "apiVersion: v1\nkind: List\nitems: [{apiVersion: espalier.dev/v1alpha1, kind: Nonsense}]\n"
    )
    (tmp_path / "notes.txt").write_text("not a manifest")
    found = lint([tmp_path])
    assert found.objects == 2
    assert {remark.rule for remark in found.remarks} == {"R11", "schema"}


@pytest.mark.parametrize("text", ["a: [", "\x00"])
def test_what_is_not_yaml_is_a_clear_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(CliError, match="is not YAML"):
        report(tmp_path, text)


def test_exit_status_and_rule_ids() -> None:
    run = CliRunner()
    refused = run.invoke(app, ["lint", "-f", "-"], input=RULES)
    assert refused.exit_code == 1
    assert "1 object: refused by R11" in refused.output
    accepted = run.invoke(app, ["lint", "-f", "-"], input=GOOD)
    assert (accepted.exit_code, accepted.output.strip()) == (0, "1 object: accepted")


def test_a_file_without_our_objects_is_an_error_not_a_success() -> None:
    outcome = CliRunner().invoke(app, ["lint", "-f", "-"], input=OTHERS)
    assert isinstance(outcome.exception, CliError)
    assert "no object of espalier.dev" in str(outcome.exception)
