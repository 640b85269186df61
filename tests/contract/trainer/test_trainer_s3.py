"""The trainer against a real S3: the store's semantics, and the whole process as its pod runs it."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, Any

import pytest

from espalier_api.artifact import Manifest, version_digest
from espalier_api.hashing import snapshot_digest
from espalier_api.training import TrainingResult
from espalier_trainer.errors import InfrastructureError
from espalier_trainer.selection.records import Owner, Records
from espalier_trainer.storage import AlreadyExistsError, FolderStore, ObjectStore, open_store
from tests.contract.seaweedfs import SECRET
from tests.unit.trainer import jobs

if TYPE_CHECKING:
    from pathlib import Path

    from tests.contract.seaweedfs import S3


@pytest.fixture(params=["s3", "folder"])
def store(request: pytest.FixtureRequest, s3: S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ObjectStore:
    """Both implementations keep the same promises."""
    for name, value in s3.env().items():
        monkeypatch.setenv(name, value)
    if request.param == "folder":
        return FolderStore(tmp_path)
    return open_store(f"s3://models/{request.node.name}/", "artifact.uri")


def test_objects_come_and_go(store: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert store.read("a/b.txt") is None
    assert store.entries() == []
    store.write("a/b.txt", b"one")
    store.write("a/b.txt", b"two!")
    store.write("c.txt", b"")
    assert store.read("a/b.txt") == b"two!"
    listed = store.entries()
    assert [(e.key, e.size) for e in listed] == [("a/b.txt", 4), ("c.txt", 0)]
    assert not any('"' in e.etag for e in listed)
    target = tmp_path_factory.mktemp("work") / "f"
    digest = store.download("a/b.txt", target)
    assert target.read_bytes() == b"two!"
    assert len(digest) == 64
    store.delete("a/b.txt")
    store.delete("a/b.txt")
    assert [e.key for e in store.entries()] == ["c.txt"]


def test_a_new_object_is_written_once(store: ObjectStore) -> None:
    store.write_new("manifest.json", b"first")
    with pytest.raises(AlreadyExistsError):
        store.write_new("manifest.json", b"second")
    assert store.read("manifest.json") == b"first"


def test_more_than_a_page_is_listed(store: ObjectStore) -> None:
    for i in range(1005):
        store.write(f"{i:05d}", b"x")
    assert len(store.entries()) == 1005


def test_a_store_that_is_away_or_refuses_says_so(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.env(AWS_SECRET_ACCESS_KEY="not-the-secret").items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InfrastructureError, match=r"cannot list s3://models/x/.*HTTP 403.*Secret") as refused:
        open_store("s3://models/x/", "artifact.uri").entries()
    assert "not-the-secret" not in str(refused.value)
    for name, value in s3.env(AWS_SESSION_TOKEN="planted-c0ffee").items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InfrastructureError, match=r"cannot list s3://models/x/.*HTTP 403") as refused:
        open_store("s3://models/x/", "artifact.uri").entries()
    assert "planted-c0ffee" not in str(refused.value)
    monkeypatch.delenv("AWS_SESSION_TOKEN")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(InfrastructureError, match="cannot list"):
        open_store("s3://models/x/", "artifact.uri").entries()


# --- the process as its pod runs it ---------------------------------------------------------------------------------------
def staged(s3: S3, name: str, folder: Path, **changes: Any) -> dict[str, Any]:
    """Upload the snapshot; a job on prefixes of its own, digest resolved as the operator does it."""
    jobs.stage(folder)
    s3.client.upload_file(str(folder / "datasets/tiny/part-0.parquet"), "datasets", f"{name}/part-0.parquet")
    listed = s3.client.list_objects_v2(Bucket="datasets", Prefix=f"{name}/")["Contents"]
    digest = snapshot_digest((o["Key"].removeprefix(f"{name}/"), o["Size"], o["ETag"]) for o in listed)
    spec = jobs.job(**changes)
    spec["data"] = {**spec["data"], "snapshot": {"uri": f"s3://datasets/{name}/", "digest": digest}}
    spec["artifact"] = {"uri": f"s3://models/{name}/v1/"}
    spec["checkpoint"] = {"uri": f"s3://models/{name}/.checkpoints/v1/", "interval": "5m"}
    return spec


def finished(process: Any, folder: Path) -> tuple[TrainingResult, str]:
    log, _ = process.communicate(timeout=300)
    result = TrainingResult.from_termination_message((folder / "term").read_text())
    assert result.exit_code == process.returncode, log
    return result, log


def test_a_pod_publishes_is_idempotent_and_is_never_overwritten(s3: S3, tmp_path: Path) -> None:
    spec = staged(s3, "whole", tmp_path)
    with jobs.start(tmp_path, spec, local=False, **s3.env()) as process:
        result, log = finished(process, tmp_path)
    assert result.exit_code == 0, log
    content = s3.client.get_object(Bucket="models", Key="whole/v1/manifest.json")["Body"].read()
    assert result.digest == version_digest(content)
    manifest = Manifest.model_validate_json(content)
    assert set(s3.keys("models", "whole/v1/")) == {*manifest.files, "manifest.json"}
    assert SECRET not in log
    with jobs.start(tmp_path, {**spec, "attempt": 2}, local=False, **s3.env()) as process:
        again, _ = finished(process, tmp_path)
    assert (again.exit_code, again.digest) == (0, result.digest)


def test_sigterm_saves_to_s3_and_the_next_attempt_goes_on(s3: S3, tmp_path: Path) -> None:
    engine = {"torch": {"architecture": {"mlp": {"hidden": [32]}}, "epochs": 2000, "batchSize": 32}}
    spec = staged(s3, "preempted", tmp_path, engine=engine)
    spec["checkpoint"]["interval"] = "200ms"
    with jobs.start(tmp_path, spec, local=False, **s3.env()) as process:
        for entry in process.stdout or ():
            if '"event": "checkpoint"' in entry:
                process.send_signal(signal.SIGTERM)
                break
        result, log = finished(process, tmp_path)
    assert (result.exit_code, result.outcome, result.reason) == (75, "Preempted", "Preempted"), log
    assert 1 <= len(s3.keys("models", "preempted/.checkpoints/v1/")) <= 2
    assert s3.keys("models", "preempted/v1/") == []
    spec["attempt"] = 2
    spec["engine"] = engine
    with jobs.start(tmp_path, spec, local=False, **s3.env()) as process:
        result, log = finished(process, tmp_path)
    assert result.exit_code == 0, log
    assert "resumed" in [e["event"] for e in jobs.events(log)]
    assert s3.keys("models", "preempted/.checkpoints/v1/") == []


def test_a_replaced_object_is_a_changed_snapshot(s3: S3, tmp_path: Path) -> None:
    spec = staged(s3, "moved", tmp_path)
    s3.client.put_object(Bucket="datasets", Key="moved/part-1.parquet", Body=b"late")
    with jobs.start(tmp_path, spec, local=False, **s3.env()) as process:
        result, _ = finished(process, tmp_path)
    assert (result.exit_code, result.reason) == (44, "SnapshotChanged")


def test_without_a_store_the_attempt_is_retried(s3: S3, tmp_path: Path) -> None:
    spec = staged(s3, "away", tmp_path)
    with jobs.start(tmp_path, spec, local=False, **s3.env(AWS_ENDPOINT_URL="http://127.0.0.1:1")) as process:
        result, _ = finished(process, tmp_path)
    assert (result.exit_code, result.outcome, result.reason) == (69, "Failed", "InfrastructureFailure")
    assert "cannot read s3://models/away/v1/manifest.json" in result.message


# --- workers that share a search ------------------------------------------------------------------------------------------
def test_records_of_trials_keep_their_promises_on_s3(store: ObjectStore) -> None:
    """What the unit tests hold against a folder: written once, found by others, foreign ones written over."""
    owner, stranger = Owner("sha256:a", "sha256:d"), Owner("sha256:b", "sha256:d")
    mine, theirs, foreign = (Records(store, each) for each in (owner, owner, stranger))
    trial = {"number": 3, "params": {"regularizers.l2.strength": 0.1 + 0.2}, "status": "Succeeded", "objective": 1 / 3}
    mine.keep(trial)
    assert theirs.refresh() == 1
    assert theirs.sorted() == [trial]
    assert theirs.keep({**trial, "objective": 9.0}) == trial
    assert foreign.refresh() == 0
    foreign.keep({**trial, "objective": 2.0})
    again = Records(store, stranger)
    assert again.refresh() == 1
    assert again.sorted()[0]["objective"] == 2.0
    again.clear()
    assert store.entries() == []


def test_two_processes_share_a_search_and_one_is_sent_away(s3: S3, tmp_path: Path) -> None:
    """Two workers on one store, the second one ended in the middle and started again: each trial once, and the leader has them all."""
    engine = {"torch": {"architecture": {"mlp": {"hidden": [16]}}, "epochs": 60, "batchSize": 32}}
    space = {"regularizers.l2.strength": {"logUniform": {"min": 1e-5, "max": 1e-1}}}
    search = {"method": "random", "trials": 10, "parallelism": 2, "space": space}
    zero, one = (tmp_path / name for name in ("zero", "one"))
    for folder in (zero, one):
        folder.mkdir()
    spec = staged(s3, "shared", zero, engine=engine, search=search)
    with (
        jobs.start(zero, spec, local=False, **s3.env(JOB_COMPLETION_INDEX="0")) as leader,
        jobs.start(one, spec, local=False, **s3.env(JOB_COMPLETION_INDEX="1")) as helper,
    ):
        first = ""
        for entry in helper.stdout or ():
            first += entry
            if '"event": "trial"' in entry:
                helper.send_signal(signal.SIGTERM)
                break
        sent_away, rest = finished(helper, one)
        with jobs.start(one, spec, local=False, **s3.env(JOB_COMPLETION_INDEX="1")) as back:
            helped, second = finished(back, one)
        led, third = finished(leader, zero)
    assert [each.exit_code for each in (sent_away, helped, led)] == [75, 0, 0], first + rest + second + third
    assert helped.digest is None
    ran = [event for log in (first + rest, second, third) for event in jobs.events(log) if event["event"] == "trial"]
    assert sorted(event["number"] for event in ran) == list(range(10))
    told = json.loads(s3.client.get_object(Bucket="models", Key="shared/v1/search.json")["Body"].read())
    assert [trial["objective"] for trial in told["trials"]] == [
        event["objective"] for event in sorted(ran, key=lambda event: event["number"])
    ]
    assert led.search is not None
    assert led.search.best == min(trial["objective"] for trial in told["trials"])
