"""W&B without a server: the run's file is read back, record by record, with W&B's own messages."""

from __future__ import annotations

import json
import struct
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from espalier_api.training import TrainingResult
from tests.unit.trainer import jobs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FOLDER = "models/vision/tiny/.tracking/v1"
ASKED: dict[str, Any] = {
    "uri": f"s3://{FOLDER}/",
    "wandb": {"secretRef": {"name": "wandb-key"}, "project": "digits"},
}
BLOCK, HEADER = 32768, 7


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERMINATION_LOG", str(tmp_path / "term"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("HOME", str(tmp_path))  # no settings and no key of whoever runs this
    jobs.stage(tmp_path)


def records(file: Path) -> list[Any]:
    """Messages of a .wandb file: LevelDB's log format after a header of its own of seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record  # noqa: PLC0415 - only these tests pay for it

    content, at, found, part = file.read_bytes(), HEADER, [], b""
    assert content[:4] == b":W&B"
    while at + HEADER <= len(content):
        if BLOCK - at % BLOCK < HEADER:
            at += BLOCK - at % BLOCK
            continue
        _, size, kind = struct.unpack("<IHB", content[at : at + HEADER])
        part += content[at + HEADER : at + HEADER + size]
        at += HEADER + size
        if kind in {1, 4}:  # a whole record, or the last part of one
            found.append(Record.FromString(part))
            part = b""
    return found


def history(found: list[Any]) -> list[dict[str, float]]:
    """Rows of numbers in the order in which they were logged."""
    rows = []
    for record in found:
        if record.WhichOneof("record_type") == "history":
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            rows.append({name: value for name, value in row.items() if isinstance(value, int | float)})
    return rows


def test_an_offline_run_lies_in_the_store_and_has_the_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    result = jobs.train(tmp_path, tracking=ASKED)
    assert (result.exit_code, result.message) == (0, "published")
    version = tmp_path / jobs.VERSION
    assert json.loads((version / "manifest.json").read_text())["tracking"] == {"wandb": f"s3://{FOLDER}/wandb/"}
    identity = json.loads((tmp_path / FOLDER / "runs.json").read_text())["wandb"]
    (file,) = (tmp_path / FOLDER / "wandb").glob(f"offline-run-*-{identity}/run-{identity}.wandb")
    found = records(file)
    (run,) = [record.run for record in found if record.WhichOneof("record_type") == "run"]
    assert (run.run_id, run.project, run.display_name, run.run_group) == (
        identity, "digits", "vision/tiny/v1", "vision/tiny",
    )  # fmt: skip
    rows = [row for row in history(found) if "loss/train" in row]
    told = json.loads((version / "metrics.json").read_text())["history"]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    for key, name in (("train", "loss/train"), ("validation", "loss/validation")):
        assert [row[name] for row in rows] == [pytest.approx(entry[key]) for entry in told]
    assert rows[0]["regularizers/l2/coefficient"] == pytest.approx(1e-3)
    (ended,) = [record.exit for record in found if record.WhichOneof("record_type") == "exit"]
    assert ended.exit_code == 0
    summaries = {
        u.key: u.value_json for r in found if r.WhichOneof("record_type") == "summary" for u in r.summary.update
    }
    assert json.loads(summaries["final/accuracy"]) == pytest.approx(result.metrics["accuracy"].value)
    assert json.loads(summaries["espalier.artifact"]) == f"s3://{jobs.VERSION}/"


def test_the_next_attempt_goes_on_with_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    fast: dict[str, Any] = {
        "engine": {"sklearn": {"estimator": "logisticRegression"}}, "regularizers": {"l2": {"strength": 1e-3}}
    }  # fmt: skip
    (tmp_path / FOLDER).mkdir(parents=True)
    (tmp_path / FOLDER / "runs.json").write_text('{"wandb": "abcd1234"}')
    assert jobs.train(tmp_path, tracking=ASKED, attempt=2, **fast).message == "published"
    (file,) = (tmp_path / FOLDER / "wandb").glob("*/*.wandb")
    assert file.name == "run-abcd1234.wandb"


def test_without_a_key_the_job_ends_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    result = jobs.train(tmp_path, tracking=ASKED)
    assert (result.exit_code, result.reason) == (42, "InvalidConfig")
    assert "training.tracking.wandb.secretRef: WANDB_API_KEY is not in the environment" in result.message
    assert "'wandb-key'" in result.message


class Refusing(BaseHTTPRequestHandler):
    """What W&B's server says to a key that it does not know."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(401)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(b'{"errors": [{"message": "user is not logged in"}]}')

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@contextmanager
def refusing() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_key_that_the_server_refuses_is_a_wrong_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process of its own, because the library reads its environment once."""
    key = "0123456789abcdef" * 3
    monkeypatch.delenv("WANDB_MODE", raising=False)
    spec = jobs.job(tracking=ASKED)
    with (
        refusing() as address,
        jobs.start(tmp_path, spec, WANDB_API_KEY=key, WANDB_BASE_URL=address) as process,
    ):
        log, _ = process.communicate(timeout=300)
    result = TrainingResult.from_termination_message((tmp_path / "term").read_text())
    assert (result.exit_code, result.reason) == (42, "InvalidConfig")
    assert "training.tracking.wandb.secretRef: the server refuses the key in 'wandb-key'" in result.message
    assert key not in result.message + log
