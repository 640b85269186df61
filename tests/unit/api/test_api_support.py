"""The support tables of the rules are what the trainer really has: a block is promised only where a file trains it."""

from __future__ import annotations

from pathlib import Path

import pytest

import espalier_trainer.regularizers as trained
from espalier_api.engines import Engine
from espalier_api.regularizers import BLOCKS
from espalier_api.rules.engine_support import (
    LOOPS,
    SKLEARN,
    SKLEARN_NEEDS,
    TORCH,
    XGBOOST,
    XGBOOST_OWNED,
    able,
    supported,
)
from espalier_trainer import selection
from espalier_trainer.engines.sklearn.estimators import ESTIMATORS
from espalier_trainer.engines.xgboost import parameters


def test_torch_blocks_are_the_files_of_the_trainer() -> None:
    folder = Path(trained.__path__[0])
    files = {path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")}
    assert {name for name, attribute in BLOCKS.items() if attribute in files} == TORCH


def test_loops_are_the_files_of_selection() -> None:
    files = {path.stem for path in Path(selection.__path__[0]).glob("*.py")}
    assert {name for name, attribute in BLOCKS.items() if attribute in files} == LOOPS


@pytest.mark.parametrize("pair", sorted({*SKLEARN, *ESTIMATORS}), ids=" ".join)
def test_estimators_and_their_blocks_are_the_trainers(pair: tuple[str, str]) -> None:
    assert SKLEARN[pair] == ESTIMATORS[pair].blocks
    assert SKLEARN_NEEDS.get(pair[0], frozenset()) == ESTIMATORS[pair].needs


def test_xgboosts_blocks_and_parameters_are_the_trainers() -> None:
    assert XGBOOST == parameters.BLOCKS
    assert set(XGBOOST_OWNED) <= parameters.OWNED


def test_supported_looks_at_engine_and_task() -> None:
    ridge = Engine.model_validate({"sklearn": {"estimator": "ridge"}})
    assert supported(ridge, "regression") == frozenset({"l2", "sampleWeighting"}) | LOOPS
    assert supported(ridge, "classification") is None
    boosted = supported(Engine.model_validate({"xgboost": {}}), "regression")
    assert boosted is not None
    assert {"dropout", "l2"} <= boosted
    assert "calibration" not in boosted


def test_able_names_what_one_can_write() -> None:
    assert able("dropout", "regression") == ("torch", "xgboost")
    assert "sklearn lasso" in able("l1", "regression")
    assert {"torch", "xgboost", "sklearn svc"} <= set(able("crossValidation", "classification"))
