"""A search inside the training Job: trials in rounds, each a validated job of its own, judged on rows it was not fitted on.

Trials are functions of (search, seed, rounds before), and what they came to lies in the store, one record each: a killed search goes on
with the trial that was cut, several workers share one search, and all end with the same winner (docs/adr/0072). The winner is then
fitted once more like any job.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from espalier_api.search_result import ParetoPoint, SearchSummary
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.log import say
from espalier_trainer.selection import folds, halving, pareto, rounds, space
from espalier_trainer.selection.trial import FAILED, Bench

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from espalier_api.search import Search
    from espalier_api.training import TrainingJob
    from espalier_trainer.prepared import Prepared
    from espalier_trainer.progress import Board
    from espalier_trainer.selection.records import Records
    from espalier_trainer.selection.rounds import Asked
    from espalier_trainer.selection.team import Team
    from espalier_trainer.session import Preemption

FILE: Final = "search.json"


@dataclass(frozen=True, slots=True)
class Found:
    """What a search came to."""

    job: TrainingJob
    """The winner's; `search` stays, for the lineage."""
    file: bytes
    summary: SearchSummary


def run(
    job: TrainingJob, prepared: Prepared, records: Records, team: Team, board: Board, preemption: Preemption
) -> Found | None:
    """My part of all trials that are left, and the best of all; None for a worker that does not lead, once nothing is left for it.

    InvalidConfigError when more fail than `maxFailed`, or all.
    """
    assert job.search is not None  # noqa: S101 - the caller looked
    search = job.search
    space.check_paths(search)
    sizes = rounds.sizes(search)
    if search.method == "halving":
        halving.unit(job.engine)
    bench = Bench(job, search, prepared, _folds(job, search, prepared), board, preemption)
    board.phase("Searching")
    if records.refresh():
        say("trials-found", count=len(records))
    last: list[dict[str, Any]] = []
    for index in range(len(sizes)):
        asked = rounds.ask(search, job.seed, index, records_before(records, sum(sizes[:index])))
        _run_mine(asked, bench, records, team, sum(sizes))
        if not team.is_needed(sizes[index + 1 :]):
            return None
        numbers = [each.number for each in asked]
        team.await_(numbers, records, preemption, lambda: _tell(board, records, search, sum(sizes)))
        last = [trial for trial in records.sorted() if trial["number"] in set(numbers)]
    trials = records.sorted()
    judged = last if search.method == "halving" else trials  # shorter fits are not comparable with whole ones
    best = pareto.best_of(judged, search.objective, search.second_objective)
    if best is None:
        what = "no trial of the last rung succeeded" if search.method == "halving" else "all trials failed"
        raise InvalidConfigError(
            f"search: {what}; of {len(trials)} in all, the last one ended with: {trials[-1].get('reason')}"
        )
    board.trials(len(trials), len(trials), best["objective"])
    front = pareto.front(judged, search)
    return Found(
        space.candidate(job, best["params"]),
        _file(job, search, trials, best, front),
        _summary(search, trials, best, front),
    )


def records_before(records: Records, number: int) -> list[dict[str, Any]]:
    """Of trials below `number`."""
    return [trial for trial in records.sorted() if trial["number"] < number]


def _folds(job: TrainingJob, search: Search, prepared: Prepared) -> list[folds.Fold]:
    kind = job.data.split.strategy
    each = (
        [folds.whole(prepared)]
        if search.folds == 1
        else list(folds.folds_of(prepared, kind, search.folds, job.seed, "search.folds"))
    )
    if not all(len(fold.held) for fold in each):
        raise InvalidConfigError(
            "search: data.split.validation is 0, and trials are judged there; raise it, or use folds"
        )
    return each


def _run_mine(asked: Sequence[Asked], bench: Bench, records: Records, team: Team, total: int) -> None:
    """The trials of a round that are mine and have no record yet."""
    for position, each in enumerate(asked):
        if not team.owns(position) or each.number in records:
            continue
        bench.preemption.check(f"trial {each.number + 1} of {total}")
        if team.count > 1:
            records.refresh()
        _tell(bench.board, records, bench.search, total)
        say("trial", **records.keep(bench.run(each, len(records), total)))
    _tell(bench.board, records, bench.search, total)


def _tell(board: Board, records: Records, search: Search, total: int) -> None:
    """How far the search is. InvalidConfigError when too much failed."""
    trials = records.sorted()
    whole = [trial for trial in trials if trial.get("rung", 0) == max((t.get("rung", 0) for t in trials), default=0)]
    best = pareto.best_of(whole, search.objective, search.second_objective)
    board.trials(len(trials), total, None if best is None else float(best["objective"]))
    _refuse_failures(trials, search)


def _refuse_failures(trials: Sequence[Mapping[str, Any]], search: Search) -> None:
    failed = [trial for trial in trials if trial["status"] == FAILED]
    if len(failed) > search.max_failed:
        first = failed[0]
        longer = ", raise search.halving.minimum" if search.method == "halving" else ""
        raise InvalidConfigError(
            f"search: {len(failed)} of {len(trials)} trials failed and maxFailed is {search.max_failed}; trial {first['number']} with "
            f"{first['params']}: {first['reason']}. Narrow the space{longer} or raise search.maxFailed"
        )


def _file(
    job: TrainingJob,
    search: Search,
    trials: Sequence[Mapping[str, Any]],
    best: Mapping[str, Any],
    front: Sequence[Mapping[str, Any]],
) -> bytes:
    told: dict[str, Any] = {"search": search.dump(), "seed": job.seed, "trials": list(trials), "best": best}
    if search.second_objective is not None:
        told["pareto"] = [trial["number"] for trial in front]
    if search.method == "halving":
        told["budget"] = halving.budget(search, job.engine, trials)
    return (json.dumps(told, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def _summary(
    search: Search,
    trials: Sequence[Mapping[str, Any]],
    best: Mapping[str, Any],
    front: Sequence[Mapping[str, Any]],
) -> SearchSummary:
    second = search.second_objective
    return SearchSummary(
        method=search.method,
        trials=len(trials),
        failed=sum(trial["status"] == FAILED for trial in trials),
        metric=search.objective.metric,
        best=best["objective"],
        number=best["number"],
        params=dict(best["params"]),
        second_metric=None if second is None else second.metric,
        second=best.get("second"),
        pareto=tuple(
            ParetoPoint(number=trial["number"], value=trial["objective"], second=trial["second"])
            for trial in pareto.spread(front)
        ),
    )
