"""docs/techniques.md: counted from code, and what the code does not do is not on it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from espalier_api.regularizers import BLOCKS, Regularizers
from espalier_api.rules import RULES, engine_support
from tools import check, techniques
from tools.techniques import PageError, render, snake, snippet, stage_of

if TYPE_CHECKING:
    from pathlib import Path

PLUGIN = """
class Inner: stage = 1

@register
class L2(Regularizer[L2Config]):
    name: ClassVar[str] = "l2"
    stage = Stage.GRAD
"""


@pytest.fixture
def only_l2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A trainer that has one block, declared and proven."""
    monkeypatch.setattr(engine_support, "TORCH", frozenset({"l2"}))
    monkeypatch.setattr(engine_support, "LOOPS", frozenset())
    monkeypatch.setattr(engine_support, "SKLEARN", {("ridge", "regression"): frozenset({"l2"})})
    monkeypatch.setattr(engine_support, "able", lambda name, _task: ("torch",) if name == "l2" else ())
    (tmp_path / "l2.py").write_text(PLUGIN)
    return tmp_path


def page(folder: Path, proofs: dict[str, Any]) -> str:
    file = folder / "proofs.json"
    file.write_text(json.dumps(proofs))
    return render(techniques.techniques(folder, file), proofs=file)


@pytest.mark.parametrize("name", BLOCKS)
def test_every_block_has_a_manifest_that_is_one(name: str) -> None:
    parsed = yaml.safe_load("{" + snippet(name) + "}")
    assert [each for each, _ in Regularizers.model_validate(parsed).declared()] == [name]


def test_one_row_per_block_and_rule_and_the_numbers_are_counted(only_l2: Path) -> None:
    record = {"oracle": "Ridge", "measured": 1.5e-14, "at_most": 8e-9, "test": "tests/x.py::test_ridge"}
    text = page(only_l2, {"l2": [record], "dropout": [record]})
    assert "**Techniques: 1/45 implemented, 1/45 proven against an oracle.\nRules: 38/38 checked; of 12" in text
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in text.splitlines() if line.startswith("| ")}
    assert {*BLOCKS, *(rule.id for rule in RULES)} <= rows.keys()
    assert "| GRAD | torch | implemented | Ridge: 1.5e-14 (≤ 8e-09) `test_ridge` |" in rows["l2"]
    assert "| - | - | refused |" in rows["weightDecay"]


def test_a_block_without_proof_says_so(only_l2: Path) -> None:
    text = page(only_l2, {})
    assert "1/45 implemented, 0/45 proven" in text
    assert "| implemented | none recorded |" in text


def test_a_proof_of_a_rule_stands_beside_the_promise(only_l2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = {"oracle": "torch update_bn", "measured": 0, "at_most": 1e-6, "test": "tests/x.py::test_bn"}
    monkeypatch.setattr(engine_support, "KEPT", frozenset())
    assert "not yet, so it refuses: batch statistics are measured anew" in page(only_l2, {"R26": [record]})
    monkeypatch.setattr(engine_support, "KEPT", frozenset({"R26"}))
    text = page(only_l2, {"R26": [record]})
    assert "it keeps 1.**" in text
    assert "for the averaged weights<br>torch update_bn: 0 (≤ 1e-06) `test_bn` |" in text


def test_a_promise_without_a_file_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_support, "able", lambda name, _task: ("torch",) if name == "dropConnect" else ())
    with pytest.raises(PageError, match=r"torch honours dropConnect, but .*drop_connect\.py does not exist"):
        page(tmp_path, {})


def test_a_file_that_no_engine_declares_is_not_implemented(only_l2: Path) -> None:
    (only_l2 / "l1.py").write_text(PLUGIN.replace("l2", "l1").replace("GRAD", "STEP"))
    text = page(only_l2, {})
    assert "1/45 implemented" in text
    assert "| STEP | - | refused (code is there, no engine declares it) | - |" in text


def test_stages_are_read_without_importing(only_l2: Path) -> None:
    assert stage_of("l2", only_l2) == "GRAD"
    assert stage_of("l1", only_l2) is None
    (only_l2 / "l2.py").write_text("import torch_that_is_not_there\n")
    with pytest.raises(PageError, match="no class with name = 'l2'"):
        stage_of("l2", only_l2)
    assert [snake(name) for name in ("l2", "weightDecay", "mcDropout")] == ["l2", "weight_decay", "mc_dropout"]


def test_a_record_of_a_test_that_is_gone_is_told(tmp_path: Path) -> None:
    here = "tests/unit/tools/test_techniques.py::test_a_record_of_a_test_that_is_gone_is_told"
    file = tmp_path / "proofs.json"
    file.write_text(json.dumps({"l2": [{"test": here}, {"test": here + "_not"}, {"test": "tests/gone.py::test"}]}))
    told = techniques.stale(file)
    assert len(told) == 2
    assert "_not, which does not exist" in told[0]
    assert "tests/gone.py::test" in told[1]


def test_drift_is_found_and_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(techniques, "PAGE", tmp_path / "techniques.md")
    monkeypatch.setattr(techniques, "ROOT", tmp_path)
    monkeypatch.setattr(techniques, "stale", list)
    assert techniques.main(["--check"]) == 1
    assert "techniques.md is not what the code says; run `python -m tools.techniques`" in capsys.readouterr().err
    assert techniques.main([]) == 0
    assert techniques.main(["--check"]) == 0


def test_make_check_looks_for_drift() -> None:
    assert "techniques" in check.PARTS
