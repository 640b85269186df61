"""Scaling against scikit-learn's scalers, fitted on training rows only, the same inside the exported graph."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, RobustScaler, StandardScaler

from espalier_api.artifact import Manifest, version_digest
from espalier_api.preprocessing import Preprocessing
from espalier_trainer.data.dataset import Dataset
from espalier_trainer.errors import DataProblemError
from espalier_trainer.export.graph import Graph
from espalier_trainer.preparing import prepare
from espalier_trainer.preprocessing import Preprocessor
from espalier_trainer.preprocessing.scaling import UNITS
from espalier_trainer.progress import Board
from espalier_trainer.run import World
from espalier_trainer.selection.folds import folds_of
from espalier_trainer.storage import FolderStore
from tests.unit.trainer import graphs, jobs

if TYPE_CHECKING:
    from pathlib import Path

ORACLES: dict[str, Any] = {"standard": StandardScaler(), "minMax": MinMaxScaler(), "robust": RobustScaler()}


def rows(seed: int = 0, n: int = 200) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return (draw.normal(size=(n, 4)) * [1, 50, 1e-3, 7] + [0, 1e3, 5, -3]).astype(np.float32)


def data(x: np.ndarray) -> Dataset:
    return Dataset(tuple(f"f{i}" for i in range(x.shape[1])), ("u", "v"), x, np.arange(len(x)) % 2)


def fit(x: np.ndarray, **declared: Any) -> Preprocessor:
    return Preprocessor.fit(data(x), Preprocessing.model_validate(declared))


# --- scaling ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ORACLES)
def test_scaling_is_scikit_learns(kind: str) -> None:
    train, test = rows(), rows(1)
    oracle = ORACLES[kind].fit(train.astype(np.float64))
    assert_allclose(fit(train, scaling=kind).apply(test), oracle.transform(test.astype(np.float64)), atol=2e-4)


def test_no_scaling_leaves_numbers_and_silences_constants() -> None:
    train = rows()
    train[:, 2] = 5.0
    made = fit(train, scaling="none")
    test = rows(1)
    assert_allclose(made.apply(test)[:, [0, 1, 3]], test[:, [0, 1, 3]])
    assert (made.apply(test)[:, 2] == 0).all()


@pytest.mark.parametrize("kind", [*ORACLES, "none"])
def test_constants_are_silenced_by_every_scaling(kind: str) -> None:
    train = rows()
    train[:, 1] = 1e6
    assert (fit(train, scaling=kind).apply(rows(1))[:, 1] == 0).all()


def test_a_constant_middle_half_falls_back_on_the_deviation() -> None:
    train = rows()
    train[:160, 0] = 0.0
    made = fit(train, scaling="robust")
    assert made.spread[0] == pytest.approx(train[:, 0].std(), rel=1e-5)


@pytest.mark.parametrize("kind", [*ORACLES, "none"])
def test_scaling_survives_preprocessing_json(kind: str) -> None:
    made = fit(rows(), scaling=kind)
    again = Preprocessor.from_json(made.to_json())
    assert again.to_json() == made.to_json()
    assert again.declared == made.declared
    assert (again.apply(rows(1)) == made.apply(rows(1))).all()


def test_what_is_not_declared_is_told_as_before() -> None:
    """Versions of before have this form and digest; fits that hold on to them compare it."""
    x = np.array([[0.0], [2.0]], dtype=np.float32)
    told = Preprocessor.fit(data(x)).to_json()
    assert told == {
        "features": ["f0"],
        "standardize": {"mean": [1.0], "factor": [1.0]},
        "target": {"mean": 0.0, "scale": 1.0},
        "insideGraph": True,
        "digest": "sha256:6010b2fa1667f167e81853df29f4aa3a4d09b20c308e4403e3aec20deb0332d7",
    }
    assert fit(x, scaling="minMax").to_json()["digest"] != told["digest"]


def test_moments_of_scaled_rows_are_what_corruptions_are_measured_by() -> None:
    x = rows()
    for kind in ("standard", "minMax", "robust", "none"):
        made = fit(x, scaling=kind)
        mean, deviation = made.moments(made.apply(x))
        assert_allclose(mean, made.apply(x).astype(np.float64).mean(0), atol=2e-4)
        assert_allclose(deviation, made.apply(x).astype(np.float64).std(0), atol=2e-4)


# --- imputation -------------------------------------------------------------------------------------------------------
def gappy(seed: int = 0, n: int = 200) -> np.ndarray:
    """Rows in whose first three columns a fifth of the values is missing; few distinct values in the first."""
    draw = np.random.default_rng(seed)
    x = rows(seed, n)
    x[:, 0] = draw.integers(0, 4, n)
    x[:, :3][draw.random((n, 3)) < 0.2] = np.nan
    return x


STRATEGIES: dict[str, dict[str, Any]] = {
    "mean": {"strategy": "mean"},
    "median": {"strategy": "median"},
    "most_frequent": {"strategy": "most_frequent"},
    "constant": {"strategy": "constant", "fill_value": -7.0},
}
NAMES = {"most_frequent": "mostFrequent"}


def imputing(strategy: str, **more: Any) -> dict[str, Any]:
    value = {"value": -7.0} if strategy == "constant" else {}
    return {"strategy": NAMES.get(strategy, strategy), **value, **more}


@pytest.mark.parametrize("indicators", [False, True])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_imputation_is_scikit_learns(strategy: str, indicators: bool) -> None:
    train, test = gappy(), gappy(1)
    oracle = SimpleImputer(**STRATEGIES[strategy], add_indicator=indicators).fit(train.astype(np.float64))
    made = fit(train, scaling="none", imputation=imputing(strategy, indicators=indicators))
    apart = np.abs(made.unscaled(test) - oracle.transform(test.astype(np.float64))).max()
    assert apart < 1e-4
    assert made.names[4:] == (("f0:missing", "f1:missing", "f2:missing") if indicators else ())


def test_what_was_imputed_is_scaled_like_the_rest_and_indicators_stay() -> None:
    train = gappy()
    pipeline = make_pipeline(SimpleImputer(strategy="median"), StandardScaler()).fit(train.astype(np.float64))
    made = fit(train, imputation={"indicators": True})
    found = made.apply(gappy(1))
    assert_allclose(found[:, :4], pipeline.transform(gappy(1).astype(np.float64)), atol=2e-4)
    assert set(np.unique(found[:, 4:])) == {0.0, 1.0}


def test_other_rows_keep_the_names_and_fit_their_own_values() -> None:
    made = fit(gappy(), imputation={"strategy": "mean", "indicators": True})
    whole = gappy(2)
    whole[:, 0] = 3.0
    again = made.again(data(whole))
    assert again.names == made.names
    assert again.imputation is not None
    assert again.imputation.fill[0] == 3.0
    flags = again.apply(gappy(1))[:, 4]
    assert (flags == 0).all()  # its own rows never lacked the first column: nothing was learned about that


def test_a_column_without_any_value_is_a_data_problem() -> None:
    train = gappy()
    train[:, 2] = np.nan
    with pytest.raises(DataProblemError, match="column 'f2' has no value in any of 200 training rows"):
        fit(train, imputation={})


@pytest.mark.parametrize("declared", [{}, {"indicators": True}, {"strategy": "constant", "value": 2.5}])
def test_the_graph_computes_what_numpy_computes(declared: dict[str, Any]) -> None:
    made = fit(gappy(), scaling="robust", imputation=declared)
    again = Preprocessor.from_json(json.loads(json.dumps(made.to_json())))
    graph = Graph()
    output = again.append(graph, "input")
    test = gappy(1)
    test[0] = np.nan
    assert_allclose(graphs.run(graph, output, "input", test), made.apply(test), atol=1e-6)


# --- jobs -------------------------------------------------------------------------------------------------------------
@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TERMINATION_LOG", str(tmp_path / "term"))
    return tmp_path


def declared(**preprocessing: Any) -> dict[str, Any]:
    return {**jobs.job()["data"], "preprocessing": preprocessing}


@pytest.mark.parametrize("kind", ["minMax", "robust", "none"])
def test_a_job_serves_what_it_scaled(folder: Path, kind: str) -> None:
    """Export itself compares graph and engine on golden rows; the digest is recorded and the noise's unit is told."""
    jobs.stage(folder)
    blocks = {"adversarial": {"attack": "fgsm", "epsilon": 0.05}}
    assert jobs.train(folder, data=declared(scaling=kind), regularizers=blocks).exit_code == 0
    version = folder / jobs.VERSION
    told = json.loads((version / "preprocessing.json").read_text())
    assert told["scale"]["kind"] == kind
    notes = json.loads((version / "regularizers.json").read_text())["notes"]
    assert notes["adversarial.unit"] == UNITS[kind]
    served = jobs.answer(version, np.full((1, 5), 10.0, dtype=np.float32))
    assert served["probabilities"].shape == (1, 3)


def test_folds_are_scaled_by_their_own_rows(folder: Path) -> None:
    jobs.stage(folder)
    job = jobs.parsed(data=declared(scaling="minMax"))
    prepared = prepare(job, World(lambda uri, _: FolderStore(folder / uri.removeprefix("s3://")), Board(job)))
    for fold in folds_of(prepared, "stratified", 3, 0, "crossValidation.folds"):
        assert fold.data.train.x.min(0) == pytest.approx(0, abs=1e-6)
        assert fold.data.train.x.max(0) == pytest.approx(1, abs=1e-5)
        assert fold.data.validation is not None
        assert fold.data.validation.x.min() < 0 or fold.data.validation.x.max() > 1


def gaps(folder: Path, share: float = 0.15) -> None:
    """The snapshot with missing values in f0, f1 and f4."""
    table = jobs.gaussians()
    draw = np.random.default_rng(1)
    for name in ("f0", "f1", "f4"):
        values = table[name].to_numpy().copy()
        values[draw.random(len(values)) < share] = np.nan
        table = table.set_column(table.schema.get_field_index(name), name, [values])
    jobs.stage(folder, table)


ENGINES = {
    "torch": {},
    "sklearn": {
        "engine": {"sklearn": {"estimator": "logisticRegression"}},
        "regularizers": {"l2": {}, "calibration": {}},
    },
    "xgboost": {"engine": {"xgboost": {"rounds": 10}}, "regularizers": {"l2": {}, "calibration": {}}},
}


@pytest.mark.parametrize("engine", ENGINES)
def test_missing_values_reach_no_engine_and_are_served(folder: Path, engine: str) -> None:
    gaps(folder)
    result = jobs.train(folder, data=declared(imputation={"indicators": True}), **ENGINES[engine])
    assert result.exit_code == 0, result.message
    version = folder / jobs.VERSION
    task = Manifest.model_validate_json((version / "manifest.json").read_bytes()).task
    assert (task.nullable, task.features) == (True, ("f0", "f1", "f2", "f3", "f4"))
    golden = np.load(version / "golden.npz")
    assert np.isnan(golden["input"][-1]).all()
    assert np.isfinite(golden["probabilities"]).all()
    reference = json.loads((version / "reference.json").read_text())["features"]["f0"]
    assert reference["missing"] is True
    assert 0.05 < reference["ratios"][-1] < 0.3
    assert sum(reference["ratios"]) == pytest.approx(1)
    assert len(reference["ratios"]) == len(reference["edges"]) + 2


def test_missing_values_are_refused_where_nobody_declared_them(folder: Path) -> None:
    gaps(folder)
    result = jobs.train(folder)
    assert result.exit_code == 44
    assert "column 'f0': feature is missing, NaN or infinite; declare data.preprocessing.imputation" in result.message


def test_indicators_are_features_by_name(folder: Path) -> None:
    gaps(folder)
    noise = {"noiseInjection": {"std": 0.1, "target": {"include": ["*:missing"]}}}
    assert jobs.train(folder, data=declared(imputation={"indicators": True}), regularizers=noise).exit_code == 0


def test_a_model_that_knows_no_gaps_is_no_teacher_for_rows_with_gaps(folder: Path) -> None:
    jobs.stage(folder)
    assert jobs.train(folder).exit_code == 0
    gaps(folder)
    uri = "models/vision/tiny/v1/"
    digest = version_digest((folder / uri / "manifest.json").read_bytes())
    teacher = {"model": "tiny", "version": "v1", "uri": f"s3://{uri}", "digest": digest}
    student = {"uri": "s3://models/vision/student/v1/"}
    result = jobs.train(
        folder,
        data=declared(imputation={}),
        artifact=student,
        regularizers={"distillation": {"teacher": "tiny"}},
        references={"tiny": teacher},
    )
    assert result.exit_code == 42
    assert "v1 cannot answer these rows: values are missing, and it was trained without" in result.message
