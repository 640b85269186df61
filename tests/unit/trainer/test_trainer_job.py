"""Whole jobs: what is published, what is refused, with which exit code and which words."""

from __future__ import annotations

import io
import json
import urllib.request
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from espalier_api import artifact
from espalier_api.artifact import Manifest
from espalier_api.training import TrainingJob, TrainingProgress, TrainingResult
from espalier_trainer import termination
from espalier_trainer.engines import Contribution
from espalier_trainer.export import package, publish
from espalier_trainer.progress import Board, BoardServer
from espalier_trainer.session import Progress
from tests.unit.trainer import jobs

if TYPE_CHECKING:
    from pathlib import Path

    from espalier_trainer.storage import FolderStore

LINEAR = {"l2": {"strength": 1e-3}}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERMINATION_LOG", str(tmp_path / "term"))
    jobs.stage(tmp_path)


def published(folder: Path) -> Manifest:
    return Manifest.model_validate_json((folder / jobs.VERSION / "manifest.json").read_bytes())


def test_a_job_becomes_a_complete_version(tmp_path: Path) -> None:
    result = jobs.train(tmp_path)
    assert (result.outcome, result.exit_code, result.reason) == ("Succeeded", 0, "TrainingSucceeded")
    manifest, folder = published(tmp_path), tmp_path / jobs.VERSION
    assert result.digest == artifact.version_digest((folder / "manifest.json").read_bytes())
    files = {name for name in manifest.files if not name.startswith(artifact.PICTURES)}
    assert files == {*artifact.REQUIRED_FILES, artifact.MODEL_WEIGHTS, artifact.SBOM}
    for name, entry in manifest.files.items():
        content = (folder / name).read_bytes()
        assert (len(content), artifact.sha256(content)) == (entry.size, f"sha256:{entry.sha256}")
    assert manifest.task.classes == result.classes == ("0", "1", "2")
    assert manifest.task.features == ("f0", "f1", "f2", "f3", "f4")
    assert result.metrics["accuracy"].value > 0.7
    expected = {
        "accuracy",
        "balancedAccuracy",
        "f1",
        "logLoss",
        "brier",
        "validationGap",
        "calibrationError",
        "calibrationErrorExcess",
    }
    assert expected | {"latencyP95Seconds", "artifactBytes"} <= set(result.metrics) == set(manifest.metrics)
    lineage = json.loads((folder / artifact.LINEAGE).read_bytes())
    assert lineage["rows"] == {"train": 96, "validation": 48, "calibration": 36, "test": 60}
    recorded = json.loads((folder / artifact.METRICS).read_bytes())
    assert recorded["notes"]["calibration"]["rows"] == 36
    assert recorded["temperature"] == pytest.approx(recorded["notes"]["calibration"]["temperature"])
    assert "| l2 | 0.001 |" in (folder / artifact.MODEL_CARD).read_text()


ENGINES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "mlp": (
        {"torch": {"architecture": {"mlp": {"hidden": [8, 8], "residual": True}}, "epochs": 3}},
        {"dropout": {}, **LINEAR},
    ),
    "bf16": ({"torch": {"architecture": {"mlp": {"hidden": [8]}}, "epochs": 3, "precision": "bf16"}}, LINEAR),
    "sgd": (
        {
            "torch": {
                "architecture": {"mlp": {"hidden": []}},
                "epochs": 3,
                "optimizer": {"sgd": {}},
                "schedule": {"cosine": {}},
            }
        },
        {},
    ),
    "noise": (
        {"torch": {"architecture": {"mlp": {"hidden": [8]}}, "epochs": 3}},
        {"noiseInjection": {"site": "weight"}},
    ),
    **{
        f"mlp-{a}": ({"torch": {"architecture": {"mlp": {"hidden": [8], "activation": a}}, "epochs": 3}}, {})
        for a in ("gelu", "silu", "tanh", "selu")
    },
    "logistic": ({"sklearn": {"estimator": "logisticRegression"}}, LINEAR),
    "forest": ({"sklearn": {"estimator": "randomForest", "params": {"n_estimators": 20}}}, {}),
    "two-classes": ({"sklearn": {"estimator": "histGradientBoosting", "params": {"max_iter": 9}}}, {}),
    "boosting": ({"sklearn": {"estimator": "histGradientBoosting", "params": {"max_iter": 20}}}, LINEAR),
}


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_every_engine_exports_what_it_answers(name: str, task: str, tmp_path: Path) -> None:
    engine, regularizers = ENGINES[name]
    changes: dict[str, Any] = {"task": {"type": task}, "engine": engine, "regularizers": regularizers}
    if task == "regression":
        jobs.stage(tmp_path, jobs.line())
        if name == "logistic":
            changes["engine"] = {"sklearn": {"estimator": "ridge"}}
    else:
        changes["regularizers"] = {**regularizers, "calibration": {}}
        if name == "two-classes":
            jobs.stage(tmp_path, jobs.gaussians(classes=2))
    result = jobs.train(tmp_path, **changes)
    assert result.exit_code == 0, result.message
    folder = tmp_path / jobs.VERSION
    golden = np.load(io.BytesIO((folder / artifact.GOLDEN).read_bytes()))
    found = jobs.answer(folder, golden["input"])
    assert set(found) == set(golden.files) - {"input"}
    for output, values in found.items():
        np.testing.assert_allclose(values, golden[output], atol=artifact.GOLDEN_TOLERANCE)
    if task == "classification":
        np.testing.assert_allclose(found["probabilities"].sum(axis=1), 1, atol=1e-5)
        assert found["label"].dtype == np.int64
        for rows in (1, 7, 512):
            zeros = np.zeros((rows, 5), dtype=np.float32)
            assert jobs.answer(folder, zeros)["probabilities"].shape == (rows, 2 if name == "two-classes" else 3)
    else:
        assert found["value"].shape == (60, 1)
        assert result.metrics["r2"].value > (
            0.5 if name not in {"sgd", "bf16", "noise"} and "-" not in name and name != "mlp" else -10
        )


@pytest.mark.parametrize(
    "estimator, blocks, expected",
    [
        ("ridge", {"l2": {"strength": 0.5}}, {"alpha": 48.0}),
        ("lasso", {"l1": {"strength": 0.01}}, {"alpha": 0.01}),
        ("elasticNet", {"elasticNet": {"strength": 0.1, "l1Ratio": 0.3}}, {"alpha": 0.1, "l1_ratio": 0.3}),
        ("elasticNet", {"l1": {"strength": 0.03}, "l2": {"strength": 0.07}}, {"alpha": 0.1, "l1_ratio": 0.3}),
    ],
)
def test_blocks_become_parameters(
    estimator: str, blocks: dict[str, Any], expected: dict[str, float], tmp_path: Path
) -> None:
    jobs.stage(tmp_path, jobs.line())
    result = jobs.train(
        tmp_path, task={"type": "regression"}, engine={"sklearn": {"estimator": estimator}}, regularizers=blocks
    )
    assert result.exit_code == 0, result.message
    resolved = json.loads((tmp_path / jobs.VERSION / artifact.REGULARIZERS).read_bytes())["resolved"]["sklearn"][
        "parameters"
    ]
    assert {k: resolved[k] for k in expected} == pytest.approx(expected)


SKLEARN = {"sklearn": {"estimator": "logisticRegression"}}
REFUSALS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "block of torch on sklearn": ({"engine": SKLEARN, "regularizers": {"dropout": {}}}, ("R38", "dropout")),
    "schedule on sklearn": ({"engine": SKLEARN, "regularizers": {"l2": {"schedule": {"kind": "linear"}}}}, ("regularizers.l2.schedule",)),
    "parameter that a block owns": (
        {"engine": {"sklearn": {"estimator": "logisticRegression", "params": {"l1_ratio": 0.5}}}, "regularizers": {}},
        ("params.l1_ratio", "set from regularizers"),
    ),
    "parameter that nobody knows": (
        {"engine": {"sklearn": {"estimator": "logisticRegression", "params": {"colour": 3}}}, "regularizers": {}},
        ("params.colour", "no such parameter"),
    ),
    "value that scikit-learn refuses": (
        {"engine": {"sklearn": {"estimator": "logisticRegression", "params": {"max_iter": -1}}}, "regularizers": {}},
        ("max_iter",),
    ),
    "estimator for another task": ({"engine": {"sklearn": {"estimator": "ridge"}}, "regularizers": {}}, ("ridge", "classification")),
    "penalties that count twice": ({"regularizers": {"l2": {}, "weightDecay": {}}}, ("R7",)),
    "calibration without rows": (
        {"data": {**jobs.job()["data"], "split": {"validation": 0.2, "test": 0.2}}, "regularizers": {"calibration": {}}},
        ("calibration",),
    ),
    "one scale for gradients of single rows": (
        {"engine": {"torch": {"architecture": {"mlp": {}}, "precision": "fp16"}}, "regularizers": {"privacy": {"epsilon": 8.0}}},
        ("fp16", "privacy"),
    ),
    "target that selects nothing": (
        {"regularizers": {"dropout": {"target": {"include": ["tail.*"]}}}},
        ("dropout.target selects no layer",),
    ),
    "label audit of a regression": (
        {"task": {"type": "regression"}, "regularizers": {}, "data": {**jobs.job()["data"], "labelColumnNoiseAudit": True}},
        ("R39", "the audit counts labels"),
    ),
    "positive class that is not in the data": ({"task": {"type": "classification", "positiveClass": "9"}}, ("positiveClass", "9")),
    "unknown field": ({"engine": {"torch": {"architecture": {"mlp": {}}, "epoch": 3}}}, ("job.json", "epoch")),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_honoured_is_refused_with_42(case: str, tmp_path: Path) -> None:
    changes, words = REFUSALS[case]
    result = jobs.train(tmp_path, **changes)
    assert (result.exit_code, result.outcome, result.reason) == (42, "InvalidConfig", "InvalidConfig"), result.message
    for word in words:
        assert word in result.message, result.message
    assert not (tmp_path / jobs.VERSION).exists()


def test_missing_and_broken_job_files_are_42(tmp_path: Path) -> None:
    from espalier_trainer.main import main  # noqa: PLC0415 - the boundary itself

    assert main(["--job", str(tmp_path / "nowhere.json"), "--local", str(tmp_path), "--port", "0"]) == 42
    (tmp_path / "job.json").write_text('{"model": ')
    assert main(["--job", str(tmp_path / "job.json"), "--local", str(tmp_path), "--port", "0"]) == 42
    assert "job.json" in TrainingResult.from_termination_message((tmp_path / "term").read_text()).message


def test_bad_data_is_44(tmp_path: Path) -> None:
    result = jobs.train(tmp_path, task={"type": "classification", "classes": ["0", "1"]})
    assert (result.exit_code, result.outcome, result.reason) == (44, "DataProblem", "DataProblem")
    assert "label '2' is not in task.classes" in result.message
    spec = jobs.job()["data"]
    result = jobs.train(tmp_path, data={**spec, "snapshot": {**spec["snapshot"], "digest": "sha256:" + "0" * 64}})
    assert (result.exit_code, result.reason) == (44, "SnapshotChanged")


def test_divergence_is_43_and_names_the_term(tmp_path: Path) -> None:
    jobs.stage(tmp_path, jobs.line())
    engine = {
        "torch": {"architecture": {"mlp": {"hidden": [8]}}, "optimizer": {"sgd": {"learningRate": 10.0}}, "epochs": 50}
    }
    result = jobs.train(tmp_path, task={"type": "regression"}, engine=engine, regularizers={"l2": {"strength": 1.0}})
    assert (result.exit_code, result.outcome) == (43, "Diverged")
    assert "not a finite number" in result.message
    assert [d.mode for d in result.diagnosis] == ["F7"]


def test_a_bug_is_1_with_a_traceback_and_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2hunter2")

    def broken(*_: Any) -> None:
        raise RuntimeError("leaked hunter2hunter2")

    monkeypatch.setattr("espalier_trainer.run.prepare", broken)
    result = jobs.train(tmp_path)
    log = capsys.readouterr().out
    assert (result.exit_code, result.outcome, result.reason) == (1, "Failed", "InfrastructureFailure")
    assert "Traceback" in log
    assert "hunter2" not in log + result.message
    assert "<AWS_SECRET_ACCESS_KEY>" in result.message


def test_seeds_are_fitted_and_averaged(tmp_path: Path) -> None:
    result = jobs.train(tmp_path, seeds=3)
    recorded = json.loads((tmp_path / jobs.VERSION / artifact.METRICS).read_bytes())
    values = [one["logLoss"] for one in recorded["seeds"]]
    assert len(set(values)) == 3
    told = result.metrics["logLoss"]
    assert told.value == pytest.approx(np.mean(values))
    assert told.high - told.value == pytest.approx(4.303 * np.std(values, ddof=1) / 3**0.5)
    alone = jobs.train(tmp_path, artifact={"uri": "s3://models/vision/tiny/v1-alone/"})
    assert alone.metrics["logLoss"].value == pytest.approx(values[0])
    both = [(tmp_path / f"models/vision/tiny/{v}/model.safetensors").read_bytes() for v in ("v1", "v1-alone")]
    assert both[0] == both[1]  # the packaged fit is the base seed's


def test_groups_that_gates_ask_for_are_reported(tmp_path: Path) -> None:
    result = jobs.train(tmp_path, groupMetrics=["g"])
    assert {"accuracy/g=u", "accuracy/g=v"} <= set(result.metrics)
    assert result.metrics["accuracy/g=u"].n + result.metrics["accuracy/g=v"].n == 60


def test_a_published_version_is_success_again_and_never_overwritten(tmp_path: Path) -> None:
    first = jobs.train(tmp_path)
    before = (tmp_path / jobs.VERSION / "manifest.json").read_bytes()
    again = jobs.train(tmp_path, attempt=2)
    assert (again.exit_code, again.digest) == (0, first.digest)
    assert again.metrics == first.metrics
    other = jobs.train(tmp_path, specHash="sha256:two")
    assert other.exit_code == 42
    assert "never overwritten" in other.message
    assert (tmp_path / jobs.VERSION / "manifest.json").read_bytes() == before


def test_leftovers_of_a_dead_attempt_are_overwritten_or_removed(tmp_path: Path) -> None:
    folder = tmp_path / jobs.VERSION
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"half")
    (folder / "model.int8.onnx").write_bytes(b"of another config")
    assert jobs.train(tmp_path).exit_code == 0
    assert not (folder / "model.int8.onnx").exists()
    assert jobs.answer(folder, np.zeros((1, 5), dtype=np.float32))["label"].shape == (1,)


def test_losing_the_race_for_the_manifest_is_success_with_the_winners_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two attempts of one version at once (a lost node that was not lost): the first manifest wins, for both."""
    first = jobs.train(tmp_path)
    monkeypatch.setattr(publish, "published", _blind_once(publish.published))
    second = jobs.train(tmp_path, attempt=2)
    assert (second.exit_code, second.digest) == (0, first.digest)


def _blind_once(real: Any) -> Any:
    calls: list[int] = []

    def published(store: FolderStore, job: TrainingJob) -> Any:
        calls.append(1)
        return None if len(calls) == 1 else real(store, job)

    return published


def test_a_graph_that_answers_otherwise_is_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = package.served_graph
    monkeypatch.setattr(package, "served_graph", lambda f, s, c, t, more: real(f, s, c, 2 * t, more))
    result = jobs.train(tmp_path)
    assert result.exit_code == 42
    assert "F3: model.onnx differs" in result.message
    assert not (tmp_path / jobs.VERSION).exists()


# --- last words -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("length", [10, 5_000, 100_000])
def test_the_termination_message_is_always_json_of_at_most_4096_bytes(length: int) -> None:
    metrics = {f"metric{i}": artifact.MetricValue(value=1 / 3, low=1 / 7, high=2 / 3, n=100_000) for i in range(60)}
    result = TrainingResult(
        outcome="Failed", exit_code=1, message='ü\n"' * length, metrics=metrics, classes=("c" * 90,) * 20
    )
    text = termination.message(result)
    assert len(text.encode()) <= 4096
    assert json.loads(text)["exitCode"] == 1
    assert TrainingResult.from_termination_message(text).outcome == "Failed"


def test_a_follower_answers_a_scrape_and_tells_nothing_twice() -> None:
    """Prometheus finds every pod of a Job up; the fit is the leader's to tell."""
    board = Board(jobs.parsed(), leads=False)
    board.fit(Progress(0.25, 3, 12, 30, {"train": 0.5}, {"l2": Contribution(0.001, 12.0, 0.012, 0.02, 0.1)}))
    text = board.as_text().decode()
    assert [entry for entry in text.splitlines() if not entry.startswith("#")] == []
    assert "model_training_progress" in text


def test_progress_and_metrics_are_served() -> None:
    board = Board(jobs.parsed())
    server = BoardServer(board, 0).start()
    try:
        board.phase("Training")
        blocks = {"l2": Contribution(0.001, 12.0, 0.012, 0.02, 0.1)}
        board.fit(Progress(0.25, 3, 12, 30, {"train": 0.5, "validation": 0.6}, blocks))
        base = f"http://127.0.0.1:{server.server_address[1]}"
        with urllib.request.urlopen(f"{base}/progress", timeout=5) as reply:  # noqa: S310 - our own server
            told = TrainingProgress.model_validate_json(reply.read())
        assert (told.phase, told.progress, told.epoch, told.epochs, told.step) == ("Training", 0.25, 3, 12, 30)
        assert told.regularizers["l2"].gradient_ratio == 0.1
        with urllib.request.urlopen(f"{base}/metrics", timeout=5) as reply:  # noqa: S310 - our own server
            text = reply.read().decode()
        assert 'model_regularizer_share{model="tiny",name="l2",namespace="vision",version="v1"} 0.02' in text
        assert 'model_training_loss{model="tiny",namespace="vision",split="validation",version="v1"} 0.6' in text
    finally:
        server.shutdown()
        server.server_close()
