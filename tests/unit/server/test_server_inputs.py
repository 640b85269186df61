"""Numbers and names of a request to rows for the graph: every refusal names the field, nothing else can happen."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from espalier_api.artifact import CategoryColumn, ManifestTask, TokenShape
from espalier_server.drift import FeatureBins
from espalier_server.errors import ArtifactError, InvalidRequestError
from espalier_server.inputs import InputReader
from tests.unit.server.test_server_tensors import JSON


def task(*, numbers: int = 2, nullable: bool = False, **changes: Any) -> ManifestTask:
    columns = (
        CategoryColumn(name="shade", values=("blue", "red")),
        CategoryColumn(name="floor", values=("1", "2", "10"), unknown="error"),
    )
    features = (*(f"f{i}" for i in range(numbers)), "shade", "floor")
    told: dict[str, Any] = {"type": "regression", "inputs": (), "outputs": ()}
    return ManifestTask(features=features, categories=columns, nullable=nullable, **told | changes)


def numbers(data: Any = None, **changes: Any) -> dict[str, Any]:
    return {"name": "input", "shape": [2, 2], "datatype": "FP32", "data": data or [1, 2, 3, 4], **changes}


def names(data: Any = None, **changes: Any) -> dict[str, Any]:
    told = data or ["red", "10", "blue", "1"]
    return {"name": "categories", "shape": [2, 2], "datatype": "BYTES", "data": told, **changes}


def test_names_become_codes_behind_the_numbers_in_any_order_of_tensors() -> None:
    reader = InputReader(task())
    expected = [[1, 2, 1, 2], [3, 4, 0, 0]]
    for inputs in ([numbers(), names()], [names([["red", "10"], ["blue", "1"]]), numbers()]):
        rows = reader.read(inputs, 10)
        np.testing.assert_array_equal(rows, expected)
        assert (rows.dtype, rows.flags.c_contiguous) == (np.float32, True)


def test_unknown_is_minus_one_and_null_is_nan() -> None:
    rows = InputReader(task(nullable=True)).read([numbers([None, 2, 3, 4]), names(["mauve", None, None, "1"])], 10)
    np.testing.assert_array_equal(rows, [[np.nan, 2, -1, np.nan], [3, 4, np.nan, 0]])


def test_a_model_of_names_alone_has_one_tensor() -> None:
    reader = InputReader(task(numbers=0))
    np.testing.assert_array_equal(reader.read([names()], 10), [[1, 2], [0, 0]])
    with pytest.raises(InvalidRequestError, match="inputs: must be a list with one tensor each named 'categories'"):
        reader.read([numbers(), names()], 10)


@pytest.mark.parametrize(
    "inputs, message",
    [
        ([numbers()], "inputs: must be a list with one tensor each named 'input' and 'categories'"),
        ({}, "inputs: must be a list"),
        ([numbers(), numbers()], "inputs[1].name: must be one of"),
        ([numbers(), 5], "inputs[1].name: must be one of"),
        ([numbers(), names(name=["categories"])], "inputs[1].name: must be one of"),
        ([numbers(), names(datatype="FP32")], "inputs[1].datatype: must be BYTES"),
        ([numbers(), names(shape=[2, 3])], "inputs[1].shape: must be [rows, 2]"),
        ([numbers(), names(["red", "1"], shape=[1, 2])], "inputs[1].shape: has 1 rows, input has 2"),
        ([names(["red", "1"]), numbers()], "inputs[0].data: has 2 items"),
        ([numbers(), names(["red", "3", "blue", "1"])], "inputs[1].data[1]: '3' is none of the 3 values of floor"),
        ([numbers(), names([None, "1", "blue", "1"])], "inputs[1].data[0]: must be text (a value of shade), is None"),
        ([numbers(), names(["red", 1, "blue", "1"])], "inputs[1].data[1]: must be text (a value of floor), is 1"),
        ([names(), numbers(["x", 2, 3, 4])], "inputs[1].data[0]: must be a number of FP32"),
    ],
)
def test_a_refusal_names_the_field(inputs: Any, message: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        InputReader(task()).read(inputs, 10)
    assert str(caught.value).startswith(message)
    assert len(str(caught.value)) < 400


@given(
    JSON
    | st.lists(st.sampled_from([numbers(), names()]) | JSON, max_size=3)
    | JSON.map(lambda d: [numbers(), names(d)])
)
def test_no_json_value_does_anything_but_pass_or_be_refused(inputs: Any) -> None:
    with suppress(InvalidRequestError):
        rows = InputReader(task()).read(inputs, 10)
        assert rows.shape[1] == 4
        assert np.isfinite(rows).all()


# --- tokens -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("value, told", [(20, "is 20"), (-1, "is -1"), (2.5, "is 2.5")])
def test_an_id_outside_of_the_vocabulary_is_refused(value: float, told: str) -> None:
    reader = InputReader(
        ManifestTask(type="regression", features=("t0", "t1"), inputs=(), outputs=(), tokens=TokenShape(vocabulary=20))
    )
    np.testing.assert_array_equal(reader.read([numbers([0, 19, 3, 4])], 10), [[0, 19], [3, 4]])
    with pytest.raises(
        InvalidRequestError, match=r"inputs\[0\].data\[2\]: must be a token's id, a whole number from 0 to 19, " + told
    ):
        reader.read([numbers([0, 19, value, 4])], 10)


# --- drift ------------------------------------------------------------------------------------------------------------
SHADES = {"values": ["red", "blue"], "ratios": [0.5, 0.3, 0.2]}


def test_names_are_counted_by_value_and_all_others_together() -> None:
    bins = FeatureBins.of({"features": {"shade": SHADES}}, ["f", "shade"], {"shade": ("blue", "green", "red")})
    rows = np.array([[0, 0], [0, 1], [0, 2], [0, 2], [0, -1]], dtype=np.float32)
    np.testing.assert_array_equal(bins.count(rows), [2, 1, 2])
    assert bins.series() == [("shade", "0"), ("shade", "1"), ("shade", "2")]


def test_missing_names_have_the_last_bin() -> None:
    told = {"values": ["red", "blue"], "ratios": [0.5, 0.2, 0.1, 0.2], "missing": True}
    bins = FeatureBins.of({"features": {"shade": told}}, ["shade"], {"shade": ("blue", "red")})
    rows = np.array([[0], [np.nan], [1], [-1], [np.nan]], dtype=np.float32)
    np.testing.assert_array_equal(bins.count(rows), [1, 1, 1, 2])
    assert rows[1, 0] != rows[1, 0]  # counting left the request's rows alone


@pytest.mark.parametrize(
    "broken", [5, {}, {"values": 3, "ratios": [1]}, {**SHADES, "ratios": [1, 2]}, {**SHADES, "missing": True}]
)
def test_a_broken_reference_of_names_is_refused_by_name(broken: Any) -> None:
    with pytest.raises(ArtifactError, match=r"reference\.json: features\.shade"):
        FeatureBins.of({"features": {"shade": broken}}, ["shade"], {"shade": ("blue", "red")})
