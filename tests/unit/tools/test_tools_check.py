"""The house's own guards find what they are there to find."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tools import check

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_an_init_in_a_source_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """operator/__init__.py would shadow the standard library's operator module."""
    monkeypatch.setattr(check, "ROOT", tmp_path)
    assert check.source_folder_stays_a_folder() == []
    (tmp_path / "operator").mkdir()
    (tmp_path / "operator" / "__init__.py").touch()
    assert check.source_folder_stays_a_folder() == [
        "operator/__init__.py exists: operator/ is a source folder, remove the file"
    ]


def test_this_house_has_none() -> None:
    assert check.source_folder_stays_a_folder() == []


def test_a_value_without_a_type_and_a_type_without_a_value_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "ROOT", tmp_path)
    assert check.chart_values_are_typed() == []
    chart = tmp_path / "charts" / "espalier"
    chart.mkdir(parents=True)
    (chart / "values.yaml").write_text("image: {tag: a, pull: b}\nresources: {limits: {}}\n")
    schema = {
        "properties": {
            "image": {"$ref": "#/definitions/image"},
            "resources": {"type": "object"},
            "port": {},
            "global": {},
        },
        "definitions": {"image": {"properties": {"tag": {}}}},
    }
    (chart / "values.schema.json").write_text(json.dumps(schema))
    assert check.chart_values_are_typed() == [
        "charts/espalier: values.schema.json has port, values.yaml has no default for it",
        "charts/espalier: values.yaml has image.pull, values.schema.json has not",
    ]


def test_a_long_module_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "ROOT", tmp_path)
    long = tmp_path / "long.py"
    long.write_text("pass\n" * (check.MAX_LINES + 1))
    monkeypatch.setattr(check, "tracked", lambda *_: [long])
    assert check.modules_stay_small() == [f"long.py: {check.MAX_LINES + 1} lines, at most {check.MAX_LINES}; split it"]
