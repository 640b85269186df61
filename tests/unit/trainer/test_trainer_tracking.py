"""Who is told, by which process, and what a tracker that fails can do to a training: nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from espalier_api.training import TrainingJob
from espalier_trainer import termination, tracking
from espalier_trainer.engines import Contribution
from espalier_trainer.errors import InvalidConfigError, PreemptedError
from espalier_trainer.jobfile import config_digest
from espalier_trainer.session import Progress
from espalier_trainer.storage import FolderStore
from espalier_trainer.tracking import End, Opening, Point, Tracking, told
from espalier_trainer.tracking.feed import MOST_WAITING, Feed
from espalier_trainer.tracking.runs import Runs
from tests.unit.trainer import jobs

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from espalier_trainer.tracking.telling import Ending

URI = "s3://models/vision/tiny/.tracking/v1/"
END = End({"accuracy": 0.9}, {}, "s3://models/vision/tiny/v1/", "sha256:0")


class Peer:
    """A tracker whose server is away for as long as it is told."""

    def __init__(self) -> None:
        self.link, self.away, self.opened = "there", False, 0
        self.got: list[Point] = []
        self.closed: list[tuple[Ending, End | None]] = []

    def open(self) -> Peer:
        self.opened += 1
        self._look()
        return self

    def log(self, points: Sequence[Point]) -> None:
        self._look()
        self.got += points

    def close(self, how: Ending, end: End | None) -> None:
        self._look()
        self.closed.append((how, end))

    def _look(self) -> None:
        if self.away:
            raise ConnectionError("no answer; the token was s3cret-token")


def points(count: int) -> list[Point]:
    return [Point(epoch, {"loss/train": 1.0 / epoch}) for epoch in range(1, count + 1)]


def ended(feed: Feed, how: Ending = "succeeded") -> None:
    feed.end(how, END)
    feed.join()


def test_everything_arrives_in_order_and_the_run_is_closed() -> None:
    peer, sent = Peer(), points(50)
    feed = Feed("peer", peer.open, every=0.001).start()
    for point in sent:
        feed.put(point)
    ended(feed)
    assert peer.got == sent
    assert peer.closed == [("succeeded", END)]
    assert (feed.complete, feed.failures, feed.link) == (True, 0, "there")


def test_what_waited_for_a_silent_server_arrives_when_it_is_back(capsys: pytest.CaptureFixture[str]) -> None:
    peer, sent = Peer(), points(3)
    peer.away = True
    feed = Feed("peer", peer.open, every=60).start()  # cannot be reached: not an end
    assert feed.link == ""
    for point in sent:
        feed.put(point)
    assert not feed._deliver()
    assert feed.trouble()["points"] == 3
    peer.away = False
    ended(feed)
    assert (peer.got, feed.complete) == (sent, True)
    said = [event for event in jobs.events(capsys.readouterr().out) if event["event"].startswith("tracking")]
    assert [event["event"] for event in said] == ["tracking-failed"]  # once, however often it failed


def test_what_never_arrives_is_counted_and_told_without_secrets(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "s3cret-token")
    peer = Peer()
    feed = Feed("peer", peer.open, every=60).start()
    peer.away = True
    for point in points(4):
        feed.put(point)
    ended(feed, "failed")
    assert not feed.complete
    assert feed.trouble() == {
        "points": 4, "failures": 1, "reason": "ConnectionError: no answer; the token was <MLFLOW_TRACKING_TOKEN>"
    }  # fmt: skip
    log = capsys.readouterr().out
    assert "s3cret-token" not in log
    assert [event["event"] for event in jobs.events(log)] == ["tracking-failed", "tracking-lost"]


def test_waiting_points_are_bounded_and_the_oldest_give_way() -> None:
    peer = Peer()
    feed = Feed("peer", peer.open, every=600).start()
    for epoch in range(MOST_WAITING + 7):
        feed.put(Point(epoch, {}))
    assert feed.trouble()["points"] == MOST_WAITING + 7
    ended(feed)
    assert (len(peer.got), peer.got[0].epoch) == (MOST_WAITING, 7)
    assert feed.trouble()["points"] == 7
    assert not feed.complete


def test_points_that_give_way_during_a_delivery_are_not_counted_twice() -> None:
    peer = Peer()
    feed = Feed("peer", peer.open, every=600).start()
    for epoch in range(MOST_WAITING):
        feed.put(Point(epoch, {}))
    log = peer.log
    peer.log = lambda batch: (log(batch), [feed.put(Point(-1, {})) for _ in range(5)])[0]  # type: ignore[method-assign]
    assert feed._deliver()
    peer.log = log  # type: ignore[method-assign]
    assert feed.trouble()["points"] == 5
    ended(feed)
    assert len(peer.got) == MOST_WAITING + 5
    assert feed.complete


def test_a_server_that_hangs_does_not_hold_up_the_end() -> None:
    peer = Peer()
    feed = Feed("peer", peer.open, every=600).start()
    gate = threading.Event()
    peer.close = lambda *_: gate.wait(30) and None  # type: ignore[method-assign, assignment]
    feed.end("succeeded", END)
    feed.join(within=0.05)
    assert not feed.complete
    assert "TimeoutError" in str(feed.trouble()["reason"])
    gate.set()


def test_a_wrong_configuration_is_no_outage() -> None:
    def refuse() -> Peer:
        raise InvalidConfigError("training.tracking.mlflow.secretRef: no")

    with pytest.raises(InvalidConfigError, match="secretRef"):
        Feed("peer", refuse).start()


# --- what is told ----------------------------------------------------------------------------------------------------------
def test_numbers_that_are_none_or_not_finite_are_left_out() -> None:
    block = Contribution(coefficient=0.1, value=2.0, share=None, gradient_ratio=float("nan"))
    found = dict(
        told(Progress(1.0, 3, 3, 30, {"train": 0.5, "validation": float("inf"), "learningRate": 0.01}, {"l2": block}))
    )
    assert found == {
        "epoch": 3.0, "step": 30.0, "loss/train": 0.5, "learningRate": 0.01,
        "regularizers/l2/coefficient": 0.1, "regularizers/l2/value": 2.0,
    }  # fmt: skip


def test_fits_inside_a_fit_get_curves_of_their_own() -> None:
    told_to = Tracking()
    assert [told_to._part(epoch, "") for epoch in (1, 2, 3, 1, 2, 1)] == ["", "", "", "part-2/", "part-2/", "part-3/"]
    assert told_to._part(1, "seed-8/") == "seed-8/"


def test_parameters_are_flat_and_bounded() -> None:
    job = jobs.parsed(task={"type": "classification", "classes": ["c" * 100 for _ in range(9)]})
    opening = Opening(job, FolderStore, None, Runs(_Nothing()).of("x"))  # type: ignore[arg-type]
    found = opening.parameters()
    assert found["engine.torch.epochs"] == "6"
    assert found["regularizers.l2.strength"] == "0.001"
    assert max(map(len, found.values())) == 250
    assert opening.name == "vision/tiny/v1"
    assert opening.tags()["espalier.version"] == "v1"


class _Nothing:
    def read(self, key: str) -> None:
        return None


def test_the_run_of_a_version_is_remembered_for_later_attempts(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    first = Runs(store).of("wandb")
    assert first.id is None
    first.keep("abc")
    assert Runs(store).of("wandb").id == "abc"
    assert Runs(store).of("mlflow").id is None


# --- who tells -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "environment,expected",
    [
        ({}, True),
        ({"RANK": "0", "JOB_COMPLETION_INDEX": "0"}, True),
        ({"RANK": "1"}, False),
        ({"RANK": "0", "JOB_COMPLETION_INDEX": "2"}, False),
    ],
)
def test_of_many_processes_the_first_one_tells(environment: dict[str, str], expected: bool) -> None:
    assert tracking.speaks(environment) is expected


def asked(**trackers: Any) -> dict[str, Any]:
    return {"uri": URI, **trackers}


@pytest.mark.parametrize("name", tracking.LIBRARIES)
def test_an_image_without_the_library_ends_before_any_training(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERMINATION_LOG", str(tmp_path / "term"))
    monkeypatch.setattr(tracking, "find_spec", lambda _: None)
    jobs.stage(tmp_path)
    fields = {"wandb": {"secretRef": {"name": "w"}}, "mlflow": {"uri": "http://127.0.0.1:1"}}.get(name, {})
    result = jobs.train(tmp_path, tracking=asked(**{name: fields}))
    assert (result.exit_code, result.reason) == (42, "InvalidConfig")
    assert f"training.tracking.{name}: this trainer's image has no {tracking.LIBRARIES[name]}" in result.message
    assert f"espalier[{name}]" in result.message
    assert not (tmp_path / "models").exists()


def test_a_process_that_does_not_tell_needs_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda _: None)
    monkeypatch.setenv("RANK", "1")
    job = TrainingJob.model_validate(jobs.job(tracking=asked(tensorboard={}, evidently={})))
    silent = Tracking()
    silent.start(job, lambda *_: FolderStore(tmp_path))
    silent.fit(Progress(1.0, 1, 1, 1, {"train": 1.0}, {}))
    assert silent.links() == {}
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_imported_unless_asked_for(tmp_path: Path) -> None:
    """A whole job in a process of its own: no tracker's library, and nothing that they bring. (pandas, which Evidently brings, is imported
    by pyarrow wherever it is installed.)
    """
    jobs.stage(tmp_path)
    program = (
        "import sys\nfrom espalier_trainer.main import main\ncode = main(sys.argv[1:])\n"
        "heavy = {'wandb', 'mlflow', 'evidently', 'plotly', 'opentelemetry', 'espalier_trainer.tracking.tensorboard'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\nsys.exit(code)\n"
    )
    spec = jobs.job(engine={"sklearn": {"estimator": "logisticRegression"}}, regularizers={"l2": {"strength": 1e-3}})
    done = subprocess.run(
        [sys.executable, "-c", program, *jobs.arguments(tmp_path, spec)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert done.stderr.strip().endswith("[]")


def test_tracking_decides_nothing_about_the_fit() -> None:
    assert config_digest(jobs.parsed()) == config_digest(jobs.parsed(tracking=asked(tensorboard={})))


def test_the_result_knows_none_of_the_new_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.setenv(name, f"value-of-{name.lower()}")
        assert termination.without_secrets(f"got value-of-{name.lower()}") == f"got <{name}>"


@pytest.mark.parametrize(
    "error,expected", [(None, "succeeded"), (PreemptedError("now"), "preempted"), (ValueError("bug"), "failed")]
)
def test_every_end_closes_the_runs(error: Exception | None, expected: str) -> None:
    peer, world = Peer(), Tracking()
    world._feeds["peer"] = Feed("peer", peer.open, every=0.001).start()

    def training() -> None:
        with world:
            if error is not None:
                raise error
            world.finish(END)

    if error is None:
        training()
    else:
        with pytest.raises(type(error)):
            training()
    assert peer.closed == [(expected, END if error is None else None)]


def test_a_lost_tracker_is_in_the_results_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is away from start to end: the version is published all the same, and metrics.json says who has no curves."""
    monkeypatch.setenv("TERMINATION_LOG", str(tmp_path / "term"))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    jobs.stage(tmp_path)
    result = jobs.train(tmp_path, tracking=asked(mlflow={"uri": "http://127.0.0.1:1"}))
    assert result.exit_code == 0
    assert result.message.startswith("published; mlflow has not got everything (6 points; ")
    notes = json.loads((tmp_path / jobs.VERSION / "metrics.json").read_text())["notes"]
    assert notes["tracking"]["mlflow"]["failures"] >= 1
