"""What benches say of their figures: ranks, duels and bars can be lost."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy.stats import wilcoxon

from bench import eight_sets_table, page, quality

if TYPE_CHECKING:
    from pathlib import Path


def cells(scores: dict[str, list[list[float]]]) -> list[dict[str, Any]]:
    """`scores[name][set][seed]`."""
    sets, seeds = len(next(iter(scores.values()))), len(next(iter(scores.values()))[0])
    sizes = {"train": 1, "validation": 1, "test": 1, "features": 1, "classes": 2}
    return [
        {
            "set": f"s{s}",
            "seed": seed,
            "sizes": sizes,
            "found": {name: {"test": values[s][seed], "cpuSeconds": 1.0} for name, values in scores.items()},
        }
        for s in range(sets)
        for seed in range(seeds)
    ]


def test_ranks_are_of_means_and_ties_share() -> None:
    told = eight_sets_table.summary(
        cells({"hero": [[9, 7], [5, 5]], "a": [[8, 8], [6, 6]], "b": [[1, 1], [5, 5]]}), "hero"
    )
    assert told["ranks"] == {"hero": 2.0, "a": 1.25, "b": 2.75}
    assert told["duels"]["a"] | {"p": 0, "pOfSets": 0} == {
        "wins": 1, "ties": 0, "losses": 3, "difference": -0.5, "p": 0, "pOfSets": 0, "rank": 1.25,
    }  # fmt: skip
    assert "MISSED, a ranked as well or better" in eight_sets_table.verdict(told)
    assert "hero" in eight_sets_table.text(told)
    assert eight_sets_table.picture(told).startswith(b"\x89PNG")


def test_p_is_scipys_and_1_where_nothing_differs() -> None:
    draw = np.random.default_rng(0)
    ours, theirs = draw.normal(1, 1, (8, 5)), draw.normal(size=(8, 5))
    told = eight_sets_table.duel(ours, theirs)
    assert told["p"] == pytest.approx(wilcoxon((ours - theirs).ravel()).pvalue)
    assert eight_sets_table.duel(ours, ours)["p"] == 1.0


def test_a_missing_cell_is_said() -> None:
    with pytest.raises(ValueError, match="3 cells for 2 sets x 2 seeds"):
        eight_sets_table.summary(cells({"hero": [[9, 7], [5, 5]], "a": [[8, 8], [6, 6]]})[:3], "hero")


def test_a_bar_is_missed_by_points_or_by_one_seed() -> None:
    def runs(*values: float) -> list[dict[str, float]]:
        return [{"accuracy": value, "eceAfter": 0.07} for value in values]

    found = {name: runs(90, 90) for name in quality.PROMISED} | {"none": runs(70, 70)}
    assert [line[:3] for line in quality.bars(found, 0.3)] == ["met"] * 5
    found["fgsm"], found["gce 0.7"] = runs(69.9, 99), runs(74, 74)
    told = quality.bars({**found, quality.SEARCHED: runs(92, 92)}, 0.3)
    assert [line[:6] for line in told] == ["met   ", "met   ", "MISSED", "met   ", "MISSED", "MISSED", "MISSED"]


def test_what_was_not_run_is_not_on_the_page(tmp_path: Path) -> None:
    assert page.page(tmp_path).count("Not run") == 7
    where = {"date": "d", "processor": "p", "cpus": 2, "load": [1.0], "python": "3", "versions": {}}
    shard = {"maps": 250, "cpuSeconds": 5.0, "where": where, "counts": {"trained": 70, "refused": 179, "broken": 1}}
    (tmp_path / "fuzz").mkdir()
    (tmp_path / "fuzz" / "000000.json").write_text(json.dumps(shard))
    assert "| 179 | 70 | 0 | 1 |" in page.page(tmp_path)


def test_figures_of_another_machine_stay(tmp_path: Path) -> None:
    before = page.page(tmp_path).replace("Not run.", "1 map, 0 broken.\n\n| refused |\n| --- |", 5)
    assert page.page(tmp_path, before) == before
