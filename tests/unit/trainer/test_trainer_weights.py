"""Sample weights: what they mean, shown by rows that are there twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.unit.trainer import jobs

if TYPE_CHECKING:
    from pathlib import Path


LINEAR = {"l2": {"strength": 1e-3}}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERMINATION_LOG", str(tmp_path / "term"))
    jobs.stage(tmp_path)


@pytest.mark.parametrize("engine", ["ridge", "mlp"])
def test_sample_weights_equal_duplicated_rows_in_training(engine: str, tmp_path: Path) -> None:
    """Weights 1 and 3 on rows whose label is shifted by group pull the answer three to one."""
    table = jobs.line()
    half = np.arange(240) % 2
    shifted = table.column("label").to_numpy() + 400 * half
    table = table.set_column(table.schema.get_field_index("label"), "label", [shifted]).append_column(
        "w", [1.0 + 2.0 * half]
    )
    jobs.stage(tmp_path, table)
    engines: dict[str, Any] = {
        "ridge": {"sklearn": {"estimator": "ridge"}},
        "mlp": {
            "torch": {
                "architecture": {"mlp": {"hidden": []}},
                "optimizer": {"sgd": {"learningRate": 0.1}},
                "epochs": 60,
            }
        },
    }
    answers = []
    for declared in ({}, {"sampleWeighting": {"column": "w"}}):
        place = f"s3://models/vision/tiny/{len(answers)}/"
        result = jobs.train(
            tmp_path,
            task={"type": "regression"},
            engine=engines[engine],
            regularizers=declared,
            artifact={"uri": place},
            data={**jobs.job()["data"], "features": {"exclude": ["w"]}},
        )
        assert result.exit_code == 0, result.message
        zeros = np.zeros((1, 4), dtype=np.float32)
        answers.append(float(jobs.answer(tmp_path / place.removeprefix("s3://"), zeros)["value"][0, 0]))
    assert answers[0] == pytest.approx(700, abs=40)
    assert answers[1] == pytest.approx(800, abs=40)
