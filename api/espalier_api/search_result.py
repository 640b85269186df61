"""What a search came to, as status, manifest and termination message tell it; search.json in the artifact holds every trial."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field, WithJsonSchema

from espalier_api.base import StatusModel

MAX_POINTS: Final = 16
"""Of the Pareto set that status tells."""

SearchedValue = Annotated[float | str, WithJsonSchema({"x-kubernetes-preserve-unknown-fields": True})]
"""A number, or a category's word."""


class ParetoPoint(StatusModel):
    """A trial that no other beats in one objective without losing in the other."""

    number: int
    """Of the trial, from 0."""
    value: float
    """Of search.objective."""
    second: float
    """Of search.secondObjective."""


class SearchSummary(StatusModel):
    """What a search came to; search.json in the artifact holds every trial."""

    method: str = Field(default="", max_length=16)
    """Of search.method."""
    trials: int = 0
    """How many ended, over all rungs."""
    failed: int = 0
    """Of those."""
    metric: str = Field(default="", max_length=32)
    """Of search.objective."""
    best: float | None = None
    """Its value in the best trial."""
    number: int | None = None
    """Of the best trial, from 0."""
    params: dict[str, SearchedValue] = Field(default_factory=dict, max_length=32)
    """The best trial's values, by path."""
    second_metric: str | None = Field(default=None, max_length=32)
    """Of search.secondObjective."""
    second: float | None = None
    """Its value in the best trial."""
    pareto: tuple[ParetoPoint, ...] = Field(default=(), max_length=MAX_POINTS)
    """The Pareto set by the first objective, best first; of a larger one both ends and points spread evenly between."""

    def short(self) -> SearchSummary:
        """Without what the manifest has room for."""
        return self.model_copy(update={"params": {}, "pareto": ()})
