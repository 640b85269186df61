"""What a trial's values make of a job: dotted paths below spec become a job of its own, judged by the same models and rules.

A block that is not declared is created by its path. The number 0 for a field whose range excludes 0 means that the block is off, so that
`choice: [0, 1e-4, 1e-3]` asks whether a technique helps at all. `regularizers.<block>` alone is a switch: true or false.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, get_args

from pydantic import BaseModel, ValidationError

from espalier_api.engines import Engine
from espalier_api.regularizers import Regularizers
from espalier_api.rules import Subject, errors, validate
from espalier_api.training import TrainingJob
from espalier_trainer.errors import InvalidConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from espalier_api.search import Search

ROOTS: Final[dict[str, type[BaseModel]]] = {"regularizers": Regularizers, "engine": Engine}
WORDS: Final = {"true": True, "false": False}
ABOVE_ZERO: Final = {"greater_than", "greater_than_equal"}
BLOCK: Final = 2
"""Parts of a path that names a whole block."""


def check_paths(search: Search) -> None:
    """InvalidConfigError for a path that no spec has: it would fail in every trial."""
    for path in search.space:
        if (known := _unknown(path)) is not None:
            raise InvalidConfigError(
                f"search.space: there is no field {path}; use one of {', '.join(sorted(known)[:12])} there"
            )


def _unknown(path: str) -> set[str] | None:
    """What could stand where the path leaves the spec; None when it does not. Below `params` of an engine anything may stand."""
    head, *rest = path.split(".")
    model: type[BaseModel] = ROOTS[head]
    for position, part in enumerate(rest):
        fields = {info.alias or name: info.annotation for name, info in model.model_fields.items()}
        if part not in fields:
            return {".".join([head, *rest[:position], name]) for name in fields}
        inner = next(_models(fields[part]), None)
        if inner is None:
            return None if position == len(rest) - 1 or part == "params" else {".".join([head, *rest[: position + 1]])}
        model = inner
    return None


def _models(annotation: Any) -> Iterator[type[BaseModel]]:  # noqa: ANN401 - a type hint
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for each in get_args(annotation):
        yield from _models(each)


def candidate(job: TrainingJob, values: Mapping[str, float | str]) -> TrainingJob:
    """The job with these values. InvalidConfigError tells what the API's models or rules have against them."""
    document = job.dump()
    for path, value in values.items():
        _set(document, path.split("."), WORDS.get(value, value) if isinstance(value, str) else value)
    try:
        found = _parsed(document, [path for path, value in values.items() if value == 0 and isinstance(value, float)])
    except ValidationError as error:
        told = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False)]
        raise InvalidConfigError("; ".join(told[:4])) from error
    if refused := errors(validate(Subject.of_job(found))):
        raise InvalidConfigError("; ".join(map(str, refused[:4])))
    return found


def _set(document: dict[str, Any], parts: list[str], value: Any) -> None:  # noqa: ANN401 - any JSON value
    if len(parts) == BLOCK and parts[0] == "regularizers" and isinstance(value, bool):
        blocks = document.setdefault("regularizers", {})
        if value:
            blocks.setdefault(parts[1], {})
        else:
            blocks.pop(parts[1], None)
        return
    *folders, last = parts
    for folder in folders:
        document = document.setdefault(folder, {})
    document[last] = value


def _parsed(document: dict[str, Any], zeros: list[str]) -> TrainingJob:
    """The parsed job, without the blocks whose zero is below their range."""
    try:
        return TrainingJob.model_validate(document)
    except ValidationError as error:
        refused = {".".join(map(str, e["loc"])) for e in error.errors() if e["type"] in ABOVE_ZERO}
        off = {path.split(".")[1] for path in zeros if path in refused and path.startswith("regularizers.")}
        if not off:
            raise
        for block in off:
            del document["regularizers"][block]
        return TrainingJob.model_validate(document)
