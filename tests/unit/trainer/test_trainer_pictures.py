"""Pictures: real PNG files, the same bytes for the same numbers, nothing where there is nothing to see."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from espalier_api.artifact import MetricValue
from espalier_trainer import pictures
from espalier_trainer.engines import Contribution, FitReport
from espalier_trainer.evaluation.evaluate import Evaluation

HISTORY = [{"epoch": float(i), "train": 2.0 / (i + 1), "validation": 1.0 + abs(i - 4) / 10} for i in range(10)]
BLOCKS = {"weightDecay": Contribution(0.1, gradient_ratio=0.1, cosine=-0.3), "l2": Contribution(1e-3, share=0.2)}


def evaluation(risk: float = 0.2) -> Evaluation:
    numbers = {n: MetricValue(value=0.1) for n in ("aurc", "rejectRate", "selectiveRisk", "calibrationError")}
    return Evaluation(
        numbers | {"calibrationErrorExcess": MetricValue(value=0.01)},
        notes={"riskCoverage": [[0.1, 0.0], [1.0, risk]], "selective": {"threshold": 0.8}},
        reliability=[[0.3, 0.25, 40.0], [0.9, 0.95, 60.0]],
    )


def pixels(png: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(png))
    assert image.format == "PNG"
    assert set(image.info) <= {"dpi"}  # no date, no software
    return np.asarray(image.convert("RGB"))


def test_four_pictures_of_a_fit() -> None:
    drawn = pictures.draw(FitReport(history=HISTORY, contributions=BLOCKS), evaluation())
    assert set(drawn) == {f"pictures/{n}.png" for n in ("curves", "contributions", "reliability", "risk-coverage")}
    for png in drawn.values():
        shown = pixels(png)
        assert shown.shape == (420, 720, 3)
        assert (shown != 255).any(axis=2).mean() > 0.01
    again = pictures.draw(FitReport(history=HISTORY, contributions=BLOCKS), evaluation())
    assert again == drawn
    other = pictures.draw(FitReport(history=HISTORY, contributions=BLOCKS), evaluation(risk=0.4))
    assert [n for n in drawn if drawn[n] != other[n]] == ["pictures/risk-coverage.png"]


def test_the_best_epoch_is_marked_where_it_is() -> None:
    """The validation loss is lowest in epoch 5 of 10: the dotted line stands at four ninths of the blue one."""
    drawn = pictures.draw(FitReport(history=HISTORY), Evaluation({}))
    assert set(drawn) == {"pictures/curves.png"}
    shown = pixels(drawn["pictures/curves.png"]).astype(int)

    def columns(colour: tuple[int, int, int]) -> np.ndarray:
        return (abs(shown - np.array(colour)).sum(axis=2) < 120).sum(axis=0)

    blue = np.flatnonzero(columns((0x00, 0x72, 0xB2)))
    first, last = blue.min(), blue.max()
    grey = columns((0x77, 0x77, 0x77))
    grey[: first - 5] = 0  # the axis
    assert np.argmax(grey) == pytest.approx(first + 4 / 9 * (last - first), abs=4)


def test_nothing_to_see_is_no_picture() -> None:
    assert pictures.draw(FitReport(contributions={"dropout": Contribution(0.5)}), Evaluation({})) == {}
    assert pictures.draw(FitReport(history=[{"epoch": 0.0, "objective": 1.0}] * 5), Evaluation({})) == {}


def test_without_matplotlib_a_version_has_no_pictures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for name in [n for n in sys.modules if n.startswith(("matplotlib.", "espalier_trainer.pictures."))]:
        monkeypatch.delitem(sys.modules, name)
    assert pictures.draw(FitReport(history=HISTORY), Evaluation({})) == {}
    assert "no-pictures" in capsys.readouterr().out


def test_nothing_is_imported_before_something_is_drawn() -> None:
    code = "import sys, espalier_trainer.pictures, espalier_trainer.run; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
