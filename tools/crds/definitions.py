"""The three CustomResourceDefinitions: schema from api/, and what `kubectl get` shows."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from espalier_api.base import ApiModel, Resource
from espalier_api.model import RegularizedModel
from espalier_api.names import GROUP, KIND_MODEL, KIND_RETRAIN, KIND_ROLLOUT, PLURALS, VERSION
from espalier_api.retrain import RetrainPolicy
from espalier_api.rollout import CanaryRollout
from tools.crds.schema import JsonSchema, structural


@dataclass(frozen=True, slots=True)
class Column:
    """A printer column; priority 1 shows only with `-o wide`."""

    name: str
    path: str
    type: str = "string"
    priority: int = 0
    description: str = ""

    def manifest(self) -> dict[str, Any]:
        """As the CRD wants it."""
        column: dict[str, Any] = {"name": self.name, "type": self.type, "jsonPath": self.path}
        if self.description:
            column["description"] = self.description
        return column | ({"priority": self.priority} if self.priority else {})


def condition(type_: str, field: str) -> str:
    """JSON path of one field of one condition."""
    return f'.status.conditions[?(@.type=="{type_}")].{field}'


READY = Column("Ready", condition("Ready", "status"))
REASON = Column("Reason", condition("Ready", "reason"))
MESSAGE = Column("Message", condition("Ready", "message"), priority=1)
AGE = Column("Age", ".metadata.creationTimestamp", "date")


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind: its model, its names and its columns."""

    kind: str
    model: type[Resource]
    short: str
    columns: tuple[Column, ...]

    @property
    def about(self) -> str:
        """One line for people: the module docstring of the kind."""
        return inspect.getdoc(inspect.getmodule(self.model)) or ""

    def part(self, name: str) -> type[ApiModel]:
        """The model of `spec` or `status`."""
        model = self.model.model_fields[name].annotation
        assert isinstance(model, type)  # noqa: S101 - narrows the type
        assert issubclass(model, ApiModel)  # noqa: S101 - narrows the type
        return model

    @property
    def plural(self) -> str:
        """Lower-case plural, as in URLs."""
        return PLURALS[self.kind]


KINDS = (
    Kind(
        KIND_MODEL,
        RegularizedModel,
        "regmodel",
        (
            READY,
            REASON,
            Column("Version", ".status.versions[0].version", description="Newest version."),
            Column("State", ".status.versions[0].state", description="State of the newest version."),
            Column("Champion", ".status.champion.version", description="Version that serves."),
            Column("Progress", ".status.training.progress", "number", description="Of the running attempt, 0-1."),
            Column("Snapshot", ".status.snapshot.digest", priority=1),
            MESSAGE,
            AGE,
        ),
    ),
    Kind(
        KIND_ROLLOUT,
        CanaryRollout,
        "canary",
        (
            Column("Phase", ".status.phase"),
            Column("Champion", ".status.aliases.champion"),
            Column("Canary", ".status.canary.version"),
            Column("Weight", ".status.columns.weight", description="Wanted and observed."),
            Column("Step", ".status.columns.step"),
            Column(
                "SLI", ".status.columns.sli", description="Evidence of the SLI nearest to its limit, and the limit."
            ),
            READY,
            Column("Reason", condition("Ready", "reason"), priority=1),
            MESSAGE,
            AGE,
        ),
    ),
    Kind(
        KIND_RETRAIN,
        RetrainPolicy,
        "retrain",
        (
            READY,
            REASON,
            Column("Model", ".spec.modelRef.name"),
            Column("Trigger", ".status.request.trigger", description="Of the last request."),
            Column("Requested", ".status.request.at", "date"),
            MESSAGE,
            AGE,
        ),
    ),
)


def openapi(kind: Kind) -> JsonSchema:
    """The object's schema: the API server owns apiVersion, kind and metadata."""
    spec, status = (structural(kind.part(part)) for part in ("spec", "status"))
    schema: JsonSchema = {
        "type": "object",
        "description": kind.about,
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": status,
        },
        "required": ["spec"],
    }
    if kind.model.cel:
        schema["x-kubernetes-validations"] = [{"rule": rule.rule, "message": rule.message} for rule in kind.model.cel]
    return schema


def definition(kind: Kind) -> dict[str, Any]:
    """The CustomResourceDefinition."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}", "labels": {"app.kubernetes.io/part-of": "espalier"}},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind.kind,
                "listKind": f"{kind.kind}List",
                "plural": kind.plural,
                "singular": kind.kind.lower(),
                "shortNames": [kind.short],
                "categories": ["espalier"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": openapi(kind)},
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [column.manifest() for column in kind.columns],
                }
            ],
        },
    }
