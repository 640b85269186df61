"""Evidently's report: its numbers are scipy's and scikit-learn's on the very rows; it is in the version, and never fails a training."""

from __future__ import annotations

import json
import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy.stats import ks_2samp
from sklearn.metrics import accuracy_score, mean_absolute_error

from espalier_api.artifact import Manifest
from espalier_trainer import tracking
from espalier_trainer.data.dataset import Dataset, build
from espalier_trainer.data.splits import split
from espalier_trainer.data.tables import read
from espalier_trainer.jobfile import data_spec
from espalier_trainer.tracking import evidently
from tests.unit.trainer import jobs

if TYPE_CHECKING:
    from pathlib import Path

with warnings.catch_warnings():
    # While they are imported, Evidently and what it brings warn of themselves: escapes in strings, numpy.core, pydantic's old ways.
    # What they do when they are called is watched like everything else.
    warnings.simplefilter("ignore")
    import_module("evidently.presets")

ASKED: dict[str, Any] = {"uri": "s3://models/vision/tiny/.tracking/v1/", "evidently": {}}
FAST: dict[str, Any] = {
    "engine": {"sklearn": {"estimator": "logisticRegression"}}, "regularizers": {"l2": {"strength": 1e-3}}
}  # fmt: skip


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERMINATION_LOG", str(tmp_path / "term"))
    jobs.stage(tmp_path)


def parts(folder: Path, **changes: Any) -> dict[str, Dataset]:
    """The rows of each split, as the trainer reads them."""
    job = jobs.parsed(**changes)
    data = build(read({"part-0.parquet": folder / "datasets/tiny/part-0.parquet"}), data_spec(job))
    return {name: data.take(rows) for name, rows in split(data, job.data.split).items()}


def told(folder: Path) -> dict[str, Any]:
    """metric name up to its parameters, with `column` -> value."""
    found = {}
    for metric in json.loads((folder / jobs.VERSION / "evidently.json").read_text())["metrics"]:
        name = metric["metric_name"].partition("(")[0]
        column = metric["config"].get("column")
        found[f"{name} {column}" if column else name] = metric["value"]
    return found


def test_drift_is_scipys_and_accuracy_is_scikit_learns(tmp_path: Path) -> None:
    result = jobs.train(tmp_path, tracking=ASKED, **FAST)
    assert result.exit_code == 0, result.message
    found, rows = told(tmp_path), parts(tmp_path, **FAST)
    for column, name in enumerate(rows["test"].features):
        expected = ks_2samp(rows["train"].x[:, column].astype(float), rows["test"].x[:, column].astype(float)).pvalue
        assert found[f"ValueDrift {name}"] == pytest.approx(expected, rel=1e-6)
    answered = jobs.answer(tmp_path / jobs.VERSION, rows["test"].x)["label"]
    assert found["Accuracy"] == pytest.approx(accuracy_score(rows["test"].y, answered))
    manifest = Manifest.model_validate_json((tmp_path / jobs.VERSION / "manifest.json").read_bytes())
    assert manifest.tracking == {"evidently": "evidently.html"}
    page = (tmp_path / jobs.VERSION / "evidently.html").read_text()
    assert {"evidently.html", "evidently.json"} < set(manifest.files)
    assert page.lstrip().startswith(("<!DOCTYPE html>", "<html"))


@pytest.mark.filterwarnings(
    r"ignore:R\^2 score is not well-defined"
)  # of a row that Evidently makes up for its dummy models
def test_a_regression_has_errors_in_its_own_unit(tmp_path: Path) -> None:
    jobs.stage(tmp_path, jobs.line())
    changes: dict[str, Any] = {
        **FAST, "task": {"type": "regression"}, "engine": {"sklearn": {"estimator": "ridge"}},
    }  # fmt: skip
    assert jobs.train(tmp_path, tracking=ASKED, **changes).exit_code == 0
    found, rows = told(tmp_path), parts(tmp_path, **changes)
    answered = jobs.answer(tmp_path / jobs.VERSION, rows["test"].x)["value"][:, 0]
    value = found["MAE"]["mean"] if isinstance(found["MAE"], dict) else found["MAE"]
    assert value == pytest.approx(mean_absolute_error(rows["test"].y, answered), rel=1e-5)


def test_a_library_that_fails_costs_the_report_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise AttributeError("pandas has no attribute 'infer_dtype_from_object'")

    monkeypatch.setattr(evidently, "report", broken)
    result = jobs.train(tmp_path, tracking=ASKED, **FAST)
    assert result.exit_code == 0
    version = tmp_path / jobs.VERSION
    assert not (version / "evidently.html").exists()
    notes = json.loads((version / "metrics.json").read_text())["notes"]
    assert "infer_dtype_from_object" in notes["evidently"]["failed"]
    assert json.loads((version / "manifest.json").read_text())["tracking"] == {}


def test_the_page_is_bounded() -> None:
    many = Dataset(
        tuple(f"f{i}" for i in range(300)), ("a", "b"), np.zeros((9000, 300), np.float32), np.zeros(9000, np.int64)
    )
    assert len(evidently.shown(many)) == evidently.MOST_ROWS
    assert len(evidently.names(many.features)) == evidently.MOST_FEATURES
    assert evidently.names(("target", "x", "prediction")) == ("feature target", "x", "feature prediction")


def test_codes_are_shown_as_names() -> None:
    x = np.array([[0.5, 0.0], [np.nan, 1.0], [1.5, -1.0], [2.5, np.nan]], np.float32)
    part = Dataset(("size", "colour"), ("a", "b"), x, np.zeros(4, np.int64), vocabulary={"colour": ("red", "blue")})
    found = evidently.columns(part)
    assert found["colour"].tolist() == ["red", "blue", "unknown", None]
    assert found["size"].tolist() == pytest.approx([0.5, np.nan, 1.5, 2.5], nan_ok=True)


def test_private_rows_are_in_no_report(tmp_path: Path) -> None:
    """R37 once more in the trainer, before anything is read."""
    result = jobs.train(tmp_path, tracking=ASKED, regularizers={"privacy": {}})
    assert result.exit_code == 42
    assert "R37: the report shows distributions of private rows" in result.message


def test_one_process_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert tracking.reports(jobs.parsed(tracking=ASKED), None, None, None) == {}  # type: ignore[arg-type]
