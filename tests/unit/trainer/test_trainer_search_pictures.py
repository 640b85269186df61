"""Pictures of a search and of a path: drawn from the version's own files, with the marks where the numbers are."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from espalier_trainer import pictures
from espalier_trainer.engines import FitReport
from espalier_trainer.evaluation.evaluate import Evaluation

ORANGE, GREEN = (0xD5, 0x5E, 0x00), (0x00, 0x9E, 0x73)
OBJECTIVE = {"metric": "valLoss", "goal": "minimize"}


def trial(number: int, objective: float, **more: Any) -> dict[str, Any]:
    return {"number": number, "status": "Succeeded", "objective": objective, "params": {}, **more}


def story(trials: list[dict[str, Any]], best: int, **more: Any) -> dict[str, Any]:
    search = {"method": "random", "objective": OBJECTIVE, **more.pop("search", {})}
    return {"search": search, "trials": trials, "best": trials[best], **more}


SINGLE = story([trial(n, 1.0 + abs(n - 7) / 10) for n in range(10)], 7)
FAILED = {**SINGLE, "trials": [*SINGLE["trials"], {"number": 10, "status": "Failed", "reason": "R13"}]}
DOUBLE = story(
    [trial(n, 1 / (n + 1), second=100.0 * (n + 1 + 3 * (n % 2))) for n in range(8)],
    7,
    pareto=[7, 6, 4, 2, 0],
    search={"secondObjective": {"metric": "parameters", "goal": "minimize"}},
)
HALVING = story(
    [trial(n, 2.0 + n, rung=0, configuration=n, resource=3) for n in range(3)]
    + [trial(3, 1.5, rung=1, configuration=0, resource=9)],
    3,
    budget={"unit": "epochs", "wholeFits": 2.0, "wholeFitsOfRandomSearch": 3},
)
PATH = {
    "parameter": "l1.strength",
    "rule": "oneStandardError",
    "best": 4,
    "chosen": 2,
    "points": [
        {
            "strength": 10.0**-n,
            "validationLoss": 0.5 + abs(n - 4) / 20,
            "standardError": 0.1,
            "epochs": 5,
            "weights": 4,
            "nonzero": n,
            "values": {"w": [[0.1 * n, -0.2 * n]]},
        }
        for n in range(6)
    ],
}


def drawn(**files: Any) -> dict[str, bytes]:
    """Pictures of nothing but these files."""
    content = {f"{name}.json": json.dumps(told).encode() for name, told in files.items()}
    return pictures.draw(FitReport(), Evaluation({}), content)


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def of(colour: tuple[int, int, int], shown: np.ndarray) -> np.ndarray:
    return np.asarray(abs(shown - np.array(colour)).sum(axis=2) < 60)


@pytest.mark.parametrize("told", [SINGLE, FAILED, DOUBLE, HALVING], ids=["course", "failed", "front", "rungs"])
def test_a_search_has_a_picture_the_same_again(told: dict[str, Any]) -> None:
    found = drawn(search=told)
    assert set(found) == {"pictures/search.png"}
    assert pixels(found["pictures/search.png"]).shape == (420, 720, 3)
    assert drawn(search=told) == found
    worse = {
        **told,
        "trials": [
            {**t, "objective": t["objective"] + 0.1 * t["number"]} if "objective" in t else t for t in told["trials"]
        ],
    }
    assert drawn(search=worse) != found


def test_the_best_trial_is_circled_where_it_is() -> None:
    """Trial 7 of 0 to 9 has the least value of all: seven ninths of the way, and low. Axes have a margin of 5 % on each side."""
    rows, columns = np.nonzero(of(ORANGE, pixels(drawn(search=SINGLE)["pictures/search.png"])))
    circle = rows > 200  # not the legend
    left, width = 0.1 * 720, 0.87 * 720
    assert columns[circle].mean() == pytest.approx(left + width * (7 / 9 * 0.9091 + 0.0455), abs=3)
    assert rows[circle].mean() > 330


def test_only_the_pareto_set_is_green() -> None:
    shown = pixels(drawn(search=DOUBLE)["pictures/search.png"])
    fewer = pixels(drawn(search={**DOUBLE, "pareto": [6]})["pictures/search.png"])
    assert of(GREEN, shown).sum() > 2 * of(GREEN, fewer).sum() > 0


@pytest.mark.parametrize("trials", [[], [trial(0, 1.0)]], ids=["none", "one"])
def test_one_trial_is_no_picture(trials: list[dict[str, Any]]) -> None:
    assert drawn(search={"search": {"method": "random", "objective": OBJECTIVE}, "trials": trials, "best": {}}) == {}


def test_a_path_shows_losses_and_weights_with_chosen_and_best() -> None:
    found = drawn(path=PATH)
    assert set(found) == {"pictures/regularization-path.png"}
    shown = pixels(found["pictures/regularization-path.png"])
    assert shown.shape == (420, 720, 3)
    moved = pixels(drawn(path={**PATH, "chosen": 4})["pictures/regularization-path.png"])
    columns = [np.argmax(of(ORANGE, picture)[100:380].sum(axis=0)) for picture in (shown, moved)]
    assert columns[1] < columns[0]  # weaker is to the left


def test_a_large_path_shows_how_many_weights_are_left() -> None:
    points = [{k: v for k, v in point.items() if k != "values"} for point in PATH["points"]]
    found = drawn(path={**PATH, "points": points})
    assert of(GREEN, pixels(found["pictures/regularization-path.png"])).any()
    assert found != drawn(path=PATH)
    trees = [{**point, "weights": 0, "nonzero": 0} for point in points]
    assert drawn(path={**PATH, "points": trees}) != found
