"""Identity: pinned, because a new hash of an old spec would retrain a fleet."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espalier_api.hashing import canonical_json, json_digest, snapshot_digest, spec_hash
from espalier_api.model import RegularizedModelSpec

SNAPSHOT = "sha256:" + "0" * 64
SPEC: dict[str, Any] = {
    "task": {"type": "classification", "classes": ["0", "1"]},
    "data": {
        "snapshot": {"uri": "s3://datasets/digits/2026-11-01/"},
        "target": "label",
        "split": {"validation": 0.2, "calibration": 0.1, "test": 0.2, "seed": 7},
    },
    "engine": {
        "torch": {"architecture": {"mlp": {"hidden": [256, 256]}}, "optimizer": {"adamw": {"learningRate": 1.0e-3}}}
    },
    "regularizers": {
        "l2": {"strength": 1.0e-4},
        "dropout": {"p": 0.3},
        "earlyStopping": {"monitor": "refinement"},
        "calibration": {},
    },
    "artifacts": {"uri": "s3://models/"},
}
PINNED = "sha256:8dac39de78e6572381c8e4ea2299eb8dce17c3d577e7a605033ce855df157836"


def digest(changes: dict[str, Any] | None = None, request: str | None = None) -> str:
    return spec_hash(RegularizedModelSpec.model_validate({**SPEC, **(changes or {})}), SNAPSHOT, request)


def test_hash_of_a_spec_never_changes() -> None:
    assert digest() == PINNED


@pytest.mark.parametrize(
    "changes",
    [
        {"evaluation": {"gates": [{"metric": "accuracy", "min": 0.9}]}},
        {"serving": {"replicas": 3}},
        {"slos": [{"name": "quality", "objective": 0.95, "quality": {}}]},
        {"training": {"resources": {"limits": {"cpu": "2"}}, "deadline": "1h", "retries": 5}},
        {"artifacts": {"uri": "s3://models/", "retention": {"keep": 9}}},
        {"regularizers": {**SPEC["regularizers"], "dropout": {"p": 0.3, "kind": "element"}}},
        {"regularizers": {**SPEC["regularizers"], "l2": {"strength": "1e-4"}}},
    ],
    ids=["gates", "serving", "slos", "training", "retention", "default-written-out", "number-as-text"],
)
def test_what_does_not_make_a_new_version(changes: dict[str, Any]) -> None:
    assert digest(changes) == digest()


@pytest.mark.parametrize(
    "changes",
    [
        {"task": {"type": "classification", "classes": ["1", "0"]}},
        {"data": {**SPEC["data"], "target": "other"}},
        {"engine": {"torch": {"architecture": {"mlp": {"hidden": [128]}}}}},
        {"regularizers": {**SPEC["regularizers"], "l2": {"strength": 2.0e-4}}},
        {"regularizers": {**SPEC["regularizers"], "gradientClipping": {}}},
        {"evaluation": {"seeds": 3}},
        {"training": {"image": "example/trainer@sha256:1"}},
        {"search": {"space": {"regularizers.l2.strength": {"logUniform": {"min": 1e-6, "max": 0.1}}}}},
    ],
    ids=["task", "data", "engine", "strength", "block-of-defaults", "seeds", "image", "search"],
)
def test_what_makes_a_new_version(changes: dict[str, Any]) -> None:
    assert digest(changes) != digest()


def test_a_retrain_request_and_other_data_make_a_new_version() -> None:
    assert digest(request="drift@1") != digest()
    assert spec_hash(RegularizedModelSpec.model_validate(SPEC), "sha256:" + "1" * 64) != digest()


def test_canonical_json_knows_one_form_per_value() -> None:
    assert canonical_json({"b": 1.0, "a": [1e-4, True, None, "ä"]}) == '{"a":[0.0001,true,null,"ä"],"b":1}'
    with pytest.raises(ValueError, match="finite"):
        canonical_json(float("nan"))


@given(
    st.dictionaries(
        st.text(max_size=5), st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
    )
)
def test_digest_ignores_the_order_of_keys(value: dict[str, Any]) -> None:
    assert json_digest(value) == json_digest(dict(reversed(value.items())))


def test_snapshot_digest_is_the_listing_sorted_by_key() -> None:
    entries = [("b.parquet", 1, '"x"'), ("a.parquet", 2, "y")]
    expected = "sha256:7a84ea31afabb51638a8191df4ccc9bb9474475b5e9c60b84acc75af3b6eba5f"
    assert snapshot_digest(entries) == snapshot_digest(reversed(entries)) == expected
    assert snapshot_digest([("a.parquet", 2, "y")]) != expected
