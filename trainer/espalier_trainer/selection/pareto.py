"""Which trials are best: of one objective the least, of two those that no other trial beats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from espalier_api.search_result import MAX_POINTS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from espalier_api.search import Objective, Search, SecondObjective

    Trial = Mapping[str, Any]

SUCCEEDED: Final = "Succeeded"


def best_of(trials: Sequence[Trial], asked: Objective, second: SecondObjective | None = None) -> Trial | None:
    """The best trial that succeeded: by the objective, of equals by the second one, then the earliest; None when none did."""

    def rank(trial: Trial) -> tuple[float, float, int]:
        other = 0.0 if second is None else _sign(second) * trial["second"]
        return _sign(asked) * trial["objective"], other, trial["number"]

    return min((trial for trial in trials if trial["status"] == SUCCEEDED), key=rank, default=None)


def _sign(asked: Objective | SecondObjective) -> float:
    return 1.0 if asked.goal == "minimize" else -1.0


def front(trials: Sequence[Trial], search: Search) -> list[Trial]:
    """The Pareto set: trials than which none is better in one objective and no worse in the other. Best first objective first, equals
    by number; empty without a second objective.

    Sorted by both, a trial is in the set when its second value beats all those before it, or equals the best of those with both values
    the same (Kung, Luccio and Preparata 1975, two dimensions).
    """
    if search.second_objective is None:
        return []
    one, other = _sign(search.objective), _sign(search.second_objective)
    succeeded = [trial for trial in trials if trial["status"] == SUCCEEDED]
    succeeded.sort(key=lambda trial: (one * trial["objective"], other * trial["second"], trial["number"]))
    found: list[Trial] = []
    for trial in succeeded:
        last = found[-1] if found else None
        equal = last is not None and (last["objective"], last["second"]) == (trial["objective"], trial["second"])
        if last is None or equal or other * trial["second"] < other * last["second"]:
            found.append(trial)
    return found


def spread(points: Sequence[Trial], most: int = MAX_POINTS) -> list[Trial]:
    """At most `most` of them, both ends included, evenly by position."""
    if len(points) <= most:
        return list(points)
    return [points[round(float(index))] for index in np.linspace(0, len(points) - 1, most)]
