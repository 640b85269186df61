"""Successive halving (Jamieson and Talwalkar 2016): many values get few epochs, the better part of them more, the best few all of them.

Survivors are fitted again from their start with more epochs, not continued: learning rates, ramps and strengths follow schedules over
the whole fit, so the first ten of a hundred epochs are no fit of ten epochs. That costs at most 1/(reduction - 1) of each fit more, and
makes a trial of the last rung the very trial that a random search with the same seed would have run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.selection import space

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from espalier_api.engines import Engine
    from espalier_api.search import Search
    from espalier_api.training import TrainingJob

ROUNDING: Final = 1e-9
HIST_ROUNDS: Final = 100
"""scikit-learn's own max_iter of histGradientBoosting."""


@dataclass(frozen=True, slots=True)
class Rung:
    """A round of trials that all get the same share of a whole fit."""

    trials: int  # at most: fewer when more failed below
    share: float


def rungs(search: Search) -> tuple[Rung, ...]:
    """From many short trials to few whole ones: floor(trials / reduction^i) of them, shares reduction^-k … 1, none below `minimum`."""
    reduction, least = search.steps.reduction, search.steps.minimum * (1 - ROUNDING)
    count = 1
    while reduction**-count >= least and search.trials // reduction**count >= 1:
        count += 1
    return tuple(Rung(search.trials // reduction**i, float(reduction) ** (i + 1 - count)) for i in range(count))


def promoted(rung: Sequence[Mapping[str, Any]], keep: int, goal: str) -> list[Mapping[str, Any]]:
    """The best `keep` of a rung's trials that succeeded, the earliest of equals, in the order of their numbers."""
    sign = 1.0 if goal == "minimize" else -1.0
    succeeded = [trial for trial in rung if trial["status"] == "Succeeded"]
    best = sorted(succeeded, key=lambda trial: (sign * trial["objective"], trial["number"]))[:keep]
    return sorted(best, key=lambda trial: int(trial["number"]))


def unit(engine: Engine) -> str:
    """What is dealt out. InvalidConfigError for engines that have no such number."""
    return _counted(engine)[0]


def _counted(engine: Engine) -> tuple[str, str, int]:
    """(unit, path below spec, how many a whole fit has)."""
    if engine.torch is not None:
        return "epochs", "engine.torch.epochs", engine.torch.epochs
    if engine.xgboost is not None:
        return "rounds", "engine.xgboost.rounds", engine.xgboost.rounds
    assert engine.sklearn is not None  # noqa: S101 - the API says exactly one
    if engine.sklearn.estimator == "histGradientBoosting":
        rounds = engine.sklearn.params.get("max_iter", HIST_ROUNDS)
        return "rounds", "engine.sklearn.params.max_iter", int(rounds)
    raise InvalidConfigError(
        f"search.method halving: {engine.sklearn.estimator} of scikit-learn has neither epochs nor rounds to deal out; use method random "
        "or bayesian, or the engines torch, xgboost or histGradientBoosting"
    )


def shortened(job: TrainingJob, share: float) -> tuple[TrainingJob, int]:
    """The job with this share of its epochs or rounds, rounded, at least one; and how many those are."""
    _, path, whole = _counted(job.engine)
    count = max(1, round(share * whole))
    return (job, whole) if count == whole else (space.candidate(job, {path: count}), count)


def budget(search: Search, engine: Engine, trials: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """For search.json: what was spent beside a random search that fits the same values whole, in whole fits."""
    plan = rungs(search)
    ran = [[trial for trial in trials if trial["rung"] == index] for index in range(len(plan))]
    told = [
        {"share": rung.share, "trials": len(each), "promoted": len(above)}
        for rung, each, above in zip(plan, ran, [*ran[1:], []], strict=True)
    ]
    return {
        "unit": unit(engine),
        "spent": sum(trial["resource"] for trial in trials if "resource" in trial),
        "wholeFits": sum(rung.share * len(each) for rung, each in zip(plan, ran, strict=True)),
        "wholeFitsOfRandomSearch": search.trials,
        "rungs": told,
    }
