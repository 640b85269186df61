"""Trials that several workers share: the same trials and the same winner as one worker alone, and nothing that ended is run twice."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from espalier_api.hashing import spec_hash
from espalier_api.model import RegularizedModelSpec
from espalier_trainer.errors import InfrastructureError, InvalidConfigError, PreemptedError
from espalier_trainer.jobfile import config_digest
from espalier_trainer.run import run
from espalier_trainer.selection import proposals, rounds
from espalier_trainer.selection.records import Owner, Records
from espalier_trainer.selection.team import Pace, Team
from espalier_trainer.session import Preemption
from espalier_trainer.storage import FolderStore
from tests.unit.trainer import jobs
from tests.unit.trainer.searches import LINEAR, LOG, Turns, outcome, search, searching

if TYPE_CHECKING:
    from pathlib import Path

    from espalier_api.training import TrainingJob

OWNER = Owner("sha256:config", "sha256:data")


def record(number: int, **changes: Any) -> dict[str, Any]:
    return {"number": number, "params": {}, "status": "Succeeded", "objective": 1.0, "seconds": 0.1, **changes}


# --- records ----------------------------------------------------------------------------------------------------------
def test_records_are_kept_once_and_found_by_others(tmp_path: Path) -> None:
    mine, theirs = (Records(FolderStore(tmp_path), OWNER) for _ in range(2))
    mine.keep(record(7, objective=0.1 + 0.2))
    assert 7 not in theirs
    assert theirs.refresh() == 1
    assert theirs.sorted() == mine.sorted()
    assert theirs.sorted()[0]["objective"] == 0.1 + 0.2  # to the last bit
    assert theirs.keep(record(7, objective=9.0))["objective"] == 0.1 + 0.2  # who was first counts
    assert [p.name for p in tmp_path.iterdir()] == ["00007.json"]
    mine.clear()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content, why",
    [
        (
            json.dumps({"format": "espalier-trial/1", "config": "x", "data": OWNER.data, "trial": record(0)}),
            "another config",
        ),
        (
            json.dumps({"format": "espalier-trial/1", "config": OWNER.config, "data": "x", "trial": record(0)}),
            "another data",
        ),
        (
            json.dumps({"format": "espalier-trial/1", "config": OWNER.config, "data": OWNER.data, "trial": record(1)}),
            "of trial 1",
        ),
        ('{"format": "espalier-tr', "Unterminated"),
        ("[]", "no record"),
    ],
    ids=["config", "data", "number", "torn", "other"],
)
def test_a_foreign_record_is_ignored_said_and_written_over(
    tmp_path: Path, content: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "00000.json").write_text(content)
    records = Records(FolderStore(tmp_path), OWNER)
    assert (records.refresh(), len(records)) == (0, 0)
    (event,) = jobs.events(capsys.readouterr().out)
    assert (event["event"], event["key"]) == ("trial-record-ignored", "trials/00000.json")
    assert why in event["why"]
    records.keep(record(0, objective=2.0))
    again = Records(FolderStore(tmp_path), OWNER)
    again.refresh()
    assert again.sorted() == [record(0, objective=2.0)]


# --- rounds -----------------------------------------------------------------------------------------------------------
def test_rounds_of_each_method() -> None:
    assert rounds.sizes(search(trials=7, parallelism=3)) == (7,)
    assert rounds.sizes(search(method="grid", trials=9, parallelism=3)) == (9,)
    assert rounds.sizes(search(method="bayesian", trials=17, parallelism=3)) == (10, 3, 3, 1)
    assert rounds.sizes(search(method="bayesian", trials=12)) == (10, 1, 1)
    assert rounds.sizes(search(method="bayesian", trials=4, parallelism=9)) == (4,)
    assert rounds.sizes(search(method="halving", trials=20)) == (20, 6, 2)


def surrogate(values: dict[str, Any]) -> float:
    return abs(float(values["regularizers.l2.strength"]) - 1e-3)


def test_a_bayesian_round_tries_different_values_and_follows_from_the_records() -> None:
    asked = search(method="bayesian", trials=22, parallelism=4)
    done = [record(n, params=(v := proposals.propose(asked, 1, [{}] * n)), objective=surrogate(v)) for n in range(10)]
    first = rounds.ask(asked, 1, 1, done)
    assert [each.number for each in first] == [10, 11, 12, 13]
    assert len({each.values["regularizers.l2.strength"] for each in first}) == 4
    assert rounds.ask(asked, 1, 1, json.loads(json.dumps(done))) == first
    assert rounds.ask(asked, 2, 1, done) != first
    alone = asked.model_copy(update={"parallelism": 1})
    assert rounds.ask(alone, 1, 1, done)[0].values == proposals.propose(alone, 1, done) == first[0].values


# --- waiting ----------------------------------------------------------------------------------------------------------
class Time:
    """A clock that moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now, self.slept = 100.0, list[float]()

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)

    def pace(self, **changes: float) -> Pace:
        return Pace(self.sleep, lambda: self.now, **changes)


def test_waiting_ends_when_the_others_are_done(tmp_path: Path) -> None:
    time, mine, theirs = Time(), *(Records(FolderStore(tmp_path), OWNER) for _ in range(2))
    looks = []

    def sleep(seconds: float) -> None:
        time.sleep(seconds)
        if len(time.slept) in {3, 40}:
            theirs.keep(record(len(looks)))

    team = Team(0, 2, Pace(sleep, lambda: time.now))
    team.await_([0, 1], mine, Preemption(), lambda: looks.append(len(mine)))
    assert looks == [1, 2]
    assert time.slept[0] == 0.2
    assert max(time.slept) <= 2.0


def test_waiting_in_vain_ends_with_a_reason(tmp_path: Path) -> None:
    time, records = Time(), Records(FolderStore(tmp_path), OWNER)
    records.keep(record(0, seconds=5.0))
    team = Team(0, 2, time.pace(patience=30.0, trials=10.0))
    with pytest.raises(InfrastructureError, match=r"trials 1, 2, 3, 4 … belong to other workers.* 5\d s"):
        team.await_(range(6), records, Preemption(), lambda: None)
    assert 150.0 < time.now < 155.0  # ten of the longest trial, more than the 30 s


def test_sigterm_while_waiting_is_a_preemption(tmp_path: Path) -> None:
    time, preemption = Time(), Preemption()

    def sleep(_: float) -> None:
        preemption.request()

    team = Team(1, 2, Pace(sleep, lambda: time.now))
    with pytest.raises(PreemptedError, match="trials 3"):
        team.await_([3], Records(FolderStore(tmp_path), OWNER), preemption, lambda: None)


# --- one search, several workers ----------------------------------------------------------------------------------------
def linear(**changes: Any) -> TrainingJob:
    return jobs.parsed(engine=LINEAR, regularizers={"l2": {"strength": 1e-3}}, search=searching(**changes))


def ran(log: str) -> list[int]:
    return [event["number"] for event in jobs.events(log) if event["event"] == "trial"]


@pytest.mark.parametrize(
    "changes",
    [
        {"trials": 7, "parallelism": 3},
        {"method": "bayesian", "trials": 15, "parallelism": 2},
        {"method": "grid", "trials": 4, "parallelism": 3, "folds": 3},
        {"trials": 2, "parallelism": 4},
    ],
    ids=["random", "bayesian", "grid-in-folds", "more-workers-than-trials"],
)
def test_workers_find_what_one_process_finds(
    tmp_path: Path, changes: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    job = linear(**changes)
    alone, shared = jobs.stage(tmp_path / "alone"), jobs.stage(tmp_path / "shared")
    assert Turns(alone, job).alone().exit_code == 0
    in_turn = ran(capsys.readouterr().out)
    turns = Turns(shared, job)
    result = turns.run()
    assert result.exit_code == 0
    assert outcome(shared) == outcome(alone)
    each_once = ran(capsys.readouterr().out)
    assert sorted(each_once) == in_turn == list(range(len(in_turn)))  # though workers were sent away at each wait
    assert all(helper.exit_code == 0 and helper.digest is None for helper in turns.helped.values())
    assert (
        shared / "models/vision/tiny/.checkpoints/v1/trials/00000.json"
    ).exists()  # the operator removes them with the Job
    assert not list((alone / "models/vision/tiny/.checkpoints/v1").rglob("*.json"))


def test_too_many_failures_end_every_worker(tmp_path: Path) -> None:
    space = {
        "regularizers.classRebalancing.method": {"categories": ["oversample", "inverse"]}
    }  # the first is refused there
    job = linear(space=space, method="grid", trials=2, parallelism=2)
    turns = Turns(jobs.stage(tmp_path), job)
    assert run(job, turns.world(1)).exit_code == 0  # its own trial is good, and it waits for nobody
    for index in (0, 1):
        with pytest.raises(InvalidConfigError, match="1 of 2 trials failed and maxFailed is 0; trial 0"):
            run(job, turns.world(index))


def test_a_late_worker_leaves_when_the_version_is_there(tmp_path: Path) -> None:
    job = linear(parallelism=2)
    turns = Turns(jobs.stage(tmp_path), job)
    result = turns.run()
    late = run(job, turns.world(1))
    assert (late.exit_code, late.digest) == (0, result.digest)
    assert late.search == result.search


# --- what parallelism decides -------------------------------------------------------------------------------------------
def spec(**changes: Any) -> RegularizedModelSpec:
    job = jobs.job()
    parts = {name: job[name] for name in ("task", "data", "engine", "regularizers")}
    return RegularizedModelSpec.model_validate(
        {**parts, "artifacts": {"uri": "s3://models/"}, "search": searching(**changes)}
    )


@pytest.mark.parametrize(
    "method, decides", [("random", False), ("grid", False), ("halving", False), ("bayesian", True)]
)
def test_parallelism_makes_a_version_only_where_it_decides(method: str, decides: bool) -> None:
    one, four = ({"method": method, "parallelism": count} for count in (1, 4))
    digest = "sha256:" + "0" * 64
    assert (spec_hash(spec(**one), digest) != spec_hash(spec(**four), digest)) == decides
    assert (config_digest(linear(**one)) != config_digest(linear(**four))) == decides


def test_a_path_is_not_shared() -> None:
    with pytest.raises(ValueError, match=r"method path goes from strong to weak.*use grid"):
        search({"regularizers.l2.strength": LOG}, method="path", parallelism=2)
