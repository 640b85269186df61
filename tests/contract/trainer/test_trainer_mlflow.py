"""MLflow's own tracking server on loopback: the run has the curve, is one for all attempts, and a refusal is told by its field."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
import requests

from tests.contract.seaweedfs import free_port
from tests.unit.trainer import jobs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WITHIN = 120.0
FOLDER = "models/vision/tiny/.tracking/v1"
TOKEN = "s3cret-mlflow-token"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What `mlflow server` serves, without its workers for jobs: the same application over SQLite, files through the server."""
    folder = tmp_path_factory.mktemp("mlflow")
    port = free_port()
    environment = {
        **os.environ,
        "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{folder}/runs.db",
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(folder / "files"),
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    command = [sys.executable, "-m", "flask", "--app", "mlflow.server", "run", "--no-reload", "--port", str(port)]
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder) as process,
    ):
        address = f"http://127.0.0.1:{port}"
        try:
            _await(f"{address}/health", process, folder / "log")
            yield address
        finally:
            process.terminate()


def _await(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + WITHIN
    while True:
        try:
            requests.get(address, timeout=5).raise_for_status()
            return
        except requests.RequestException as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"MLflow's server did not start\n{log.read_text()[-2000:]}") from error
            time.sleep(0.2)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERMINATION_LOG", str(tmp_path / "term"))
    jobs.stage(tmp_path)


def asked(server: str) -> dict[str, Any]:
    return {"uri": f"s3://{FOLDER}/", "mlflow": {"uri": server, "secretRef": {"name": "mlflow-login"}}}


def api(server: str, path: str) -> dict[str, Any]:
    """MLflow's REST API, without its client."""
    answer = requests.get(f"{server}/api/2.0/mlflow/{path}", timeout=30)
    answer.raise_for_status()
    found: dict[str, Any] = answer.json()
    return found


def run_of(folder: Path) -> str:
    return str(json.loads((folder / FOLDER / "runs.json").read_text())["mlflow"])


def curve(server: str, run: str, name: str) -> list[tuple[int, float]]:
    found = api(server, f"metrics/get-history?run_id={run}&metric_key={name}&max_results=1000").get("metrics", [])
    return sorted((int(each.get("step", 0)), each["value"]) for each in found)


def test_the_run_has_the_curve_and_one_run_is_for_all_attempts(server: str, tmp_path: Path) -> None:
    result = jobs.train(tmp_path, tracking=asked(server))
    assert result.message == "published"
    run, version = run_of(tmp_path), tmp_path / jobs.VERSION
    told = json.loads((version / "metrics.json").read_text())["history"]
    expected = [(int(entry["epoch"]) + 1, pytest.approx(entry["train"])) for entry in told]
    assert curve(server, run, "loss/train") == expected
    found = api(server, f"runs/get?run_id={run}")["run"]
    assert found["info"]["status"] == "FINISHED"
    assert found["info"]["run_name"] == "v1"
    tags = {tag["key"]: tag["value"] for tag in found["data"]["tags"]}
    assert (tags["espalier.model"], tags["espalier.artifact"]) == ("tiny", f"s3://{jobs.VERSION}/")
    assert {p["key"]: p["value"] for p in found["data"]["params"]}["engine.torch.epochs"] == "6"
    metrics = {metric["key"]: metric["value"] for metric in found["data"]["metrics"]}
    assert metrics["final/accuracy"] == pytest.approx(result.metrics["accuracy"].value)
    link = json.loads((version / "manifest.json").read_text())["tracking"]["mlflow"]
    assert link == f"{server}/#/experiments/{found['info']['experiment_id']}/runs/{run}"
    pictures = {file["path"] for file in api(server, f"artifacts/list?run_id={run}&path=pictures")["files"]}
    assert "pictures/curves.png" in pictures
    # The pod was lost after its last epoch and before it published: the next attempt tells nothing twice.
    for leftover in version.rglob("*"):
        if leftover.is_file():
            leftover.unlink()
    assert jobs.train(tmp_path, tracking=asked(server), attempt=2).message == "published"
    assert run_of(tmp_path) == run
    assert curve(server, run, "loss/train") == expected


def test_a_run_that_somebody_deleted_is_replaced(server: str, tmp_path: Path) -> None:
    fast: dict[str, Any] = {
        "engine": {"sklearn": {"estimator": "logisticRegression"}}, "regularizers": {"l2": {"strength": 1e-3}}
    }  # fmt: skip
    (tmp_path / FOLDER).mkdir(parents=True)
    (tmp_path / FOLDER / "runs.json").write_text(json.dumps({"mlflow": "0" * 32}))
    assert jobs.train(tmp_path, tracking=asked(server), attempt=2, **fast).message == "published"
    assert run_of(tmp_path) != "0" * 32


def test_a_training_that_fails_is_a_failed_run(server: str, tmp_path: Path) -> None:
    result = jobs.train(tmp_path, tracking=asked(server), task={"type": "classification", "classes": ["0", "1"]})
    assert result.exit_code == 44
    assert api(server, f"runs/get?run_id={run_of(tmp_path)}")["run"]["info"]["status"] == "FAILED"


class Guarded(BaseHTTPRequestHandler):
    """A server behind a login; it remembers what it was shown."""

    status = 401
    seen: list[str] = []  # noqa: RUF012 - one server per test

    def do_GET(self) -> None:
        Guarded.seen.append(self.headers.get("Authorization", ""))
        self.send_response(Guarded.status)
        self.end_headers()
        self.wfile.write(b"no")

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.mark.parametrize("status,field", [(401, "secretRef"), (403, "secretRef"), (404, "uri")])
def test_a_refusal_ends_before_any_training_and_names_the_field(
    status: int, field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", TOKEN)
    Guarded.status = status
    Guarded.seen.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Guarded) as guard:
        threading.Thread(target=guard.serve_forever, daemon=True).start()
        result = jobs.train(tmp_path, tracking=asked(f"http://127.0.0.1:{guard.server_address[1]}"))
        guard.shutdown()
    assert (result.exit_code, result.reason) == (42, "InvalidConfig")
    assert f"training.tracking.mlflow.{field}: " in result.message
    assert f"HTTP {status}" in result.message
    assert set(Guarded.seen) == {f"Bearer {TOKEN}"}
    assert TOKEN not in result.message + capsys.readouterr().out
    assert not (tmp_path / jobs.VERSION).exists()
