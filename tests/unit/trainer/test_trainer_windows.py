"""Windows of series: against a loop over rows, and no raw row on both sides of any split."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.testing import assert_array_equal

from espalier_api.artifact import Manifest
from espalier_api.data import Split
from espalier_api.preprocessing import Windows
from espalier_trainer.data import splits, windows
from espalier_trainer.data.dataset import Dataset
from espalier_trainer.errors import DataProblemError
from espalier_trainer.selection.folds import deal
from tests.unit.trainer import jobs

if TYPE_CHECKING:
    from pathlib import Path


def series(lengths: tuple[int, ...] = (40, 25, 60), seed: int = 0) -> Dataset:
    """Rows of several series, shuffled; both columns tell series and time, so that a test can see which row it is."""
    draw = np.random.default_rng(seed)
    which = np.repeat(np.arange(len(lengths)), lengths)
    time = np.concatenate([np.arange(n) * 10 + i for i, n in enumerate(lengths)])  # the series are interleaved in time
    shuffled = draw.permutation(len(which))
    x = np.stack([1000 * which + time, -time], axis=1).astype(np.float32)[shuffled]
    y = (time[shuffled] // 10 % 3).astype(np.int64)
    groups = {"shop": np.array([f"s{i}" for i in which[shuffled]], dtype=object)}
    return Dataset(("a", "b"), ("0", "1", "2"), x, y, groups=groups, time=time[shuffled])


def expected(rows: Dataset, length: int, stride: int, horizon: int) -> list[tuple[list[float], float]]:
    """(a of the window's rows then b of them, y of the target), by hand."""
    told = []
    for shop in sorted(set(rows.groups["shop"])):
        own = [i for i in np.argsort(rows.time) if rows.groups["shop"][i] == shop]
        for start in range(0, len(own) - length - horizon + 1, stride):
            part = own[start : start + length]
            values = [float(rows.x[i, c]) for c in (0, 1) for i in part]
            told.append((values, float(rows.y[own[start + length - 1 + horizon]])))
    return told


@pytest.mark.parametrize("length, stride, horizon", [(2, 1, 0), (5, 1, 0), (5, 3, 2), (25, 1, 0), (4, 7, 9)])
def test_windows_are_what_a_loop_makes(length: int, stride: int, horizon: int) -> None:
    rows = series()
    made = windows.build(rows, Windows(length=length, stride=stride, horizon=horizon))
    oracle = expected(rows, length, stride, horizon)
    assert_array_equal(made.x, np.array([values for values, _ in oracle], dtype=np.float32))
    assert_array_equal(made.y, [y for _, y in oracle])
    series_of = made.x[:, :length] // 1000
    assert (series_of == series_of[:, :1]).all()  # none crosses from one series into another
    assert made.x.flags.c_contiguous


def test_features_are_ordered_as_an_image_of_columns_and_one_line() -> None:
    made = windows.build(series(), Windows(length=3))
    assert made.features == ("a@t-2", "a@t-1", "a@t", "b@t-2", "b@t-1", "b@t")
    image = made.x[0].reshape(2, 1, 3)
    assert_array_equal(image[0, 0], -image[1, 0])  # of series 0, whose columns are time and minus time


def raw_rows(made: Dataset, index: np.ndarray[Any, Any]) -> set[int]:
    return (
        {row for i in index for row in range(made.span[i, 0], made.span[i, 1] + 1)} if made.span is not None else set()
    )


@pytest.mark.parametrize(
    "strategy, stride, costs", [("time", 1, True), ("group", 1, False), ("random", 8, False), ("random", 4, True)]
)
def test_no_raw_row_is_in_windows_of_two_parts(strategy: Any, stride: int, costs: bool) -> None:
    made = windows.build(series((200, 120, 160, 90, 210, 150)), Windows(length=6, stride=stride, horizon=2))
    split = Split(strategy=strategy, validation=0.2, calibration=0.1, test=0.2, seed=3)
    dealt = splits.split(made, split)
    kept = windows.purge(made, dealt)
    held = [raw_rows(made, rows) for rows in kept.values()]
    for i, one in enumerate(held):
        assert one
        assert all(not one & other for other in held[i + 1 :])
    lost = len(made) - sum(map(len, kept.values()))
    assert (lost > 0) is costs
    assert_array_equal(kept["test"], dealt["test"])  # what is judged last stays whole
    if strategy == "time":  # six series, three borders, and at most length + horizon - 1 windows at each
        assert lost <= 6 * 3 * 7
    before = [raw_rows(made, rows) for rows in dealt.values()]
    assert any(a & b for i, a in enumerate(before) for b in before[i + 1 :]) is costs  # the purge was needed


def test_a_part_that_loses_every_window_is_a_data_problem() -> None:
    made = windows.build(series(), Windows(length=12))
    with pytest.raises(DataProblemError, match="every window of the train part shares rows with another part; use"):
        windows.purge(made, splits.split(made, Split(strategy="random", validation=0.3, test=0.3)))


@pytest.mark.parametrize("kind", ["time", "group"])
def test_folds_fit_no_row_that_they_judge(kind: str) -> None:
    made = windows.build(series((90, 80, 100, 70)), Windows(length=5))
    pairs = deal(made, kind, 3, 0)
    assert len(pairs) == 3
    for fits, held in pairs:
        assert not raw_rows(made, fits) & raw_rows(made, held)


def test_rows_without_an_order_are_refused_by_name() -> None:
    rows = series()
    assert rows.time is not None
    rows.time[:] = 7
    with pytest.raises(DataProblemError, match="two rows of series s0 have the time 7"):
        windows.build(rows, Windows(length=3))
    alone = Dataset(rows.features, rows.classes, rows.x, rows.y, time=series().time)
    with pytest.raises(
        DataProblemError, match="longest of 1 series has 125 rows, and a window takes length \\+ horizon = 300"
    ):
        windows.build(alone, Windows(length=200, horizon=100))


# --- jobs -------------------------------------------------------------------------------------------------------------
def waves(n: int = 160, shops: int = 3, seed: int = 0) -> pa.Table:
    """Series whose next value's sign is told by the shape of the last eight rows, not by one of them."""
    draw = np.random.default_rng(seed)
    t = np.arange(n)
    told: dict[str, list[Any]] = {"day": [], "shop": [], "a": [], "b": [], "label": []}
    for shop in range(shops):
        a = np.sin(t * (0.5 + 0.02 * shop) + shop) + 0.1 * draw.normal(size=n)
        slope = np.append(np.diff(a), 0)
        told["day"] += t.tolist()
        told["shop"] += [f"s{shop}"] * n
        told["a"] += a.tolist()
        told["b"] += draw.normal(size=n).tolist()
        told["label"] += np.where(slope > 0, "up", "down").tolist()
    return pa.table(told)


@pytest.mark.parametrize(
    "architecture", [{"cnn": {"image": [2, 1, 8], "channels": [8], "hidden": [16]}}, {"mlp": {"hidden": [16]}}]
)
def test_a_network_learns_from_windows_and_is_served_flattened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: dict[str, Any]
) -> None:
    monkeypatch.setenv("TERMINATION_LOG", str(tmp_path / "term"))
    jobs.stage(tmp_path, waves())
    data = {
        "snapshot": {"uri": "s3://datasets/tiny/"},
        "target": "label",
        "timeColumn": "day",
        "groupColumns": ["shop"],
        "split": {"strategy": "time", "validation": 0.2, "test": 0.2, "seed": 3},
        "preprocessing": {"windows": {"length": 8}},
    }
    torch = {
        "architecture": architecture,
        "optimizer": {"adamw": {"learningRate": 0.01}},
        "epochs": 15,
        "batchSize": 32,
    }
    result = jobs.train(tmp_path, data=data, engine={"torch": torch}, regularizers={"l2": {"strength": 1e-4}})
    assert result.exit_code == 0, result.message
    assert result.metrics["accuracy"].value > 0.8
    version = tmp_path / jobs.VERSION
    task = Manifest.model_validate_json((version / "manifest.json").read_bytes()).task
    assert task.windows is not None
    assert (task.windows.columns, task.windows.length) == (("a", "b"), 8)
    assert task.features == windows.names(("a", "b"), 8)
    assert task.inputs[0].shape == (-1, 16)
    rows = json.loads((version / "lineage.json").read_text())["rows"]
    assert 0 < rows["purged"] <= 3 * 2 * 7
