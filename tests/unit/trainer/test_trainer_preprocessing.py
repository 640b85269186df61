"""Scaling against scikit-learn's scalers, fitted on training rows only, the same inside the exported graph."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.preprocessing import MinMaxScaler, RobustScaler, StandardScaler

from espalier_api.preprocessing import Preprocessing
from espalier_trainer.data.dataset import Dataset
from espalier_trainer.preprocessing import Standardizer
from espalier_trainer.preprocessing.scaling import UNITS
from espalier_trainer.progress import Board
from espalier_trainer.run import World, prepare
from espalier_trainer.selection.folds import folds_of
from espalier_trainer.storage import FolderStore
from tests.unit.trainer import jobs

if TYPE_CHECKING:
    from pathlib import Path

ORACLES: dict[str, Any] = {"standard": StandardScaler(), "minMax": MinMaxScaler(), "robust": RobustScaler()}


def rows(seed: int = 0, n: int = 200) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return (draw.normal(size=(n, 4)) * [1, 50, 1e-3, 7] + [0, 1e3, 5, -3]).astype(np.float32)


def data(x: np.ndarray) -> Dataset:
    return Dataset(tuple(f"f{i}" for i in range(x.shape[1])), ("u", "v"), x, np.arange(len(x)) % 2)


def fit(x: np.ndarray, **declared: Any) -> Standardizer:
    return Standardizer.fit(data(x), Preprocessing.model_validate(declared))


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
    again = Standardizer.from_json(made.to_json())
    assert again.to_json() == made.to_json()
    assert again.declared == made.declared
    assert (again.apply(rows(1)) == made.apply(rows(1))).all()


def test_what_is_not_declared_is_told_as_before() -> None:
    """Versions of before have this form and digest; fits that hold on to them compare it."""
    x = np.array([[0.0], [2.0]], dtype=np.float32)
    told = Standardizer.fit(data(x)).to_json()
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
