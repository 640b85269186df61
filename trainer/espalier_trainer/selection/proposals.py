"""Which values the next trial gets: a function of the search, the seed and the trials so far, so that a replay proposes the same."""

from __future__ import annotations

import itertools
import math
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from espalier_trainer import rng
from espalier_trainer.errors import InvalidConfigError

Values = dict[str, float | str]

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from espalier_api.search import Dimension, Objective, Search, SecondObjective

STARTUP: Final = 10
"""Random trials before the Bayesian model speaks (optuna's own default)."""


def count(search: Search) -> int:
    """Trials that there will be. InvalidConfigError when the space does not fit the method."""
    if search.method == "grid":
        return len(_grid(search))
    if search.method == "path":
        return len(_path(search))
    return search.trials


def propose(search: Search, seed: int, trials: Sequence[Mapping[str, Any]], pending: Sequence[Values] = ()) -> Values:
    """Values of trial number len(trials) + len(pending), by path: `trials` are the records of the rounds before, `pending` the values of
    this round's trials before it, which run at the same time.
    """
    return _METHODS[search.method](search, seed, trials, pending)


def _random(search: Search, seed: int, trials: Sequence[Mapping[str, Any]], pending: Sequence[Values]) -> Values:
    number = len(trials) + len(pending)
    return {
        path: at(dimension, rng.derive(seed, "random", number, index) / (1 << 63))
        for index, (path, dimension) in enumerate(search.space.items())
    }


def at(dimension: Dimension, share: float) -> float | str:
    """The value at `share` in [0, 1) of the way through a dimension."""
    if dimension.uniform is not None:
        low, high = dimension.uniform.min, dimension.uniform.max
        return low + share * (high - low)
    if dimension.log_uniform is not None:
        low, high = math.log(dimension.log_uniform.min), math.log(dimension.log_uniform.max)
        return min(max(math.exp(low + share * (high - low)), dimension.log_uniform.min), dimension.log_uniform.max)
    if dimension.int_uniform is not None:
        low, high = math.ceil(dimension.int_uniform.min), math.floor(dimension.int_uniform.max)
        return float(min(low + int(share * (high - low + 1)), high))
    listed = dimension.choice or dimension.categories
    assert listed is not None  # noqa: S101 - the API says exactly one
    return listed[min(int(share * len(listed)), len(listed) - 1)]


# --- grid and path ----------------------------------------------------------------------------------------------------
def _grid(search: Search) -> list[tuple[float | str, ...]]:
    """Listed values as they are; ranges get as many even levels as `trials` allows, at least 2."""
    listed = {path: values for path, one in search.space.items() if (values := one.choice or one.categories)}
    ranges = len(search.space) - len(listed)
    fixed = math.prod(map(len, listed.values()))
    levels = 2
    while ranges and fixed * (levels + 1) ** ranges <= search.trials:
        levels += 1
    if (total := fixed * levels**ranges) > search.trials:
        raise InvalidConfigError(
            f"search: this grid has at least {total} points and trials is {search.trials}; raise trials, list fewer values, or use random"
        )
    axes = [listed[path] if path in listed else _levels(one, levels) for path, one in search.space.items()]
    return list(itertools.product(*axes))


def _levels(dimension: Dimension, levels: int) -> tuple[float | str, ...]:
    """Evenly spaced values with both ends; whole numbers without repeats."""
    if dimension.int_uniform is not None:
        low, high = math.ceil(dimension.int_uniform.min), math.floor(dimension.int_uniform.max)
        return tuple(dict.fromkeys(float(round(low + i * (high - low) / (levels - 1))) for i in range(levels)))
    return tuple(at(dimension, i / (levels - 1)) for i in range(levels))


def _path(search: Search) -> list[float]:
    """Values of the one dimension from the largest to the smallest."""
    (dimension, *more) = search.space.values()
    if more or dimension.categories is not None or (dimension.choice is None and search.trials < 2):  # noqa: PLR2004 - both ends
        raise InvalidConfigError(
            "search.method path walks along one number, from strong to weak; give one numeric dimension and at least two trials"
        )
    values = dimension.choice or _levels(dimension, search.trials)
    return sorted((float(value) for value in values), reverse=True)[: search.trials]


def _from_grid(search: Search, _: int, trials: Sequence[Mapping[str, Any]], pending: Sequence[Values]) -> Values:
    return dict(zip(search.space, _grid(search)[len(trials) + len(pending)], strict=True))


def _from_path(search: Search, _: int, trials: Sequence[Mapping[str, Any]], pending: Sequence[Values]) -> Values:
    return dict(zip(search.space, (_path(search)[len(trials) + len(pending)],), strict=True))


# --- bayesian ---------------------------------------------------------------------------------------------------------
def _bayesian(search: Search, seed: int, trials: Sequence[Mapping[str, Any]], pending: Sequence[Values]) -> Values:
    """Tree-structured Parzen estimators (Bergstra et al. 2011; with two objectives Ozaki et al. 2022) by optuna. The sampler is made anew
    for each trial from its own seed and the recorded trials: there is no hidden state to lose. Failed trials are no evidence; trials of
    the same round count as bad ones there (constant liar), so that no two workers try the same.
    """
    number = len(trials) + len(pending)
    if number < min(STARTUP, search.trials):
        return _random(search, seed, trials, pending)
    optuna = import_module("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(
        seed=rng.derive(seed, "tpe", number) % 2**32, n_startup_trials=0, constant_liar=bool(pending)
    )
    study = optuna.create_study(sampler=sampler, directions=[each.goal for each in _objectives(search)])
    distributions = {path: _distribution(optuna.distributions, one) for path, one in search.space.items()}

    def add(params: Mapping[str, float | str], **outcome: Any) -> None:  # noqa: ANN401 - the library's words
        known = {path: _told(search.space[path], value) for path, value in params.items()}
        study.add_trial(optuna.trial.create_trial(params=known, distributions=distributions, **outcome))

    names = ("objective", "second")[: len(study.directions)]
    for trial in trials:
        if trial["status"] == "Succeeded":
            add(trial["params"], values=[trial[name] for name in names])
    for params in pending:
        add(params, state=optuna.trial.TrialState.RUNNING)
    asked = study.ask(distributions).params
    return {path: asked[path] if isinstance(asked[path], str) else float(asked[path]) for path in search.space}


def _objectives(search: Search) -> list[Objective | SecondObjective]:
    return [search.objective, *([] if search.second_objective is None else [search.second_objective])]


def _distribution(kinds: Any, dimension: Dimension) -> Any:  # noqa: ANN401 - optuna is imported when it is needed
    if dimension.uniform is not None:
        return kinds.FloatDistribution(dimension.uniform.min, dimension.uniform.max)
    if dimension.log_uniform is not None:
        return kinds.FloatDistribution(dimension.log_uniform.min, dimension.log_uniform.max, log=True)
    if dimension.int_uniform is not None:
        return kinds.IntDistribution(math.ceil(dimension.int_uniform.min), math.floor(dimension.int_uniform.max))
    return kinds.CategoricalDistribution(dimension.choice or dimension.categories)


def _told(dimension: Dimension, value: float | str) -> float | int | str:
    return int(value) if dimension.int_uniform is not None and not isinstance(value, str) else value


_METHODS: Final[dict[str, Callable[[Search, int, Sequence[Mapping[str, Any]], Sequence[Values]], Values]]] = {
    "random": _random,
    "halving": _random,  # of its first rung; rounds.py has the others
    "grid": _from_grid,
    "path": _from_path,
    "bayesian": _bayesian,
}
