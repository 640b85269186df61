"""Search over hyperparameters: which fields vary, how trials are chosen, what is optimized."""

from __future__ import annotations

from typing import Annotated, Literal

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


class Search(ApiModel):
    """A sweep; the winner is then fitted once more on the whole training part."""

    method: Literal["grid", "random", "bayesian", "path"] = "random"
    """How trials are chosen."""
    trials: int = Field(default=20, ge=1, le=1000)
    """How many, at most."""
    parallelism: int = Field(default=1, ge=1, le=100)
    """Trials at once."""
    objective: Objective = Objective()
    """What is optimized."""
    folds: int = Field(default=1, ge=1, le=20)
    """Folds per trial; 1 uses the validation part."""
    max_failed: int = Field(default=0, ge=0, le=1000)
    """Trials that may fail before the search does."""
    space: dict[FieldPath, Dimension] = Field(min_length=1, max_length=32)
    """What varies."""
