"""Search over hyperparameters: which fields vary, how trials are chosen, what is optimized."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from espalier_api.base import ApiModel, Cel, exactly_one

FieldPath = Annotated[str, StringConstraints(pattern=r"^(regularizers|engine)(\.[a-z][A-Za-z0-9_]*)+$", max_length=128)]
"""Dotted path below spec, e.g. `regularizers.l2.strength`."""


Category = Annotated[str, StringConstraints(min_length=1, max_length=64)]


class Range(ApiModel):
    """A closed interval."""

    min: float
    """Smallest value."""
    max: float
    """Largest value."""

    cel = (
        Cel(
            rule="self.min < self.max",
            message="range: min must be smaller than max",
            holds=lambda interval: interval.min < interval.max,
        ),
    )


class LogRange(Range):
    """A closed interval that is even on a logarithmic scale."""

    min: float = Field(gt=0)
    """Smallest value, above 0."""

    cel = Range.cel


class Dimension(ApiModel):
    """How one field varies."""

    uniform: Range | None = None
    """Evenly."""
    log_uniform: LogRange | None = None
    """Evenly on a logarithmic scale."""
    int_uniform: Range | None = None
    """Evenly over whole numbers."""
    choice: tuple[float, ...] | None = Field(default=None, min_length=1, max_length=64)
    """One of these numbers, for example an explicit 0 beside a few strengths."""
    categories: tuple[Category, ...] | None = Field(default=None, min_length=1, max_length=64)
    """One of these words; `true` and `false` for switches."""

    cel = (exactly_one("uniform", "log_uniform", "int_uniform", "choice", "categories", what="space"),)


class Objective(ApiModel):
    """What a trial is ranked by, on the validation part."""

    metric: Literal["valLoss", "accuracy", "balancedAccuracy", "f1", "auroc", "rmse", "r2"] = "valLoss"
    """Name of the number."""
    goal: Literal["minimize", "maximize"] = "minimize"
    """Better is smaller or larger."""


class SecondObjective(ApiModel):
    """What is weighed against the objective: no trial wins by it alone, it makes the Pareto set and decides between equals."""

    metric: Literal[
        "valLoss",
        "accuracy",
        "balancedAccuracy",
        "f1",
        "auroc",
        "rmse",
        "r2",
        "parameters",
        "nonzeroParameters",
        "artifactBytes",
    ]
    """Name of the number: one of the validation part, or a size: numbers in the weights, those not zero, bytes of graph and weights."""
    goal: Literal["minimize", "maximize"] = "minimize"
    """Better is smaller or larger."""


class Halving(ApiModel):
    """How successive halving deals out epochs (torch) or rounds (xgboost, histGradientBoosting)."""

    reduction: int = Field(default=3, ge=2, le=16)
    """Each rung keeps the best 1/reduction of its trials, rounded down, and gives them reduction times as much."""
    minimum: float = Field(default=0.1, gt=0, le=0.5)
    """Share of the epochs or rounds that a trial of the first rung gets, at least."""

    cel = (
        Cel(
            rule="double(self.reduction) * self.minimum <= 1.0",
            message="halving: minimum must be at most 1/reduction, else nothing is ever cut short",
            holds=lambda halving: halving.reduction * halving.minimum <= 1.0,
        ),
    )


class Search(ApiModel):
    """A sweep; the winner is then fitted once more on the whole training part."""

    method: Literal["grid", "random", "bayesian", "path", "halving"] = "random"
    """How trials are chosen."""
    trials: int = Field(default=20, ge=1, le=1000)
    """How many, at most; of halving, how many sets of values the first rung tries."""
    parallelism: int = Field(default=1, ge=1, le=100)
    """Trials at once: as many pods share them. A Bayesian round is as large, so there, and only there, it helps to decide the winner."""
    objective: Objective = Objective()
    """What is optimized."""
    second_objective: SecondObjective | None = None
    """What it is weighed against; the trials that no other beats in both are told as the Pareto set."""
    halving: Halving | None = None
    """Of method halving."""
    folds: int = Field(default=1, ge=1, le=20)
    """Folds per trial; 1 uses the validation part."""
    max_failed: int = Field(default=0, ge=0, le=1000)
    """Trials that may fail before the search does."""
    space: dict[FieldPath, Dimension] = Field(min_length=1, max_length=32)
    """What varies."""

    cel = (
        Cel(
            rule="!has(self.halving) || self.method == 'halving'",
            message="search.halving: only method halving reads it; set method to halving or remove it",
            holds=lambda search: search.halving is None or search.method == "halving",
        ),
        Cel(
            rule="self.method != 'halving' || self.trials >= (has(self.halving) ? self.halving.reduction : 3)",
            message="search.trials: method halving needs at least halving.reduction trials, else none is ever promoted",
            holds=lambda search: search.method != "halving" or search.trials >= search.steps.reduction,
        ),
        Cel(
            rule="self.method != 'path' || self.parallelism == 1",
            message="search.parallelism: method path goes from strong to weak one after another; set it to 1, or use grid",
            holds=lambda search: search.method != "path" or search.parallelism == 1,
        ),
        Cel(
            rule="!has(self.secondObjective) || self.method != 'halving'",
            message="search.secondObjective: halving promotes by one objective; use method random, grid or bayesian",
            holds=lambda search: search.second_objective is None or search.method != "halving",
        ),
        Cel(
            rule="!has(self.secondObjective)"
            " || self.secondObjective.metric != (has(self.objective) ? self.objective.metric : 'valLoss')",
            message="search.secondObjective: its metric must differ from objective.metric",
            holds=lambda search: (
                search.second_objective is None or search.second_objective.metric != search.objective.metric
            ),
        ),
    )

    @property
    def steps(self) -> Halving:
        """How halving goes, defaults included."""
        return self.halving or Halving()

    @property
    def workers(self) -> int:
        """Pods that share the trials, never more than there are."""
        return min(self.parallelism, self.trials)

    def deciding(self) -> dict[str, Any]:
        """What decides which trials there are, as given, without defaults: everything, but parallelism only of a Bayesian search."""
        given = self.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude_none=True)
        if self.method != "bayesian":
            given.pop("parallelism", None)
        return given
