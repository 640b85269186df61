"""Folds, cross-validation, ensembles and paths beside scikit-learn, scipy and Jensen's inequality."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy.special import log_softmax, logsumexp
from sklearn.linear_model import LogisticRegression, enet_path, lasso_path
from sklearn.model_selection import StratifiedKFold

from espalier_api import artifact
from espalier_trainer.data.dataset import Dataset
from espalier_trainer.engines import FitData, Part
from espalier_trainer.errors import DataProblemError, InvalidConfigError
from espalier_trainer.evaluation.metrics import row_losses
from espalier_trainer.selection import build, ensemble
from espalier_trainer.selection.folds import deal
from espalier_trainer.selection.regularization_path import FittedPath, Point, choose
from espalier_trainer.session import Alone
from tests.unit.trainer import jobs
from tests.unit.trainer.problems import Problem, classification, regression

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Prove

LINEAR: dict[str, Any] = {
    "torch": {
        "architecture": {"mlp": {"hidden": []}},
        "optimizer": {"sgd": {"learningRate": 0.1, "momentum": 0.0}},
        "epochs": 500,
        "batchSize": 4096,
    }
}
SMALL: dict[str, Any] = {
    "torch": {
        "architecture": {"mlp": {"hidden": [16]}},
        "optimizer": {"adamw": {"learningRate": 0.02}},
        "epochs": 30,
        "batchSize": 32,
    }
}
KINDS = ("stratified", "random", "group", "time")


def rows(n: int = 203, classes: int = 3, seed: int = 0) -> Dataset:
    draw = np.random.default_rng(seed)
    return Dataset(
        ("f",),
        tuple("abc"[:classes]),
        draw.normal(size=(n, 1)).astype(np.float32),
        draw.choice(classes, n, p=[0.6, 0.3, 0.1]),
        groups={"g": draw.integers(0, 29, n).astype(str)},
        time=draw.integers(0, 90, n),
    )


def fit_data(train: Problem, held: Problem) -> FitData:
    parts = [Part(p.x.astype(np.float32), p.y) for p in (train, held)]
    names = tuple(f"f{i}" for i in range(train.x.shape[1]))
    return FitData(*parts, train.classes, names, frozenset({"train", "validation", "test"}))


def fitted(engine: dict[str, Any], blocks: dict[str, Any], data: FitData, seed: int = 1) -> Any:
    task = "classification" if data.classes else "regression"
    made = build.engine(jobs.parsed(engine=engine, regularizers=blocks, task={"type": task}))
    made.plan(data)
    return made.fit(data, seed, Alone())


# --- folds ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [2, 5, 10])
def test_folds_are_disjoint_complete_and_the_same_again(kind: str, count: int) -> None:
    data = rows()
    pairs = deal(data, kind, count, 3)
    assert len(pairs) == count
    judged = np.concatenate([held for _, held in pairs])
    assert len(set(judged.tolist())) == len(judged)
    for fits, held in pairs:
        assert not set(fits.tolist()) & set(held.tolist())
        if kind != "time":
            assert len(fits) + len(held) == len(data)
    if kind != "time":
        assert sorted(judged.tolist()) == list(range(len(data)))
    again, other = deal(data, kind, count, 3), deal(data, kind, count, 4)
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(pairs, again, strict=True))
    if kind in {"stratified", "random"}:
        assert not all(np.array_equal(a[1], b[1]) for a, b in zip(pairs, other, strict=True))


@pytest.mark.parametrize("count", [2, 5, 10])
def test_stratified_folds_hold_the_class_counts_of_scikit_learns(count: int) -> None:
    data = rows()
    ours = [np.bincount(data.y[held], minlength=3) for _, held in deal(data, "stratified", count, 0)]
    theirs = [np.bincount(data.y[held], minlength=3) for _, held in StratifiedKFold(count).split(data.x, data.y)]
    for column in range(3):
        assert sorted(counts[column] for counts in ours) == sorted(counts[column] for counts in theirs)


def test_groups_are_never_split_and_time_never_runs_backwards() -> None:
    data = rows()
    for fits, held in deal(data, "group", 5, 0):
        assert not set(data.groups["g"][fits]) & set(data.groups["g"][held])
    assert data.time is not None
    for fits, held in deal(data, "time", 5, 0):
        assert data.time[fits].max() < data.time[held].min()


def test_folds_that_cannot_be_are_refused() -> None:
    data = rows(40)
    rare = Dataset(data.features, data.classes, data.x, np.where(np.arange(40) == 7, 2, np.arange(40) % 2))
    with pytest.raises(DataProblemError, match="leaves no row of class 'c' to fit"):
        deal(rare, "stratified", 5, 0)
    single = Dataset(data.features, data.classes, data.x, data.y, groups={"g": np.full(40, "one")})
    with pytest.raises(DataProblemError, match="would be empty"):
        deal(single, "group", 2, 0)


# --- ensemble ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("diversity", ["seed", "bagging"])
@pytest.mark.parametrize(
    "engine",
    [SMALL, {"sklearn": {"estimator": "randomForest", "params": {"n_estimators": 5}}}],
    ids=["torch", "sklearn"],
)
def test_an_ensemble_is_never_worse_than_its_mean_member(diversity: str, engine: dict[str, Any], proof: Prove) -> None:
    problem = classification(400)
    train, test = (Problem(problem.x[s], problem.y[s], 3) for s in (slice(0, 120), slice(120, 400)))
    found = fitted(engine, {"ensemble": {"members": 4, "diversity": diversity}}, fit_data(train, test))
    x = test.x.astype(np.float32)
    members = found.member_scores(x)
    assert members.shape == (4, 280, 3)
    mean = logsumexp(log_softmax(members, axis=2), axis=0) - np.log(4)
    np.testing.assert_allclose(found.scores(x), mean, atol=1e-10)
    each = [-log_softmax(one, axis=1)[np.arange(280), test.y].mean() for one in members]
    whole = float(row_losses(found.scores(x), test.y).mean())
    proof(
        "ensemble", "Jensen: NLL of the mean minus mean NLL of the members", whole - float(np.mean(each)), at_most=0.0
    )
    told = ensemble.losses(found, x, test.y)
    assert told[:2] == pytest.approx((whole, float(np.mean(each))), abs=1e-12)
    assert told[2] > 0


def test_values_are_averaged() -> None:
    problem = regression(200)
    data = fit_data(problem, problem)
    found = fitted(
        {"sklearn": {"estimator": "ridge"}}, {"l2": {}, "ensemble": {"members": 3, "diversity": "bagging"}}, data
    )
    members = found.member_scores(data.train.x)
    np.testing.assert_allclose(found.scores(data.train.x), members.mean(axis=0), atol=1e-12)
    assert members.std(axis=0).max() > 0


def test_stacking_weights_are_logistic_regression(proof: Prove) -> None:
    draw = np.random.default_rng(0)
    y = draw.integers(0, 2, 500)
    z = np.stack([scale * (2 * y - 1) + draw.normal(size=500) for scale in (0.5, 1.0)])
    scores = np.stack([np.stack([np.zeros(500), one], axis=1) for one in z])
    ours = ensemble.stacked(scores, y)
    theirs = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-12, max_iter=10_000).fit(z.T, y).coef_[0]
    proof(
        "ensemble",
        "stacking: sklearn LogisticRegression on log odds, coefficients",
        np.abs(ours - theirs).max(),
        at_most=1e-5,
    )
    values = np.stack([draw.normal(size=(300, 1)) for _ in range(3)])
    target = values[:, :, 0].T @ [0.2, 0.7, 0.0]
    np.testing.assert_allclose(ensemble.stacked(values, target), [0.2, 0.7, 0.0], atol=1e-12)


def test_what_several_fits_have_no_meaning_for_is_refused() -> None:
    problem = classification(90)
    for blocks, words in (
        ({"ensemble": {}, "mcDropout": {}, "dropout": {}}, "mcDropout"),
        ({"ensemble": {"diversity": "stacking"}}, "validation part"),
    ):
        data = fit_data(problem, problem)
        data = FitData(data.train, None, 3, data.features, frozenset({"train", "test"}))
        made = build.engine(jobs.parsed(engine=SMALL, regularizers=blocks))
        with pytest.raises(InvalidConfigError, match=words):
            made.plan(data)


# --- path -------------------------------------------------------------------------------------------------------------
def orthonormal(n: int = 256, seed: int = 0) -> tuple[Problem, np.ndarray]:
    """x'x / n = 1, so that the lasso is a soft threshold of x'y / n."""
    draw = np.random.default_rng(seed)
    raw = draw.normal(size=(n, 8))
    x = np.linalg.qr(raw - raw.mean(axis=0))[0] * np.sqrt(n)  # centred, so that the intercept stays out of it
    y = x @ np.array([0.8, -0.4, 0.3, 0.2, 0.1, 0.0, 0.0, 0.0]) + 0.3 * draw.normal(size=n)
    return Problem(x, y - y.mean()), x


def told(found: FittedPath) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(found.files()["path.json"])
    return loaded


@pytest.mark.parametrize("kind", ["torch", "sklearn"])
@pytest.mark.parametrize("block", ["l1", "elasticNet"])
def test_a_path_is_scikit_learns(kind: str, block: str, proof: Prove) -> None:
    problem = regression(150)
    x = problem.x - problem.x.mean(axis=0)
    problem = Problem(x / x.std(axis=0), problem.y - problem.y.mean())
    path = {"regularizationPath": {"parameter": f"{block}.strength", "from": 1e-2, "to": 1.0, "points": 5}}
    engine = (
        LINEAR
        if kind == "torch"
        else {"sklearn": {"estimator": "lasso" if block == "l1" else "elasticNet", "params": {"tol": 1e-10}}}
    )
    found = told(fitted(engine, path, fit_data(problem, problem)))
    alphas = np.array([point["strength"] for point in found["points"]])
    x32, y = problem.x.astype(np.float32).astype(float), problem.y
    x32, y = x32 - x32.mean(axis=0), y - y.mean()
    reference = (
        lasso_path(x32, y, alphas=alphas, tol=1e-12, max_iter=100_000)[1]
        if block == "l1"
        else enet_path(x32, y, l1_ratio=0.5, alphas=alphas, tol=1e-12, max_iter=100_000)[1]
    )
    ours = np.array([np.ravel(next(iter(point["values"].values()))) for point in found["points"]])
    bar = 5e-5 if kind == "torch" else 1e-6  # weights are float32
    proof(
        "regularizationPath",
        f"sklearn {'lasso_path' if block == 'l1' else 'enet_path'}: {kind}'s coefficients",
        np.abs(ours - reference.T).max(),
        at_most=bar,
    )
    assert found["warmStart"] is (kind == "torch")


def test_support_grows_along_an_orthonormal_path_from_nothing(proof: Prove) -> None:
    problem, x = orthonormal()
    largest = float(np.abs(x.T @ problem.y).max() / len(problem.y))
    path = {"parameter": "l1.strength", "from": 0.02, "to": largest * 1.001, "points": 6}
    engine = {"torch": {**LINEAR["torch"], "epochs": 200}}
    found = told(fitted(engine, {"regularizationPath": path}, fit_data(problem, problem)))
    support = [point["nonzero"] for point in found["points"]]
    proof("regularizationPath", "weights that are left at lambda_max", support[0], at_most=0)
    assert support == sorted(support)
    assert support[-1] >= 5
    for point in found["points"]:
        plain = x.T @ problem.y / len(problem.y)
        shrunk = np.sign(plain) * np.maximum(np.abs(plain) - point["strength"], 0)
        np.testing.assert_allclose(np.ravel(point["values"]["head.weight"]), shrunk, atol=2e-5)


def test_the_rule_takes_the_strongest_within_one_standard_error() -> None:
    points = [Point(s, None, loss, 0.1) for s, loss in ((8.0, 2.0), (4.0, 1.05), (2.0, 1.0), (1.0, 1.2))]  # type: ignore[arg-type]
    assert choose(points, "best") == (2, 2)
    assert choose(points, "oneStandardError") == (2, 1)


def test_a_warm_start_needs_fewer_steps() -> None:
    problem = regression(150)
    data, far = fit_data(problem, problem), []
    engine = {"torch": {**LINEAR["torch"], "epochs": 30, "optimizer": {"sgd": {"learningRate": 0.02, "momentum": 0.0}}}}
    for warm in (True, False):
        path = {"parameter": "l2.strength", "from": 1e-4, "to": 2e-4, "points": 8, "warmStart": warm, "rule": "best"}
        far.append(told(fitted(engine, {"regularizationPath": path}, data))["points"][-1]["validationLoss"])
    assert far[0] < 0.8 * far[1]


def test_a_path_without_such_a_field_is_refused() -> None:
    with pytest.raises(InvalidConfigError, match=r"l1\.weight"):
        build.engine(jobs.parsed(engine=SMALL, regularizers={"regularizationPath": {"parameter": "l1.weight"}}))


# --- whole jobs -------------------------------------------------------------------------------------------------------
@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TERMINATION_LOG", str(tmp_path / "term"))
    return jobs.stage(tmp_path)


JOBS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "torch": ({"torch": {"architecture": {"mlp": {"hidden": [8]}}, "epochs": 3}}, {"l2": {}, "calibration": {}}),
    "forest": ({"sklearn": {"estimator": "randomForest", "params": {"n_estimators": 5}}}, {"calibration": {}}),
    "xgboost": ({"xgboost": {"rounds": 5}}, {"l2": {}, "calibration": {}}),
}


@pytest.mark.parametrize("diversity", ["seed", "bagging", "stacking"])
@pytest.mark.parametrize("name", JOBS)
def test_an_ensemble_is_served_as_one_graph(name: str, diversity: str, folder: Path) -> None:
    engine, blocks = JOBS[name]
    both = {**blocks, "ensemble": {"members": 2, "diversity": diversity}}
    result = jobs.train(folder, engine=engine, regularizers=both)
    assert result.exit_code == 0, result.message
    assert "predictionVariance" in result.metrics  # M4 between members
    version = folder / jobs.VERSION
    assert len(json.loads((version / "ensemble.json").read_bytes())["members"]) == 2
    assert json.loads((version / artifact.METRICS).read_bytes())["parity"]["maxAbsDiff"] < artifact.GOLDEN_TOLERANCE


def test_an_ensemble_of_values_is_served_as_one_graph(folder: Path) -> None:
    jobs.stage(folder, jobs.line())
    for diversity in ("bagging", "stacking"):
        blocks = {"l2": {}, "ensemble": {"members": 3, "diversity": diversity}}
        result = jobs.train(
            folder,
            task={"type": "regression"},
            engine=JOBS["torch"][0],
            regularizers=blocks,
            artifact={"uri": f"s3://models/{diversity}/v1/"},
        )
        assert result.exit_code == 0, result.message


def test_paths_in_an_ensemble_and_folds_around_them(folder: Path) -> None:
    blocks = {
        "regularizationPath": {"parameter": "l1.strength", "from": 1e-4, "to": 1e-2, "points": 2},
        "ensemble": {"members": 2},
        "crossValidation": {"folds": 3},
    }
    result = jobs.train(folder, engine=JOBS["torch"][0], regularizers=blocks)
    assert result.exit_code == 0, result.message
    assert (folder / jobs.VERSION / "cross_validation.json").exists()


@pytest.mark.parametrize("kind", ["stratified", "random"])
def test_cross_validation_tells_means_and_intervals(kind: str, folder: Path, proof: Prove) -> None:
    engine = {"sklearn": {"estimator": "logisticRegression"}}
    blocks = {"l2": {"strength": 1e-2}, "crossValidation": {"folds": 4, "kind": kind}}
    result = jobs.train(folder, engine=engine, regularizers=blocks)
    assert result.exit_code == 0, result.message
    found = json.loads((folder / jobs.VERSION / "cross_validation.json").read_bytes())
    assert sum(fold["rows"]["held"] for fold in found["each"]) == 144  # training and validation rows
    each = np.array([fold["metrics"]["accuracy"] for fold in found["each"]])
    told = found["metrics"]["accuracy"]
    from scipy import stats  # noqa: PLC0415 - the oracle of this test alone

    low, high = stats.t.interval(0.95, 3, loc=each.mean(), scale=stats.sem(each))
    proof(
        "crossValidation",
        "scipy: Student's t interval of the folds",
        max(abs(told["low"] - low), abs(told["high"] - high), abs(told["value"] - each.mean())),
        at_most=1e-3,
    )


def test_folds_without_their_column_are_refused(folder: Path) -> None:
    result = jobs.train(folder, engine=JOBS["torch"][0], regularizers={"crossValidation": {"kind": "time"}})
    assert result.exit_code == 44
    assert "timeColumn" in result.message
