"""Feature bins: the counters of M8, against numpy's own searchsorted and the reference's worked example."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from espalier_server.drift import FeatureBins
from espalier_server.errors import ArtifactError


def reference(**features: Any) -> dict[str, Any]:
    return {"features": features}


def described(edges: list[float], bins: int) -> dict[str, Any]:
    return {"edges": edges, "ratios": [1 / bins] * bins}


def test_counts_equal_searchsorted() -> None:
    rng = np.random.default_rng(3)
    edges = {name: np.sort(rng.normal(size=11)).astype(np.float32) for name in "abc"}
    bins = FeatureBins.of(reference(**{name: described(found.tolist(), 10) for name, found in edges.items()}), "abc")
    rows = rng.normal(size=(5000, 3)).astype(np.float32)
    expected = [
        np.bincount(np.searchsorted(edges[name][1:-1], rows[:, column], side="right"), minlength=10)
        for column, name in enumerate("abc")
    ]
    np.testing.assert_array_equal(bins.count(rows), np.concatenate(expected))
    assert bins.count(rows).sum() == 15000


def test_outer_edges_may_be_left_out() -> None:
    rows = np.array([[-5.0], [0.5], [1.5], [99.0]], dtype=np.float32)
    inner = FeatureBins.of(reference(a=described([0.0, 1.0, 2.0], 4)), ["a"])
    outer = FeatureBins.of(reference(a=described([-9.0, 0.0, 1.0, 2.0, 9.0], 4)), ["a"])
    np.testing.assert_array_equal(inner.count(rows), [1, 1, 1, 1])
    np.testing.assert_array_equal(outer.count(rows), [1, 1, 1, 1])


def test_a_value_on_an_edge_belongs_above() -> None:
    bins = FeatureBins.of(reference(a=described([0.0, 1.0], 3)), ["a"])
    np.testing.assert_array_equal(bins.count(np.array([[0.0], [1.0]], dtype=np.float32)), [0, 1, 1])


def test_features_with_few_values_have_fewer_bins_and_all_series_have_names() -> None:
    bins = FeatureBins.of(reference(a=described([0.5], 2), c=described([1.0, 2.0], 3)), ["a", "b", "c"])
    assert bins.series() == [("a", "0"), ("a", "1"), ("c", "0"), ("c", "1"), ("c", "2")]
    np.testing.assert_array_equal(bins.count(np.array([[1.0, 7.0, 1.5]], dtype=np.float32)), [0, 1, 0, 1, 0])


def test_repeated_edges_leave_the_bin_between_them_empty() -> None:
    bins = FeatureBins.of(reference(a=described([0.0, 0.0, 1.0], 4)), ["a"])
    np.testing.assert_array_equal(bins.count(np.array([[0.0], [-1.0]], dtype=np.float32)), [1, 0, 1, 0])


def test_at_most_fifty_features_are_watched() -> None:
    names = [f"f{index}" for index in range(60)]
    bins = FeatureBins.of(reference(**{name: described([0.0], 2) for name in names}), names)
    assert bins.names == tuple(names[:50])
    assert bins.count(np.zeros((2, 60), dtype=np.float32)).sum() == 100


def test_a_reference_without_features_counts_nothing() -> None:
    assert FeatureBins.of({}, ["a"]).count(np.zeros((2, 1), dtype=np.float32)).tolist() == []


def test_missing_values_have_a_bin_of_their_own() -> None:
    shares = {"edges": [0.0, 1.0], "ratios": [0.25, 0.25, 0.25, 0.25], "missing": True}
    bins = FeatureBins.of(reference(a=shares, b=described([0.5], 2)), ["a", "b"])
    assert bins.series()[:4] == [("a", "0"), ("a", "1"), ("a", "2"), ("a", "3")]
    rows = np.array([[np.nan, 0.0], [0.5, 1.0], [7.0, 0.0], [np.nan, 0.0]], dtype=np.float32)
    np.testing.assert_array_equal(bins.count(rows), [0, 1, 1, 2, 3, 1])


@pytest.mark.parametrize(
    "broken",
    [
        5,
        {},
        {"edges": [1.0]},
        {"edges": "abc", "ratios": [1]},
        {"edges": [[1.0]], "ratios": [0.5, 0.5]},
        {"edges": [2.0, 1.0], "ratios": [0.3, 0.3, 0.4]},
        {"edges": list(range(64)), "ratios": [0.0] * 65},
        {"edges": [1.0], "ratios": 7},
        {"edges": [1.0, 2.0], "ratios": [0.5, 0.5]},
        {"edges": [float("nan"), 1.0], "ratios": [0.3, 0.3, 0.4]},
        {"edges": [1.0], "ratios": [0.5, 0.5], "missing": True},
    ],
)
def test_a_broken_reference_is_refused_by_name(broken: Any) -> None:
    with pytest.raises(ArtifactError, match=r"reference\.json: features\.a"):
        FeatureBins.of(reference(a=broken), ["a"])


def test_features_must_be_an_object() -> None:
    with pytest.raises(ArtifactError, match="features must be an object"):
        FeatureBins.of({"features": [1]}, ["a"])
