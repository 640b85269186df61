"""Searches: what is proposed, what a trial becomes, which one wins, and that a killed search ends the same."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy import stats

from espalier_api import artifact
from espalier_trainer.errors import InvalidConfigError, PreemptedError
from espalier_trainer.progress import Board
from espalier_trainer.run import World, run
from espalier_trainer.selection import proposals, space
from espalier_trainer.selection.pareto import best_of
from espalier_trainer.session import Preemption
from espalier_trainer.storage import FolderStore
from tests.unit.trainer import jobs
from tests.unit.trainer.searches import LOG, search, searching, told

if TYPE_CHECKING:
    from pathlib import Path

CHOICE: dict[str, Any] = {"choice": [0, 1e-3, 1e-1]}


def records(objectives: list[float | None]) -> list[dict[str, Any]]:
    return [
        {"number": i, "params": {}, "status": "Failed" if o is None else "Succeeded", "objective": o}
        for i, o in enumerate(objectives)
    ]


# --- proposals --------------------------------------------------------------------------------------------------------
def test_random_values_are_even_on_their_scale() -> None:
    asked = search({"regularizers.l2.strength": LOG, "regularizers.dropout.p": {"uniform": {"min": 0.1, "max": 0.5}}})
    drawn = [proposals.propose(asked, 7, [{}] * i) for i in range(3000)]
    logs = [(math.log10(float(v["regularizers.l2.strength"])) + 6) / 5 for v in drawn]
    plain = [(float(v["regularizers.dropout.p"]) - 0.1) / 0.4 for v in drawn]
    for shares in (logs, plain):
        assert stats.kstest(shares, "uniform").pvalue > 0.01
    assert abs(np.corrcoef(logs, plain)[0, 1]) < 0.1


def test_whole_numbers_and_lists_are_all_reached() -> None:
    asked = search(
        {"engine.torch.epochs": {"intUniform": {"min": 2, "max": 4}}, "regularizers.l2.strength": CHOICE}, trials=60
    )
    drawn = [proposals.propose(asked, 1, records([0.0] * i)) for i in range(60)]
    assert {v["engine.torch.epochs"] for v in drawn} == {2.0, 3.0, 4.0}
    assert {v["regularizers.l2.strength"] for v in drawn} == {0.0, 1e-3, 1e-1}


def test_a_grid_has_every_combination_once() -> None:
    asked = search(
        {"regularizers.l2.strength": LOG, "regularizers.dropout.p": {"choice": [0, 0.2]}}, method="grid", trials=9
    )
    assert proposals.count(asked) == 8
    points = [proposals.propose(asked, 0, records([0.0] * i)) for i in range(8)]
    assert len({tuple(p.values()) for p in points}) == 8
    strengths = sorted({float(p["regularizers.l2.strength"]) for p in points})
    np.testing.assert_allclose(strengths, np.geomspace(1e-6, 1e-1, 4), rtol=1e-12)
    with pytest.raises(InvalidConfigError, match=r"grid has at least 4 points and trials is 3"):
        proposals.count(
            search({"regularizers.l2.strength": LOG, "regularizers.l1.strength": LOG}, method="grid", trials=3)
        )


def test_a_path_goes_from_strong_to_weak_along_one_number() -> None:
    asked = search(method="path", trials=6)
    values = [float(proposals.propose(asked, 0, records([0.0] * i))["regularizers.l2.strength"]) for i in range(6)]
    np.testing.assert_allclose(values, np.geomspace(1e-1, 1e-6, 6), rtol=1e-12)
    with pytest.raises(InvalidConfigError, match="one numeric dimension"):
        proposals.count(search({"regularizers.l2.strength": LOG, "regularizers.l1.strength": LOG}, method="path"))


def surrogate(values: dict[str, float | str]) -> float:
    """A bowl over two strengths and a rate, in decades; the minimum is at 1e-3, 1e-4, 0.3."""
    l2, l1, p = (float(values[f"regularizers.{name}"]) for name in ("l2.strength", "l1.strength", "dropout.p"))
    return (math.log10(l2) + 3) ** 2 + (math.log10(l1) + 4) ** 2 + 20 * (p - 0.3) ** 2


def minimized(method: str, seed: int, trials: int = 40) -> float:
    asked = search(
        {
            "regularizers.l2.strength": LOG,
            "regularizers.l1.strength": LOG,
            "regularizers.dropout.p": {"uniform": {"min": 0.0, "max": 0.9}},
        },
        method=method,
        trials=trials,
    )
    done: list[dict[str, Any]] = []
    for number in range(trials):
        values = proposals.propose(asked, seed, done)
        done.append({"number": number, "params": values, "status": "Succeeded", "objective": surrogate(values)})
    return float(min(trial["objective"] for trial in done))


def test_bayesian_search_beats_random_at_equal_trials() -> None:
    pairs = [(minimized("bayesian", seed), minimized("random", seed)) for seed in range(6)]
    won = sum(bayesian < random for bayesian, random in pairs)
    assert won >= 5
    assert np.median([bayesian / random for bayesian, random in pairs]) <= 0.5


def test_bayesian_proposals_are_a_function_of_the_records() -> None:
    asked = search(method="bayesian", trials=20)
    done: list[dict[str, Any]] = []
    for number in range(14):
        values = proposals.propose(asked, 3, done)
        done.append({"number": number, "params": values, "status": "Succeeded", "objective": float(number % 5)})
    again = json.loads(json.dumps(done))  # as a checkpoint brings them back
    assert proposals.propose(asked, 3, done) == proposals.propose(asked, 3, again)
    assert proposals.propose(asked, 3, done) != proposals.propose(asked, 4, done)


def test_the_best_is_the_earliest_of_equals_and_never_a_failure() -> None:
    least = search().objective
    most = least.model_copy(update={"goal": "maximize"})
    trials = records([None, 2.0, 1.0, 3.0, 1.0, 3.0])
    assert [(best_of(trials, asked) or {})["number"] for asked in (least, most)] == [2, 3]
    assert best_of(records([None, None]), least) is None


# --- what values become -----------------------------------------------------------------------------------------------
def test_values_become_a_job() -> None:
    job = jobs.parsed(regularizers={"l2": {"strength": 1e-3}})
    found = space.candidate(
        job,
        {
            "regularizers.dropout.p": 0.4,
            "regularizers.l1.strength": 0.0,
            "engine.torch.optimizer.adamw.learningRate": 0.5,
            "engine.torch.epochs": 3.0,
            "regularizers.calibration": "true",
            "regularizers.labelSmoothing": "false",
        },
    )
    blocks, torch = found.regularizers, found.engine.torch
    assert blocks.dropout is not None
    assert torch is not None
    assert torch.optimizer.adamw is not None
    assert (blocks.dropout.p, torch.optimizer.adamw.learning_rate, torch.epochs) == (0.4, 0.5, 3)
    assert blocks.calibration is not None
    assert {name for name, _ in blocks.declared()} == {"l2", "dropout", "calibration"} | (
        {"l1"} if blocks.l1 is not None and blocks.l1.strength == 0 else set()
    )


def test_zero_below_the_range_is_off() -> None:
    job = jobs.parsed(regularizers={"earlyStopping": {}, "gradientClipping": {"maxNorm": 1.0}})
    found = space.candidate(job, {"regularizers.gradientClipping.maxNorm": 0.0})
    assert found.regularizers.gradient_clipping is None
    assert found.regularizers.early_stopping is not None
    with pytest.raises(InvalidConfigError, match="epochs"):
        space.candidate(job, {"engine.torch.epochs": 0.0})


@pytest.mark.parametrize(
    "path", ["regularizers.l3.strength", "regularizers.l2.weight", "engine.torch.optimizer.lion.learningRate"]
)
def test_a_path_to_nowhere_is_refused(path: str) -> None:
    with pytest.raises(InvalidConfigError, match=path):
        space.check_paths(search({path: LOG}))


def test_paths_that_exist_are_known() -> None:
    space.check_paths(
        search(
            {
                "regularizers.l2.schedule.from": CHOICE,
                "engine.sklearn.params.max_depth": CHOICE,
                "engine.torch.optimizer.adamw.learningRate": LOG,
                "regularizers.calibration": {"categories": ["true", "false"]},
            }
        )
    )


# --- whole jobs -------------------------------------------------------------------------------------------------------
@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TERMINATION_LOG", str(tmp_path / "term"))
    return jobs.stage(tmp_path)


@pytest.mark.parametrize("method, folds", [("random", 1), ("bayesian", 1), ("grid", 3), ("path", 1)])
def test_the_winner_is_trained_and_published(folder: Path, method: str, folds: int) -> None:
    asked = searching({"regularizers.l2.strength": LOG}, method=method, folds=folds, trials=3)
    result = jobs.train(folder, search=asked, regularizers={"calibration": {}})
    assert result.exit_code == 0, result.message
    found = told(folder)
    assert [trial["status"] for trial in found["trials"]] == ["Succeeded"] * 3
    assert found["best"]["objective"] == min(trial["objective"] for trial in found["trials"])
    resolved = json.loads((folder / jobs.VERSION / artifact.REGULARIZERS).read_bytes())["resolved"]
    assert resolved["l2"]["strength"] == found["best"]["params"]["regularizers.l2.strength"]
    assert result.search is not None
    assert (result.search.trials, result.search.failed, result.search.metric) == (3, 0, "valLoss")
    assert result.search.best == found["best"]["objective"]
    if folds > 1:
        assert all(len(trial["folds"]) == folds for trial in found["trials"])


def test_failed_trials_are_counted_with_their_reasons(folder: Path) -> None:
    choices = {
        "engine.torch.optimizer.adamw.learningRate": {"choice": [1e-3, 1e-2]},
        "regularizers.robustLoss": {"categories": ["false", "true"]},
    }
    asked = searching(choices, method="grid", trials=4, maxFailed=2)
    result = jobs.train(folder, search=asked, regularizers={"labelSmoothing": {}})
    assert result.exit_code == 0, result.message
    failed = [trial for trial in told(folder)["trials"] if trial["status"] == "Failed"]
    assert len(failed) == 2
    assert all("R13" in trial["reason"] and trial["exitCode"] == 42 for trial in failed)
    assert result.search is not None
    assert result.search.failed == 2


def test_too_many_failures_end_the_search(folder: Path) -> None:
    asked = searching({"regularizers.robustLoss": {"categories": ["true"]}}, method="grid", trials=1)
    result = jobs.train(folder, search=asked, regularizers={"labelSmoothing": {}})
    assert result.exit_code == 42
    assert "1 of 1 trials failed and maxFailed is 0" in result.message
    assert "R13" in result.message


class Tiring(Preemption):
    """SIGTERM at the n-th question whether it has come: anywhere in a run."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.left = after

    @property
    def requested(self) -> bool:
        self.left -= 1
        return self.left < 0


def world(folder: Path, preemption: Preemption) -> World:
    job = jobs.parsed()
    return World(lambda uri, _: FolderStore(folder / uri.removeprefix("s3://")), Board(job), preemption)


def kept(folder: Path) -> tuple[list[dict[str, Any]], bytes]:
    trials = [{k: v for k, v in trial.items() if k != "seconds"} for trial in told(folder)["trials"]]
    return trials, (folder / jobs.VERSION / artifact.MODEL_WEIGHTS).read_bytes()


def test_a_killed_search_ends_with_the_same_winner_bit_for_bit(tmp_path: Path) -> None:
    job = jobs.parsed(search=searching(method="bayesian", trials=13), regularizers={"dropout": {"p": 0.2}})
    whole, killed = jobs.stage(tmp_path / "whole"), jobs.stage(tmp_path / "killed")
    run(job, world(whole, Preemption()))
    ends = 0
    for after in (60, 90, 200, 150, 10**9):  # in trials, and in the final fit
        try:
            run(job, world(killed, Tiring(after)))
        except PreemptedError:
            ends += 1
            assert not (killed / jobs.VERSION / artifact.MANIFEST).exists()
        else:
            break
    assert ends >= 2
    assert kept(killed) == kept(whole)


def test_progress_tells_how_far_a_search_is() -> None:
    board = Board(jobs.parsed())
    board.phase("Searching")
    board.trials(3, 12, 0.25)
    shown = json.loads(board.as_json())
    assert (shown["phase"], shown["trials"]) == ("Searching", {"done": 3, "total": 12, "best": 0.25})
    assert all(a <= b for a, b in pairwise([shown["trials"]["done"], shown["trials"]["total"]]))


def test_a_killed_ensemble_of_paths_ends_in_the_same_bits(tmp_path: Path) -> None:
    blocks = {
        "ensemble": {"members": 2},
        "regularizationPath": {"parameter": "l1.strength", "from": 1e-4, "to": 1e-2, "points": 2},
        "crossValidation": {"folds": 2},
    }
    job = jobs.parsed(regularizers=blocks)
    places = [jobs.stage(tmp_path / name) for name in ("whole", "killed")]
    run(job, world(places[0], Preemption()))
    ends = 0
    for after in (40, 150, 160, 10**9):  # in a fold, and in members
        try:
            run(job, world(places[1], Tiring(after)))
        except PreemptedError:
            ends += 1
    assert ends >= 2
    weights = [(place / jobs.VERSION / artifact.MODEL_WEIGHTS).read_bytes() for place in places]
    assert weights[0] == weights[1]
