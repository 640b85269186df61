"""Two objectives: the Pareto set beside brute force and optuna, the winner, and what the version tells."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from espalier_api import artifact
from espalier_api.artifact import Manifest
from espalier_trainer.selection import pareto, proposals
from tests.unit.trainer import jobs
from tests.unit.trainer.searches import LOG, search, searching, told

if TYPE_CHECKING:
    from pathlib import Path

    from espalier_api.search import Search

points = st.lists(st.none() | st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=25)
goals = st.sampled_from(["minimize", "maximize"])


def asked(one: str = "minimize", other: str = "minimize", **changes: Any) -> Search:
    first, second = {"metric": "valLoss", "goal": one}, {"metric": "parameters", "goal": other}
    return search(objective=first, secondObjective=second, **changes)


def trials(found: list[tuple[int, int] | None]) -> list[dict[str, Any]]:
    return [
        {"number": n, "status": "Failed"}
        if p is None
        else {"number": n, "status": "Succeeded", "objective": p[0], "second": p[1]}
        for n, p in enumerate(found)
    ]


@given(points, goals, goals)
def test_the_pareto_set_is_what_nobody_beats(found: list[tuple[int, int] | None], one: str, other: str) -> None:
    """Against every pair, and against optuna's own."""
    signs = np.array([1 if goal == "minimize" else -1 for goal in (one, other)])
    values = {n: signs * np.array(p) for n, p in enumerate(found) if p is not None}
    brute = {n for n, p in values.items() if not any((q <= p).all() and (q < p).any() for q in values.values())}
    ours = pareto.front(trials(found), asked(one, other))
    assert {trial["number"] for trial in ours} == brute
    study = optuna.create_study(directions=[one, other])
    study.add_trials([optuna.trial.create_trial(values=list(map(float, p))) for p in found if p is not None])
    numbers = [n for n, p in enumerate(found) if p is not None]
    assert {numbers[trial.number] for trial in study.best_trials} == brute
    best = [float(signs[0]) * trial["objective"] for trial in ours]
    assert best == sorted(best)
    winner = pareto.best_of(trials(found), asked(one, other).objective, asked(one, other).second_objective)
    assert (winner or {}).get("number") == (ours[0]["number"] if ours else None)


def test_ties_in_the_first_are_decided_by_the_second_then_by_the_number() -> None:
    found = trials([(3, 1), (2, 9), (2, 4), (2, 4), (5, 0)])
    both = asked()
    assert (pareto.best_of(found, both.objective, both.second_objective) or {})["number"] == 2
    assert (pareto.best_of(found, both.objective) or {})["number"] == 1


def test_a_large_set_is_told_by_both_ends_and_points_between() -> None:
    numbers = [trial["number"] for trial in pareto.spread(trials([(n, -n) for n in range(100)]))]
    assert (len(numbers), numbers[0], numbers[-1]) == (16, 0, 99)
    assert set(np.diff(numbers)) <= {6, 7}


def _volume(method: str, seed: int) -> float:
    """Hypervolume below (30, 30) of 40 trials on two bowls over two strengths, whose minima differ."""
    space = {"regularizers.l2.strength": LOG, "regularizers.l1.strength": LOG}
    both, done = asked(space=space, method=method, trials=40), list[dict[str, Any]]()
    for number in range(40):
        values = proposals.propose(both, seed, done)
        l2, l1 = (np.log10(float(values[path])) for path in space)
        first, second = (l2 + 2) ** 2 + (l1 + 3) ** 2, (l2 + 4) ** 2 + (l1 + 5) ** 2
        done.append({"number": number, "params": values, "status": "Succeeded", "objective": first, "second": second})
    edge, volume = 30.0, 0.0
    for trial in pareto.front(done, both):
        volume += max(0.0, 30 - trial["objective"]) * max(0.0, edge - trial["second"])
        edge = min(edge, trial["second"])
    return volume


def test_the_bayesian_search_knows_both_objectives() -> None:
    pairs = [(_volume("bayesian", seed), _volume("random", seed)) for seed in range(5)]
    assert sum(bayesian > random for bayesian, random in pairs) >= 4


# --- whole jobs -------------------------------------------------------------------------------------------------------
@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TERMINATION_LOG", str(tmp_path / "term"))
    return jobs.stage(tmp_path)


def test_sizes_are_exact_and_the_set_reaches_manifest_and_file(folder: Path) -> None:
    space = {"engine.torch.epochs": {"choice": [2, 8]}, "regularizers.pruning.sparsity": {"choice": [0.2, 0.9]}}
    second = {"metric": "nonzeroParameters"}
    wanted = searching(space, method="grid", trials=4, secondObjective=second)
    blocks = {"pruning": {"sparsity": 0.2, "fineTuneEpochs": 1}}
    result = jobs.train(folder, search=wanted, regularizers=blocks)
    assert result.exit_code == 0, result.message
    found = told(folder)
    sparsity = [t["params"]["regularizers.pruning.sparsity"] for t in found["trials"]]
    weights, biases = 5 * 16 + 16 * 3, 16 + 3
    for share, trial in zip(sparsity, found["trials"], strict=True):
        kept = weights - round(share * weights)
        assert kept <= trial["second"] <= kept + biases  # a bias may be zero
    ours = [t["number"] for t in pareto.front(found["trials"], asked(method="grid"))]
    assert found["pareto"] == ours
    manifest = Manifest.model_validate_json((folder / jobs.VERSION / artifact.MANIFEST).read_bytes())
    assert manifest.search is not None
    assert [point.number for point in manifest.search.pareto] == ours
    assert (manifest.search.method, manifest.search.second_metric) == ("grid", "nonzeroParameters")
    assert manifest.search.params == found["best"]["params"]
    assert manifest.search.second == found["best"]["second"]
    assert "pictures/search.png" in manifest.files


@pytest.mark.parametrize(
    "engine, metric",
    [({"xgboost": {"rounds": 5}}, "artifactBytes"), ({"sklearn": {"estimator": "logisticRegression"}}, "parameters")],
    ids=["trees", "linear"],
)
def test_other_engines_have_sizes_too(folder: Path, engine: dict[str, Any], metric: str) -> None:
    wanted = searching(trials=2, secondObjective={"metric": metric})
    result = jobs.train(folder, search=wanted, engine=engine, regularizers={})
    assert result.exit_code == 0, result.message
    seconds = [trial["second"] for trial in told(folder)["trials"]]
    assert seconds == [5 * 3 + 3] * 2 if metric == "parameters" else all(500 < size < 50_000 for size in seconds)


def test_trees_have_no_parameters_to_count(folder: Path) -> None:
    wanted = searching(trials=1, secondObjective={"metric": "parameters"})
    result = jobs.train(folder, search=wanted, engine={"xgboost": {"rounds": 2}}, regularizers={})
    assert result.exit_code == 42
    assert "search.secondObjective.metric: parameters cannot be measured" in result.message


def test_the_termination_message_gives_up_the_set_first(folder: Path) -> None:
    space = {f"regularizers.l{n}.strength": LOG for n in (1, 2)}
    wanted = searching(space, trials=3, secondObjective={"metric": "artifactBytes"})
    result = jobs.train(folder, search=wanted)
    assert result.search is not None
    assert result.search.second_metric == "artifactBytes"
    long = result.model_copy(update={"classes": tuple(f"a-class-of-a-long-name-{n:04d}" * 4 for n in range(20))})
    cut = json.loads(long.to_termination_message())
    assert len(long.to_termination_message().encode()) <= 4096
    assert cut["search"]["best"] == result.search.best
    assert "params" not in cut["search"] or not cut["search"]["params"]
