"""Successive halving: who is promoted, what it costs, and whether it finds what the whole random search finds."""

from __future__ import annotations

import json
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_diabetes

from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.selection import halving, pareto, rounds
from tests.unit.trainer import jobs
from tests.unit.trainer.searches import LOG, search, searching, told

if TYPE_CHECKING:
    from pathlib import Path

    from espalier_api.search import Search

RATE = "engine.torch.optimizer.sgd.learningRate"
L2 = "regularizers.l2.strength"


@given(st.integers(2, 16), st.integers(1, 1000), st.floats(1e-4, 0.5))
def test_each_rung_keeps_the_floor_and_shares_grow_to_one(reduction: int, trials: int, minimum: float) -> None:
    minimum, trials = min(minimum, 1 / reduction), max(trials, reduction)
    plan = halving.rungs(search(method="halving", trials=trials, halving={"reduction": reduction, "minimum": minimum}))
    assert (plan[0].trials, plan[-1].share) == (trials, 1.0)
    assert len(plan) >= 2
    for below, above in pairwise(plan):
        assert above.trials == below.trials // reduction >= 1
        assert above.share == pytest.approx(below.share * reduction, rel=1e-12)
    assert plan[0].share >= minimum * (1 - 1e-6)
    assert plan[0].share / reduction < minimum or plan[-1].trials < reduction  # another rung would not fit


@given(st.lists(st.none() | st.integers(0, 5), min_size=1, max_size=30), st.integers(1, 10), st.booleans())
def test_the_best_are_promoted_and_failures_never(objectives: list[int | None], keep: int, most: bool) -> None:
    rung = [
        {"number": n, "status": "Failed" if o is None else "Succeeded", "objective": o}
        for n, o in enumerate(objectives)
    ]
    sign = -1 if most else 1
    expected = sorted((sign * o, n) for n, o in enumerate(objectives) if o is not None)[:keep]
    found = halving.promoted(rung, keep, "maximize" if most else "minimize")
    assert [trial["number"] for trial in found] == sorted(n for _, n in expected)


# --- a surrogate whose learning curves are exact ------------------------------------------------------------------------
@cache
def _diabetes() -> tuple[np.ndarray, ...]:
    x, y = load_diabetes(return_X_y=True)
    x, y = x / x.std(0), (y - y.mean()) / y.std()
    return x[:300], y[:300], x[300:], y[300:]


def descended(values: dict[str, Any], steps: int) -> float:
    """Validation loss of ridge regression on scikit-learn's diabetes rows after so many steps of gradient descent from zero, in closed
    form: w_t = (1 - (1 - rate H)^t) H^-1 b in the eigenbasis of H. Curves of different rates cross.
    """
    x, y, held, target = _diabetes()
    values_of_h, basis = np.linalg.eigh(x.T @ x / len(y) + float(values[L2]) * np.eye(x.shape[1]))
    moved = 1 - (1 - float(values[RATE]) * values_of_h) ** steps
    w = basis @ (moved / values_of_h * (basis.T @ (x.T @ y / len(y))))
    return float(((held @ w - target) ** 2).mean() / 2)


def surrogate(asked: Search, seed: int, whole: int) -> tuple[dict[str, Any], float, list[int]]:
    """(best trial, whole fits spent, trials of each round)."""
    done: list[dict[str, Any]] = []
    spent, ran, last = 0.0, [], []
    for index in range(len(rounds.sizes(asked))):
        last = rounds.ask(asked, seed, index, done)
        for each in last:
            told = {"number": each.number, "params": each.values, "status": "Succeeded", "rung": each.rung}
            objective = descended(each.values, max(1, round(each.share * whole)))
            done.append({**told, "configuration": each.configuration, "objective": objective})
        spent += sum(each.share for each in last)
        ran.append(len(last))
    best = pareto.best_of([t for t in done if t["number"] in {each.number for each in last}], asked.objective)
    assert best is not None
    return dict(best), spent, ran


def rates(least: float) -> dict[str, Any]:
    return {
        RATE: {"logUniform": {"min": least, "max": 0.2}},
        L2: {"logUniform": {"min": 1e-4, "max": 10}},
    }


def compared(space: dict[str, Any], whole: int) -> tuple[float, list[float], list[float]]:
    """(share of 40 seeds with the whole search's winner; excess loss over it of halving, of a random search that costs the same)."""
    same, excess, equal_cost = 0, [], []
    for seed in range(40):
        full, cost, _ = surrogate(search(space, trials=27), seed, whole)
        cut, spent, ran = surrogate(search(space, method="halving", trials=27), seed, whole)
        few, as_much, _ = surrogate(search(space, trials=9), seed, whole)
        assert (cost, as_much, ran) == (27.0, 9.0, [27, 9, 3])
        assert spent == pytest.approx(as_much)
        same += cut["params"] == full["params"]
        excess.append(cut["objective"] / full["objective"] - 1)
        equal_cost.append(few["objective"] / full["objective"] - 1)
    return same / 40, excess, equal_cost


def test_halving_finds_the_winner_of_the_whole_search_for_a_third_of_its_cost() -> None:
    """Where a ninth of a fit already tells good from bad: the same winner in most seeds, and better than as dear a random search."""
    same, excess, equal_cost = compared(rates(0.01), 810)
    assert same >= 0.8
    assert max(excess) <= 0.01
    assert np.mean(excess) < np.mean(equal_cost) / 2


def test_where_short_fits_mislead_little_is_lost() -> None:
    """Rates so small that a whole fit does not converge: early ranks are those of the rate. Another winner, but hardly a worse one."""
    _, excess, _ = compared(rates(0.001), 81)
    assert max(excess) <= 0.02


# --- whole jobs -------------------------------------------------------------------------------------------------------
@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TERMINATION_LOG", str(tmp_path / "term"))
    return jobs.stage(tmp_path)


def network(epochs: int) -> dict[str, Any]:
    return {
        "torch": {
            "architecture": {"mlp": {"hidden": [16]}},
            "optimizer": {"adamw": {"learningRate": 0.02}},
            "epochs": epochs,
            "batchSize": 32,
        }
    }


def test_a_trial_of_the_last_rung_is_the_random_searchs_trial(folder: Path, tmp_path: Path) -> None:
    space = {"engine.torch.optimizer.adamw.learningRate": {"logUniform": {"min": 1e-4, "max": 0.1}}, L2: LOG}
    asked = searching(space, method="halving", trials=9, halving={"minimum": 0.1})
    result = jobs.train(folder, search=asked, engine=network(9), regularizers={})
    assert result.exit_code == 0, result.message
    found = told(folder)
    assert [(t["rung"], t["resource"]) for t in found["trials"]] == [(0, 1)] * 9 + [(1, 3)] * 3 + [(2, 9)]
    assert found["budget"] == {
        "unit": "epochs",
        "spent": 27,
        "wholeFits": pytest.approx(3.0),
        "wholeFitsOfRandomSearch": 9,
        "rungs": [
            {"share": pytest.approx(1 / 9), "trials": 9, "promoted": 3},
            {"share": pytest.approx(1 / 3), "trials": 3, "promoted": 1},
            {"share": 1.0, "trials": 1, "promoted": 0},
        ],
    }
    (last,) = (t for t in found["trials"] if t["rung"] == 2)
    assert found["best"]["number"] == last["number"]
    whole = jobs.stage(tmp_path / "whole")
    jobs.main(jobs.arguments(whole, jobs.job(search=searching(space, trials=9), engine=network(9), regularizers={})))
    same = told(whole)["trials"][last["configuration"]]
    assert (same["params"], same["objective"]) == (last["params"], last["objective"])  # bit for bit
    assert last["objective"] >= told(whole)["best"]["objective"]


@pytest.mark.parametrize(
    "engine, unit, expected",
    [
        ({"xgboost": {"rounds": 12}}, "rounds", [4, 12]),
        ({"sklearn": {"estimator": "histGradientBoosting", "params": {"max_iter": 6}}}, "rounds", [2, 6]),
    ],
    ids=["xgboost", "histGradientBoosting"],
)
def test_trees_are_dealt_out_too(folder: Path, engine: dict[str, Any], unit: str, expected: list[int]) -> None:
    asked = searching(method="halving", trials=3, halving={"minimum": 0.33})
    result = jobs.train(folder, search=asked, engine=engine, regularizers={})
    assert result.exit_code == 0, result.message
    found = told(folder)
    assert (found["budget"]["unit"], sorted({t["resource"] for t in found["trials"]})) == (unit, expected)


def test_an_engine_without_epochs_is_refused_with_a_remedy(folder: Path) -> None:
    asked = searching(method="halving")
    result = jobs.train(folder, search=asked, engine={"sklearn": {"estimator": "logisticRegression"}}, regularizers={})
    assert result.exit_code == 42
    assert "neither epochs nor rounds" in result.message
    assert "use method random" in result.message


def test_a_rung_that_fails_says_what_to_raise(folder: Path) -> None:
    asked = searching(method="halving", trials=3, halving={"minimum": 0.1})
    blocks = {"pruning": {"sparsity": 0.5, "fineTuneEpochs": 4}}  # longer than a short fit
    result = jobs.train(folder, search=asked, engine=network(9), regularizers=blocks)
    assert result.exit_code == 42
    assert "raise search.halving.minimum" in result.message


def test_the_budget_counts_what_failed() -> None:
    asked = search(method="halving", trials=3, halving={"minimum": 0.33}, maxFailed=2)
    trials = [
        {"number": 0, "rung": 0, "resource": 3, "status": "Succeeded"},
        {"number": 1, "rung": 0, "resource": 3, "status": "Failed"},
        {"number": 2, "rung": 0, "status": "Failed"},
        {"number": 3, "rung": 1, "resource": 9, "status": "Succeeded"},
    ]
    engine = jobs.parsed(engine=network(9)).engine
    assert halving.budget(asked, engine, trials)["spent"] == 15
    with pytest.raises(InvalidConfigError, match="ridge"):
        halving.unit(jobs.parsed(engine={"sklearn": {"estimator": "ridge"}}).engine)
    assert json.loads(json.dumps(halving.budget(asked, engine, trials)))["rungs"][0]["promoted"] == 1
