"""Event files, read back by TensorBoard's own reader: the curves are the history of metrics.json."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from espalier_api.artifact import Manifest
from espalier_trainer.storage import FolderStore
from espalier_trainer.tracking import Opening, Point, tensorboard
from espalier_trainer.tracking.runs import Runs
from tests.unit.trainer import jobs
from tests.unit.trainer.test_trainer_tracking import URI

if TYPE_CHECKING:
    from pathlib import Path

FOLDER = "models/vision/tiny/.tracking/v1/tensorboard"
ASKED: dict[str, Any] = {"uri": URI, "tensorboard": {}}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERMINATION_LOG", str(tmp_path / "term"))
    jobs.stage(tmp_path)


def read(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder / FOLDER), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    found.Reload()
    return found


def curve(events: EventAccumulator, name: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in events.Scalars(name)]


def history(folder: Path) -> list[dict[str, float]]:
    found: list[dict[str, float]] = json.loads((folder / jobs.VERSION / "metrics.json").read_text())["history"]
    return found


def test_the_curves_are_the_history(tmp_path: Path) -> None:
    assert jobs.train(tmp_path, tracking=ASKED).message == "published"
    events, told = read(tmp_path), history(tmp_path)
    assert len(told) == 6
    for name, key in (("loss/train", "train"), ("loss/validation", "validation"), ("loss/objective", "objective")):
        assert curve(events, name) == [
            (int(entry["epoch"]) + 1, pytest.approx(entry[key], rel=1e-6)) for entry in told
        ], name
    assert [value for _, value in curve(events, "learningRate")] == pytest.approx([0.02] * 6)
    assert [value for _, value in curve(events, "regularizers/l2/coefficient")] == pytest.approx([1e-3] * 6)
    assert len(curve(events, "regularizers/dropout/coefficient")) == 6
    manifest = Manifest.model_validate_json((tmp_path / jobs.VERSION / "manifest.json").read_bytes())
    assert curve(events, "final/accuracy") == [(6, pytest.approx(manifest.metrics["accuracy"].value))]
    assert manifest.tracking == {"tensorboard": f"{URI}tensorboard/"}
    assert not [name for name in manifest.files if "tfevents" in name]  # a version never grows, a curve does


def test_pictures_are_the_artifacts(tmp_path: Path) -> None:
    jobs.train(tmp_path, tracking=ASKED)
    events = read(tmp_path)
    (shown,) = events.Images("pictures/curves")
    assert shown.encoded_image_string == (tmp_path / jobs.VERSION / "pictures/curves.png").read_bytes()
    assert shown.width > shown.height > 100


def test_a_later_attempt_takes_back_the_epochs_that_it_repeats(tmp_path: Path) -> None:
    """As after a lost node: what came after the last checkpoint was told, and is told again."""
    whole = jobs.job(tracking=ASKED)
    jobs.train(tmp_path, **whole)
    for leftover in (tmp_path / jobs.VERSION).rglob("*"):
        if leftover.is_file():
            leftover.unlink()
    jobs.train(tmp_path, **{**whole, "attempt": 2})
    assert len(list((tmp_path / FOLDER).iterdir())) == 2
    assert [step for step, _ in curve(read(tmp_path), "loss/train")] == [1, 2, 3, 4, 5, 6]


def test_further_seeds_have_curves_of_their_own(tmp_path: Path) -> None:
    jobs.train(tmp_path, tracking=ASKED, seeds=2)
    names = read(tmp_path).Tags()["scalars"]
    assert "loss/train" in names
    assert "seed-4/loss/train" in names
    assert "seed-3/loss/train" not in names


def test_trials_of_a_search_are_told(tmp_path: Path) -> None:
    search = {
        "method": "random",
        "trials": 3,
        "space": {"regularizers.l2.strength": {"logUniform": {"min": 1e-5, "max": 1e-2}}},
    }
    jobs.train(tmp_path, tracking=ASKED, search=search)
    recorded = json.loads((tmp_path / jobs.VERSION / "search.json").read_text())["trials"]
    assert curve(read(tmp_path), "search/objective") == [
        (trial["number"], pytest.approx(trial["objective"], rel=1e-6)) for trial in recorded
    ]


def test_files_are_renewed_while_the_fit_runs(tmp_path: Path) -> None:
    """The object in the store is readable after the first delivery, long before the end."""
    store = FolderStore(tmp_path / "models/vision/tiny/.tracking/v1")
    tracker = tensorboard.start(
        Opening(jobs.parsed(tracking=ASKED), store, tmp_path / "work", Runs(store).of("tensorboard"))
    )
    tracker.log([Point(1, {"loss/train": 2.0})])
    assert curve(read(tmp_path), "loss/train") == [(1, 2.0)]
    tracker.log([Point(2, {"loss/train": 1.0})])
    assert curve(read(tmp_path), "loss/train") == [(1, 2.0)]  # not yet: at most every 15 s
    tracker.close("failed", None)
    assert curve(read(tmp_path), "loss/train") == [(1, 2.0), (2, 1.0)]
