"""What every model of the API shares: immutable, camelCase outside, unknown fields refused, and rules that a schema cannot say.

A rule is written once per place that enforces it and stands in one object: `Cel` holds the CEL text for the API server and the
Python predicate for everything that runs without one (lint, controller, trainer). tests/e2e/manifests/cel proves that they agree.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal, Self

from annotated_types import MaxLen
from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema


@dataclass(frozen=True, slots=True)
class Cel:
    """One validation that needs more than one field.

    `rule` is CEL over `self`; `message` is what a person reads (both places); `holds` is the same statement in Python.
    `judged_by` tells who asks `holds` outside the API server: the `model` at parsing, or the `registry` of validator rules, which
    lists every finding by id instead of stopping at the first, or nobody but the `server`, for rules over `oldSelf`.
    """

    rule: str
    message: str
    holds: Callable[[Any], bool]
    judged_by: Literal["model", "registry", "server"] = "model"


def exactly_one(*fields: str, what: str) -> Cel:
    """Exactly one of the optional fields (given by their Python names) is set."""
    names = [to_camel(field) for field in fields]
    return Cel(
        rule=" + ".join(f"(has(self.{name}) ? 1 : 0)" for name in names) + " == 1",
        message=f"{what}: set exactly one of {', '.join(names)}",
        holds=lambda model: sum(getattr(model, field) is not None for field in fields) == 1,
    )


def at_most_one(*fields: str, what: str) -> Cel:
    """At most one of the optional fields (given by their Python names) is set."""
    names = [to_camel(field) for field in fields]
    return Cel(
        rule=" + ".join(f"(has(self.{name}) ? 1 : 0)" for name in names) + " <= 1",
        message=f"{what}: set at most one of {', '.join(names)}",
        holds=lambda model: sum(getattr(model, field) is not None for field in fields) <= 1,
    )


class ApiModel(BaseModel):
    """Base of everything a person or a room writes: frozen, strict about unknown fields, camelCase in JSON."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        populate_by_name=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )

    cel: ClassVar[tuple[Cel, ...]] = ()
    """Rules over several fields; a subclass adds its own with `cel = (*Parent.cel, ...)`."""

    @model_validator(mode="after")
    def _obey_cel(self) -> Self:
        for rule in self.cel:
            if rule.judged_by == "model" and not rule.holds(self):
                raise PydanticCustomError("cel", "{message}", {"message": rule.message})
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Carry the rules into the schema under the name that the API server reads."""
        schema = handler.resolve_ref_schema(handler(core))
        if cls.cel:
            schema["x-kubernetes-validations"] = [{"rule": rule.rule, "message": rule.message} for rule in cls.cel]
        return schema

    def dump(self) -> dict[str, Any]:
        """Plain JSON data with camelCase keys; absent optional fields stay absent."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    def to_json(self) -> str:
        """`dump` as compact JSON text."""
        return self.model_dump_json(by_alias=True, exclude_none=True)


class StatusModel(ApiModel):
    """Base of what controllers write. A status is never lost over its form: fields of a newer version are ignored, so that an older
    operator can read them; a text that is longer than its bound is cut; an infinite number becomes the largest one.
    """

    model_config = ConfigDict(extra="ignore")

    @field_validator("*", mode="before")
    @classmethod
    def _fit(cls, value: Any, info: ValidationInfo) -> Any:  # noqa: ANN401 - validators see anything
        if isinstance(value, float) and math.isinf(value):
            return math.copysign(sys.float_info.max, value)
        if isinstance(value, str) and (limit := cls._longest(info.field_name or "")) is not None and len(value) > limit:
            return f"{value[: limit - 1]}…"
        return value

    @classmethod
    @cache
    def _longest(cls, field: str) -> int | None:
        """The bound of a text field, unless a pattern gives its form: those are names, and a cut name is another name."""
        metadata = cls.model_fields[field].metadata
        if any(getattr(item, "pattern", None) for item in metadata):
            return None
        return next((item.max_length for item in metadata if isinstance(item, MaxLen)), None)


class Resource(StatusModel):
    """Base of the three kinds."""


@dataclass(frozen=True, slots=True)
class ListMap:
    """Marks a list whose items are found by key: unique for the API server (list-type map) and for pydantic alike."""

    key: str = "name"

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:  # noqa: ANN401 - pydantic's protocol
        """Validate the items first, then their keys."""
        return core_schema.no_info_after_validator_function(self._unique, handler(source))

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Say it the Kubernetes way."""
        return {**handler(core), "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [to_camel(self.key)]}

    def _unique(self, items: tuple[Any, ...]) -> tuple[Any, ...]:
        seen: set[Hashable] = set()
        for item in items:
            key = getattr(item, self.key)
            if key in seen:
                raise PydanticCustomError(
                    "duplicate",
                    "{key} {value} stands twice; every {key} is unique here",
                    {"key": self.key, "value": repr(str(key))},
                )
            seen.add(key)
        return items
