"""Rounds of trials: what a round asks for is a function of the search, the seed and the records of the rounds before it.

So everybody who has those records, whichever worker or attempt, asks for the same trials. Grid, random and path know all of theirs at
once. A Bayesian search begins with its random trials, then asks for as many at once as there are workers. A rung of halving is a round.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from espalier_trainer.selection import halving, proposals

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from espalier_api.search import Search
    from espalier_trainer.selection.proposals import Values


@dataclass(frozen=True, slots=True)
class Asked:
    """A trial to be run."""

    number: int
    values: Values
    configuration: int  # the first trial with these values: fits of the same values begin at the same weights
    rung: int | None = None  # of halving
    share: float = 1.0  # of the epochs or rounds


def sizes(search: Search) -> tuple[int, ...]:
    """Trials of each round; of halving's later rungs, at most. InvalidConfigError when the space does not fit the method."""
    if search.method == "halving":
        return tuple(rung.trials for rung in halving.rungs(search))
    total = proposals.count(search)
    if search.method != "bayesian":
        return (total,)
    first = min(proposals.STARTUP, total)
    at_once = min(search.workers, total)
    starts = range(first, total, at_once)
    return (first, *(min(at_once, total - start) for start in starts))


def ask(search: Search, seed: int, index: int, records: Sequence[Mapping[str, Any]]) -> list[Asked]:
    """Round `index`; `records` are those of all rounds before it, by number."""
    planned = sizes(search)
    first = sum(planned[:index])
    if search.method == "halving" and index:
        return _survivors(search, index, first, records)
    rung, share = (0, halving.rungs(search)[0].share) if search.method == "halving" else (None, 1.0)
    pending: list[Values] = []
    for _ in range(planned[index]):
        pending.append(proposals.propose(search, seed, records, pending))
    return [Asked(number, values, number, rung, share) for number, values in enumerate(pending, first)]


def _survivors(search: Search, index: int, first: int, records: Sequence[Mapping[str, Any]]) -> list[Asked]:
    """Numbers count on from the planned size of the rungs below, so that they do not depend on failures there."""
    rung = halving.rungs(search)[index]
    below = [trial for trial in records if trial["rung"] == index - 1]
    return [
        Asked(number, dict(trial["params"]), int(trial["configuration"]), index, rung.share)
        for number, trial in enumerate(halving.promoted(below, rung.trials, search.objective.goal), first)
    ]
