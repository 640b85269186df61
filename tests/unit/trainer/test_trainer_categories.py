"""Columns of names against scikit-learn's encoders; what training never saw, gaps, folds, other models' codes, whole jobs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder

from espalier_api.artifact import Manifest
from espalier_api.preprocessing import Preprocessing
from espalier_trainer.data.dataset import Dataset
from espalier_trainer.errors import DataProblemError
from espalier_trainer.export.graph import Graph
from espalier_trainer.preprocessing import Preprocessor
from tests.unit.trainer import graphs, jobs
from tests.unit.trainer.test_trainer_preprocessing import ENGINES, declared

if TYPE_CHECKING:
    from pathlib import Path

COLOURS, SIZES = ("blue", "green", "red"), ("2", "10", "30")


def coloured(seed: int = 0, n: int = 200, gaps: float = 0.0) -> Dataset:
    """One number and two columns of names, as a snapshot has them before training rows are known; `violet` and "99" are rare."""
    draw = np.random.default_rng(seed)
    colours, sizes = draw.integers(0, 3, n), draw.integers(0, 3, n)
    colours[:2], sizes[:2] = 3, 3
    x = np.stack([draw.normal(size=n), colours, sizes], axis=1).astype(np.float32)
    x[:, 1:][draw.random((n, 2)) < gaps] = np.nan
    words = {"colour": (*COLOURS, "violet"), "size": (*SIZES, "99")}
    return Dataset(("f", "colour", "size"), ("u", "v"), x, np.arange(n) % 2, vocabulary=words)


def words(data: Dataset) -> np.ndarray:
    """What the codes mean, None for missing."""
    told = [
        [data.vocabulary[name][int(c)] if c >= 0 else None for c in data.x[:, 1 + i]]
        for i, name in enumerate(("colour", "size"))
    ]
    return np.array(told, dtype=object).T


def encode(train: Dataset, **declared: Any) -> Preprocessor:
    gaps = {"imputation": declared.pop("imputation")} if "imputation" in declared else {}
    told = {"categories": {"columns": ["colour", "size"], **declared}, "scaling": "none", **gaps}
    return Preprocessor.fit(train, Preprocessing.model_validate(told))


@pytest.mark.parametrize("kind", ["oneHot", "ordinal"])
def test_encoding_is_scikit_learns_with_what_training_never_saw(kind: str) -> None:
    train, test = coloured().take(np.arange(2, 200)), coloured(1)  # only the test rows have violet and 99
    known = {"categories": [list(COLOURS), list(SIZES)]}
    oracle: Any = OneHotEncoder(handle_unknown="ignore", sparse_output=False, **known)
    if kind == "ordinal":
        oracle = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, **known)
    made = encode(train, encoding=kind)
    oracle.fit(words(train))
    found = made.unscaled(made.coded(test, "test").x)
    assert_allclose(found[:, 1:], oracle.transform(words(test)))
    assert made.names == (
        ("f", "colour", "size")
        if kind == "ordinal"
        else ("f", "colour=blue", "colour=green", "colour=red", "size=2", "size=10", "size=30")
    )


def test_one_hot_features_stay_zero_and_one_and_places_are_scaled() -> None:
    train = coloured()
    told: dict[str, Any] = {"categories": {"columns": ["colour", "size"]}}
    hot = Preprocessor.fit(train, Preprocessing.model_validate(told))
    assert set(np.unique(hot.apply(hot.coded(train, "train").x)[:, 1:])) == {0.0, 1.0}
    told["categories"]["encoding"] = "ordinal"
    places = Preprocessor.fit(train, Preprocessing.model_validate(told))
    assert places.apply(places.coded(train, "train").x).std(0) == pytest.approx(1, abs=1e-4)


def test_rare_values_are_unknown_and_too_many_are_refused() -> None:
    made = encode(coloured(), minCount=3)
    assert made.encoding is not None
    assert made.encoding.vocabulary == {"colour": COLOURS, "size": SIZES}
    with pytest.raises(
        DataProblemError, match=r"column 'colour' has 4 values in the training rows, at most 3 \(maxCategories\)"
    ):
        encode(coloured(), maxCategories=3)
    with pytest.raises(DataProblemError, match="column 'colour' has no value in 1000 of the 200 training rows"):
        encode(coloured(), minCount=1000)


def test_a_value_that_may_not_be_unknown_is_named() -> None:
    made = encode(coloured().take(np.arange(2, 200)), unknown="error")
    with pytest.raises(DataProblemError, match="column 'colour': 'violet' is in the test part but in no training row"):
        made.coded(coloured(1), "the test part")


@pytest.mark.parametrize("strategy, value", [("mostFrequent", 1.0), ("median", 0.0)])
def test_a_missing_name_is_the_most_frequent_one_or_none(strategy: str, value: float) -> None:
    train = coloured(gaps=0.2)
    made = encode(train, imputation={"strategy": strategy, "indicators": True})
    usual = np.bincount(train.x[:, 1][train.x[:, 1] >= 0].astype(int)).argmax()
    found = made.unscaled(np.array([[0.0, np.nan, 1.0]], dtype=np.float32))[0]
    assert found[1 + usual] == value
    assert found[1:5].sum() == value
    assert made.names[-2:] == ("colour:missing", "size:missing")
    assert found[-2:].tolist() == [1.0, 0.0]


def test_a_fold_knows_only_its_own_rows_under_the_same_names() -> None:
    """As scikit-learn would fit the fold: what its rows do not have is all zeros, and no place in the order is taken by it."""
    data = coloured()
    for kind in ("oneHot", "ordinal"):
        made = encode(data, encoding=kind)
        coded = made.coded(data, "train")
        blue = coded.x[:, 1] == 0
        again = made.again(coded.take(np.flatnonzero(~blue)))
        assert again.names == made.names
        found = again.unscaled(coded.x[blue])
        if kind == "oneHot":
            assert (found[:, 1:5] == 0).all()
        else:
            assert (found[:, 1] == -1).all()
            green = again.unscaled(coded.x[coded.x[:, 1] == 1])
            assert (green[:, 1] == 0).all()


@pytest.mark.parametrize("kind", ["oneHot", "ordinal"])
@pytest.mark.parametrize("gaps", [{}, {"imputation": {"strategy": "mostFrequent", "indicators": True}}])
def test_names_in_the_graph_are_what_numpy_computes(kind: str, gaps: dict[str, Any]) -> None:
    made = encode(coloured(gaps=0.2 if gaps else 0.0), encoding=kind, **gaps)
    again = Preprocessor.from_json(json.loads(json.dumps(made.to_json())))
    assert (again.names, again.to_json()) == (made.names, made.to_json())
    graph = Graph()
    output = again.append(graph, "input")
    test = made.coded(coloured(1, gaps=0.2 if gaps else 0.0), "test").x
    test[0, 1:] = -1
    test[1, 1:] = 7  # no server sends such a code
    assert_allclose(graphs.run(graph, output, "input", test), made.apply(test), atol=1e-6)


def test_another_models_codes_are_not_ours() -> None:
    ours = coloured()
    theirs = {"colour": ("red", "blue"), "size": SIZES}
    seen = ours.as_seen_by(("size", "colour", "f"), theirs, nullable=False)
    assert seen is not None
    red = ours.x[:, 1] == 2
    assert (seen[red, 1] == 0).all()
    assert (seen[ours.x[:, 1] == 3, 1] == -1).all()
    assert (seen[:, 2] == ours.x[:, 0]).all()
    assert ours.as_seen_by(("f", "colour"), {}, nullable=False) is None  # to them a colour is a number
    assert ours.as_seen_by(("f", "weight"), {}, nullable=False) is None


# --- jobs -------------------------------------------------------------------------------------------------------------
@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TERMINATION_LOG", str(tmp_path / "term"))
    return tmp_path


def named(folder: Path, *, gaps: bool = True) -> None:
    """The snapshot with two columns of names, of which `shade` tells the class; a few shades are in late rows only."""
    table = jobs.gaussians()
    draw = np.random.default_rng(1)
    label = table["label"].to_numpy()
    shade = np.array(["red", "green", "blue"], dtype=object)[np.where(draw.random(len(label)) < 0.8, label, 0)]
    shade[-3:] = "mauve"
    if gaps:
        shade[draw.random(len(label)) < 0.1] = None
    table = table.append_column("shade", [shade.tolist()]).append_column("floor", [draw.integers(1, 4, len(label))])
    jobs.stage(folder, table)


NAMED = {"categories": {"columns": ["shade", "floor"]}, "imputation": {"indicators": True}}


@pytest.mark.parametrize("engine", ENGINES)
def test_names_reach_every_engine_and_the_manifest_tells_them(folder: Path, engine: str) -> None:
    named(folder)
    result = jobs.train(folder, data=declared(**NAMED), **ENGINES[engine])
    assert result.exit_code == 0, result.message
    version = folder / jobs.VERSION
    task = Manifest.model_validate_json((version / "manifest.json").read_bytes()).task
    assert task.features == ("f0", "f1", "f2", "f3", "f4", "shade", "floor")
    assert [(t.name, t.datatype, t.shape) for t in task.inputs] == [
        ("input", "FP32", (-1, 5)),
        ("categories", "BYTES", (-1, 2)),
    ]
    assert task.vocabulary["floor"] == ("1", "2", "3")
    assert {"blue", "green", "red"} <= set(task.vocabulary["shade"])
    golden = np.load(version / "golden.npz")["input"]
    assert (golden[0, -2:] == -1).all()
    assert np.isnan(golden[-1]).all()
    told = json.loads((version / "reference.json").read_text())["features"]["shade"]
    assert len(told["ratios"]) == len(told["values"]) + 2
    assert sum(told["ratios"]) == pytest.approx(1)


def test_a_successor_is_compared_although_its_codes_differ(folder: Path) -> None:
    """The predecessor's vocabulary lacks green; its answers to the new rows are asked in its own codes."""
    named(folder, gaps=False)
    told = declared(categories={"columns": ["shade", "floor"]})
    before = jobs.gaussians()
    shades = np.array(["red", "azure", "blue"], dtype=object)[before["label"].to_numpy()]
    before = before.append_column("shade", [shades.tolist()]).append_column(
        "floor", [np.ones(len(shades), dtype=np.int64)]
    )
    jobs.stage(folder, before)
    assert jobs.train(folder, data=told).exit_code == 0
    named(folder, gaps=False)
    after = {"uri": "s3://models/vision/tiny/v2/"}
    result = jobs.train(
        folder, data=told, version="v2", artifact=after, parent="v1", parentArtifact={"uri": f"s3://{jobs.VERSION}/"}
    )
    assert result.exit_code == 0, result.message
    assert "churn" in result.metrics


def test_names_that_nobody_declared_are_refused_with_what_to_write(folder: Path) -> None:
    named(folder)
    result = jobs.train(folder)
    assert result.exit_code == 44
    assert "name it in data.preprocessing.categories.columns or data.features.exclude" in result.message
    result = jobs.train(folder, data=declared(categories={"columns": ["shade", "floor", "hue"]}))
    assert "data.preprocessing.categories.columns: 'hue' selects none of the features" in result.message
    result = jobs.train(folder, data=declared(categories={"columns": ["shade", "floor"]}))
    assert "column 'shade': feature is missing; declare data.preprocessing.imputation" in result.message
