"""JSON tensors: every accepted form means the same rows, everything else is refused with the field's name."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from espalier_server.errors import InvalidRequestError
from espalier_server.tensors import decode

ROWS = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
FLAT = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]


def tensor(**changes: Any) -> list[dict[str, Any]]:
    """A good tensor of two rows; keyword arguments replace its fields, None removes one."""
    fields = {"name": "input", "shape": [2, 3], "datatype": "FP32", "data": FLAT} | changes
    return [{key: value for key, value in fields.items() if value is not None}]


@pytest.mark.parametrize("data", [FLAT, ROWS, [1, 2, 3, 4, 5, 6], [[1, 2, 3], [4, 5, 6]]])
@pytest.mark.parametrize("datatype", ["FP32", "FP64"])
def test_nested_and_flat_data_are_the_same_rows(data: list[Any], datatype: str) -> None:
    np.testing.assert_array_equal(decode(tensor(data=data, datatype=datatype), 3, 10), ROWS)


@pytest.mark.parametrize("datatype", ["INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"])
def test_integers_are_accepted_where_they_are_promised(datatype: str) -> None:
    rows = decode(tensor(data=[1, 2, 3, 4, 5, 6], datatype=datatype), 3, 10)
    np.testing.assert_array_equal(rows, ROWS)
    assert rows.dtype == np.float32
    assert rows.flags.c_contiguous


def test_booleans_are_zero_and_one() -> None:
    rows = decode(tensor(data=[True, False, 1, 0, True, True], datatype="BOOL"), 3, 10)
    np.testing.assert_array_equal(rows, [[1, 0, 1], [0, 1, 1]])


@pytest.mark.parametrize(
    "inputs,field",
    [
        (None, "inputs"),
        ([], "inputs"),
        ({}, "inputs"),
        ([1], "inputs"),
        (tensor() + tensor(), "inputs"),
        (tensor(name="x"), "inputs[0].name"),
        (tensor(name=None), "inputs[0].name"),
        (tensor(datatype="FP128"), "inputs[0].datatype"),
        (tensor(datatype="BYTES"), "inputs[0].datatype"),
        (tensor(datatype=["FP32"]), "inputs[0].datatype"),
        (tensor(shape=[6]), "inputs[0].shape"),
        (tensor(shape=[2, 4]), "inputs[0].shape"),
        (tensor(shape=[2.0, 3]), "inputs[0].shape"),
        (tensor(shape=[True, 3]), "inputs[0].shape"),
        (tensor(shape=[0, 3], data=[]), "inputs[0].shape"),
        (tensor(shape=[-2, 3]), "inputs[0].shape"),
        (tensor(shape=[11, 3], data=[0.0] * 33), "inputs[0].shape"),
        (tensor(shape=None), "inputs[0].shape"),
        (tensor(data=None), "inputs[0].data"),
        (tensor(data="123456"), "inputs[0].data"),
        (tensor(data=FLAT[:5]), "inputs[0].data"),
        (tensor(data=ROWS[:1]), "inputs[0].data"),
        (tensor(data=[[1.0, 2.0], [4.0, 5.0, 6.0]]), "inputs[0].data[0]"),
        (tensor(data=[[1.0, 2.0, 3.0], 4.0]), "inputs[0].data[1]"),
        (tensor(data=[1.0, 2.0, [3.0], 4.0, 5.0, 6.0]), "inputs[0].data[2]"),
        (tensor(data=[1.0, "2", 3.0, 4.0, 5.0, 6.0]), "inputs[0].data[1]"),
        (tensor(data=[1.0, 2.0, None, 4.0, 5.0, 6.0]), "inputs[0].data[2]"),
        (tensor(data=[1.0, 2.0, 3.0, True, 5.0, 6.0]), "inputs[0].data[3]"),
        (tensor(data=[1.0, 2.0, 3.0, 4.0, 1e300, 6.0]), "inputs[0].data[4]"),
        (tensor(data=[1.0, 2.0, 3.0, 4.0, float("nan"), 6.0]), "inputs[0].data[4]"),
        (tensor(data=[1, 2, 3, 4, 5.5, 6], datatype="INT32"), "inputs[0].data[4]"),
        (tensor(data=[1, 2, 3, 4, 5, -6], datatype="UINT8"), "inputs[0].data[5]"),
        (tensor(data=[1, 2, 300, 4, 5, 6], datatype="UINT8"), "inputs[0].data[2]"),
        (tensor(data=[1, 0, 1, 2, 0, 0], datatype="BOOL"), "inputs[0].data[3]"),
    ],
)
def test_a_refusal_names_the_field(inputs: Any, field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        decode(inputs, 3, 10)
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field}: ")
    assert len(str(caught.value)) < 400


def test_null_is_a_missing_value_where_the_model_may_miss_it() -> None:
    rows = decode(tensor(data=[1.0, None, 3.0, None, None, 6.0]), 3, 10, nullable=True)
    np.testing.assert_array_equal(rows, [[1.0, np.nan, 3.0], [np.nan, np.nan, 6.0]])
    assert rows.dtype == np.float32
    ones = decode(tensor(data=[True, None, 1, None, None, None], datatype="BOOL"), 3, 10, nullable=True)
    np.testing.assert_array_equal(ones, [[1, np.nan, 1], [np.nan] * 3])
    assert np.isnan(decode(tensor(data=[None] * 6, datatype="INT8"), 3, 10, nullable=True)).all()


@pytest.mark.parametrize("value, at", [("x", 2), (1e300, 2), ([None], 2), (True, 2)])
def test_beside_null_everything_else_is_still_checked(value: Any, at: int) -> None:
    data = [1.0, None, 3.0, 4.0, 5.0, 6.0]
    data[at] = value
    with pytest.raises(InvalidRequestError) as caught:
        decode(tensor(data=data), 3, 10, nullable=True)
    assert caught.value.field == f"inputs[0].data[{at}]"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
NEARLY = st.fixed_dictionaries(
    {},
    optional={
        "name": st.just("input") | JSON,
        "shape": st.just([2, 3]) | JSON,
        "datatype": st.sampled_from(["FP32", "INT64", "UINT8", "BOOL", "BYTES"]) | JSON,
        "data": st.lists(JSON, min_size=6, max_size=6) | st.just(ROWS) | JSON,
    },
)


@given(JSON | st.lists(NEARLY, min_size=1, max_size=1))
def test_no_json_value_does_anything_but_pass_or_be_refused(inputs: Any) -> None:
    with suppress(InvalidRequestError):
        rows = decode(inputs, 3, 10)
        assert rows.shape[1] == 3
        assert np.isfinite(rows).all()
