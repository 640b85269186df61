"""A proof asserts its bar, keeps the figure closest to it, and replaces what the same test said before."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.proofs import Proof, merged, record, worst

if TYPE_CHECKING:
    from pathlib import Path


def made(measured: float, *, at_most: float | None = 1.0, at_least: float | None = None, test: str = "t") -> Proof:
    return Proof("l2", "Ridge", measured, at_most, at_least, test)


@pytest.mark.parametrize(
    "bad", [made(1.1), made(float("nan")), made(float("-inf")), made(0.4, at_most=None, at_least=0.5)]
)
def test_a_figure_beyond_its_bar_fails(bad: Proof) -> None:
    with pytest.raises(AssertionError, match="l2 against Ridge: measured"):
        bad.check()


def test_a_figure_at_its_bar_passes() -> None:
    made(1.0).check()
    made(0.5, at_most=None, at_least=0.5).check()


@pytest.mark.parametrize(
    "bad, words",
    [(Proof("l3", "o", 0.0, 1.0, None, "t"), "no regularizer 'l3'"), (made(0.0, at_most=None), "no bar")],
)
def test_a_proof_that_proves_nothing_is_refused(bad: Proof, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        bad.check()


def test_of_a_parametrized_test_the_figure_closest_to_the_bar_is_kept() -> None:
    assert worst([made(0.1), made(0.9), made(0.5)]) == [made(0.9)]
    assert worst([made(3, at_most=None, at_least=2), made(9, at_most=None, at_least=2)])[0].measured == 3


def test_a_second_run_replaces_what_the_same_test_said() -> None:
    first = merged({}, [made(0.1234567), made(0.2, test="other")])
    assert first["l2"][1] == {"oracle": "Ridge", "measured": 0.123, "at_most": 1.0, "test": "t"}
    second = merged(first, [Proof("l2", "Ridge, renamed", 0.3, 1.0, None, "t")])
    assert [(each["oracle"], each["test"]) for each in second["l2"]] == [("Ridge", "other"), ("Ridge, renamed", "t")]


def test_records_are_merged_into_the_file(tmp_path: Path) -> None:
    file = tmp_path / "proofs.json"
    record([made(0.1)], file)
    record([], file)
    record([Proof("dropout", "ridge", 0.1, 1.0, None, "t")], file)
    assert list(json.loads(file.read_text())) == ["dropout", "l2"]


def test_the_fixture_asserts(proof: object) -> None:
    with pytest.raises(AssertionError, match=r"at most 0\.1 is allowed"):
        proof("l2", "a figure beyond its bar", 0.2, at_most=0.1)  # type: ignore[operator]
