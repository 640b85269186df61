"""What pydantic objects to, in the words of a manifest: one field, one sentence, what to do. For lint, controller and trainer alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError


@dataclass(frozen=True, slots=True)
class Problem:
    """One field that is wrong. `field` is its dotted path, e.g. `spec.evaluation.gates[0].min`."""

    field: str
    message: str

    def __str__(self) -> str:
        """`spec.task.type: ...`."""
        return f"{self.field}: {self.message}" if self.field else self.message


def problems(error: ValidationError) -> tuple[Problem, ...]:
    """Every objection, without those that only follow from another one below the same field."""
    return tuple(_problems(error))


def _problems(error: ValidationError) -> Iterator[Problem]:
    details = error.errors(include_url=False)
    for detail in details:
        inside = (other["loc"] for other in details if other is not detail)
        if detail["type"] == "too_short" and any(loc[: len(detail["loc"])] == detail["loc"] for loc in inside):
            continue  # pydantic drops invalid items and then finds the list too short
        yield Problem(_path(detail["loc"]), _words(detail))


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path.lstrip(".").removesuffix(".[key]")


def _words(detail: Mapping[str, Any]) -> str:
    kind, message, given = detail["type"], str(detail["msg"]).removeprefix("Value error, "), detail.get("input")
    if kind == "missing":
        return "the field is required; add it"
    if kind == "extra_forbidden":
        return "there is no such field; remove it, or look for its name in `kubectl explain`"
    own_words = kind in {"cel", "duplicate", "value_error"}
    return message if own_words or isinstance(given, Mapping | list | tuple) else f"{message}, not {given!r}"
