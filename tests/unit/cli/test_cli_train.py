"""`espalier train`: the job it builds, and one whole run from manifest to gates."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from espalier_cli import completion, train
from espalier_cli.errors import CliError
from espalier_cli.main import app

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST = """
apiVersion: espalier.dev/v1alpha1
kind: RegularizedModel
metadata: {name: tiny}
spec:
  task: {type: classification}
  data:
    snapshot: {uri: "s3://datasets/tiny/"}
    target: label
    split: {validation: 0.2, calibration: 0.15, test: 0.25, seed: 3}
  engine: {sklearn: {estimator: logisticRegression}}
  regularizers: {l2: {strength: 0.001}, calibration: {}}
  search:
    trials: 2
    space: {regularizers.l2.strength: {logUniform: {min: 0.000001, max: 0.1}}}
  evaluation: {gates: [{metric: accuracy, min: 0.5}]}
  artifacts: {uri: "s3://models/"}
"""


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    file = tmp_path / "model.yaml"
    file.write_text(MANIFEST)
    return file


def local(tmp_path: Path) -> train.Local:
    return train.Local(tmp_path / "snapshot", tmp_path / "out")


def complete(tmp_path: Path, version: str) -> None:
    folder = tmp_path / "out/default/tiny" / version
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")


def test_the_job_is_the_operators_with_local_places(manifest: Path, tmp_path: Path) -> None:
    job = train.job_of(train.model_of(manifest), local(tmp_path))
    assert (job.version, job.parent, job.requested_by) == ("v1", None, "espalier train")
    assert job.data.snapshot.uri == "s3://data/"
    assert job.artifact.uri == "s3://artifacts/default/tiny/v1/"
    assert job.search is not None


def test_trackers_are_the_operators_with_local_places(manifest: Path, tmp_path: Path) -> None:
    manifest.write_text(
        f"{MANIFEST}  training: {{tracking: {{tensorboard: {{}}, mlflow: {{uri: 'http://127.0.0.1:5000'}}}}}}\n"
    )
    job = train.job_of(train.model_of(manifest), local(tmp_path))
    assert job.tracking is not None
    assert job.tracking.uri == "s3://artifacts/default/tiny/.tracking/v1/"
    assert job.tracking.mlflow is not None
    assert job.tracking.wandb is None


def test_versions_count_on_and_name_their_parent(manifest: Path, tmp_path: Path) -> None:
    complete(tmp_path, "v9")
    complete(tmp_path, "v10")
    (tmp_path / "out/default/tiny/v11").mkdir()  # a run that did not end
    job = train.job_of(train.model_of(manifest), local(tmp_path))
    assert (job.version, job.parent) == ("v11", "v10")
    assert job.parent_artifact is not None
    assert job.parent_artifact.uri == "s3://artifacts/default/tiny/v10/"


def test_what_cannot_be_trained_is_refused(manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest.write_text(MANIFEST.replace("l2: {strength: 0.001}", "dropout: {}"))
    with pytest.raises(CliError, match="R38"):
        train.model_of(manifest)
    manifest.write_text("kind: Other")
    with pytest.raises(CliError, match="holds 0 objects"):
        train.model_of(manifest)
    (tmp_path / "links").mkdir()
    with pytest.raises(CliError, match="no such file or folder"):
        local(tmp_path).stage(tmp_path / "links")
    monkeypatch.setattr(train, "find_spec", lambda name: None if name == "torch" else object())
    train.check_installed("sklearn")
    with pytest.raises(CliError, match=r"no torch; install it .*espalier\[trainer\]"):
        train.check_installed("torch")


def test_train_is_completed() -> None:
    assert completion.offers(["tra"]) == ["train"]
    assert completion.offers(["train", "--data", ""]) == []


def test_a_manifest_becomes_a_judged_version(manifest: Path, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    y = draw.integers(0, 3, 240)
    x = 1.5 * draw.normal(size=(3, 5))[y] + draw.normal(size=(240, 5))
    (tmp_path / "snapshot").mkdir()
    pq.write_table(pa.table({**{f"f{i}": x[:, i] for i in range(5)}, "label": y}), tmp_path / "snapshot/a.parquet")
    arguments = ["train", "-f", str(manifest), "--data", str(tmp_path / "snapshot"), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    for words in ("trial 1: ", "accuracy", ">= 0.5", "yes", "out/default/tiny/v1"):
        assert words in done.output
    trials = json.loads((tmp_path / "out/default/tiny/v1/search.json").read_bytes())["trials"]
    assert len(trials) == 2
    manifest.write_text(MANIFEST.replace("min: 0.5", "max: 0.1").replace("trials: 2", "trials: 1"))
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 1
    assert (tmp_path / "out/default/tiny/v2/manifest.json").exists()
