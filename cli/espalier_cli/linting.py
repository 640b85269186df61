"""`espalier lint`: what the API server and the controller would say about a manifest, without a cluster."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from espalier_api.model import RegularizedModel
from espalier_api.names import API_VERSION, GROUP
from espalier_api.problems import problems
from espalier_api.retrain import RetrainPolicy
from espalier_api.rollout import CanaryRollout
from espalier_api.rules import Subject, not_in_this_release, validate
from espalier_cli.errors import CliError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from espalier_api.base import Resource

KINDS: dict[str, type[Resource]] = {
    "RegularizedModel": RegularizedModel,
    "CanaryRollout": CanaryRollout,
    "RetrainPolicy": RetrainPolicy,
}
SUFFIXES = {".yaml", ".yml", ".json"}


@dataclass(frozen=True, slots=True)
class Remark:
    """One line of the report."""

    source: str
    subject: str
    field: str
    text: str
    rule: str
    level: str

    def __str__(self) -> str:
        """`RegularizedModel vision/digits: spec.regularizers: R11: ...`."""
        place = f"{self.subject}: {self.field}" if self.field else self.subject
        return f"{place}: {self.text}"


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that was found, and how many objects were looked at."""

    remarks: tuple[Remark, ...]
    objects: int

    @property
    def failed(self) -> bool:
        """True when at least one remark is an error."""
        return any(remark.level == "error" for remark in self.remarks)


def lint(paths: list[Path]) -> Report:
    """Look at every document of every file. Raises CliError for what cannot be read."""
    remarks: list[Remark] = []
    count = 0
    for source, document in documents(paths):
        if not str(document.get("apiVersion", "")).startswith(f"{GROUP}/"):
            continue  # other people's objects may stand in the same file
        count += 1
        remarks += look(source, document)
    return Report(tuple(remarks), count)


def look(source: str, document: dict[str, Any]) -> Iterator[Remark]:
    """Schema, CEL and validator rules of one object."""
    kind = str(document.get("kind"))
    metadata = document.get("metadata") if isinstance(document.get("metadata"), dict) else {}
    name = f"{metadata.get('namespace', 'default')}/{metadata.get('name', '?')}" if metadata else "?"
    subject = f"{kind} {name}"
    model = KINDS.get(kind)
    if document["apiVersion"] != API_VERSION or model is None:
        known = ", ".join(KINDS)
        yield Remark(
            source,
            subject,
            "kind",
            f"{document['apiVersion']} {kind} is not one of {API_VERSION} {known}",
            "schema",
            "error",
        )
        return
    try:
        parsed = model.model_validate({key: value for key, value in document.items() if key != "status"})
    except ValidationError as error:
        for problem in problems(error):
            yield Remark(source, subject, problem.field, problem.message, "schema", "error")
        return
    if isinstance(parsed, RegularizedModel):
        for finding in (*validate(Subject.of_spec(parsed.spec)), *not_in_this_release(parsed.spec)):
            yield Remark(source, subject, f"spec.{finding.field}", str(finding), finding.rule, finding.level)


def documents(paths: list[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, object) of each YAML document; `-` is standard input, a folder is all manifests in it."""
    for path in paths:
        for file in sorted(item for item in path.rglob("*") if item.suffix in SUFFIXES) if path.is_dir() else [path]:
            try:
                text = sys.stdin.read() if str(file) == "-" else file.read_text()
                found = list(yaml.safe_load_all(text))
            except OSError as error:
                raise CliError(f"{file} cannot be read: {error.strerror}") from error
            except (yaml.YAMLError, UnicodeDecodeError) as error:
                raise CliError(f"{file} is not YAML: {error}") from error
            for document in found:
                yield from ((str(file), item) for item in _flat(document))


def _flat(document: object) -> Iterator[dict[str, Any]]:
    """Lists of objects are looked into, as kubectl does."""
    if isinstance(document, dict):
        if document.get("kind") == "List" and isinstance(document.get("items"), list):
            for item in document["items"]:
                yield from _flat(item)
        else:
            yield document
