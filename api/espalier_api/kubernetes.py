"""Fragments of Kubernetes' own types that our specs carry to pods, with bounds. Written to children as they are."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, WithJsonSchema

from espalier_api.base import ApiModel, ListMap, StatusModel, exactly_one

ObjectName = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", min_length=1, max_length=253)
]
"""Name of an object in the same namespace."""
LabelValue = Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)?$", max_length=63)]
QualifiedName = Annotated[str, StringConstraints(min_length=1, max_length=317)]
Quantity = Annotated[
    int | str,
    WithJsonSchema(
        {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "x-kubernetes-int-or-string": True,
            "pattern": r"^([0-9]+|[0-9]*\.[0-9]+)(m|k|Ki|M|Mi|G|Gi|T|Ti|P|Pi)?$",
            "maxLength": 32,
        }
    ),
]
"""Kubernetes quantity: `500m`, `2Gi`, 1."""
Image = Annotated[str, StringConstraints(min_length=1, max_length=512)]
"""Container image, best by digest."""


class LocalReference(ApiModel):
    """An object in the same namespace."""

    name: ObjectName
    """Its name."""


class Resources(ApiModel):
    """Of one container. GPUs and other extended resources stand in limits."""

    limits: dict[QualifiedName, Quantity] = Field(default_factory=dict, max_length=16)
    """Most that may be used."""
    requests: dict[QualifiedName, Quantity] = Field(default_factory=dict, max_length=16)
    """What the scheduler reserves; defaults to limits."""


class Toleration(ApiModel):
    """Core v1 Toleration."""

    key: str | None = Field(default=None, max_length=317)
    """Taint's key; absent with operator Exists means all."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """How the key is compared."""
    value: str | None = Field(default=None, max_length=63)
    """Taint's value."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Which effects; absent means all."""
    toleration_seconds: int | None = Field(default=None, ge=0)
    """How long a NoExecute taint is tolerated."""


class SecretKey(ApiModel):
    """One key of a Secret; the kubelet mounts it, the operator never reads it."""

    name: ObjectName
    """Secret in the same namespace."""
    key: Annotated[str, StringConstraints(pattern=r"^[-._A-Za-z0-9]+$", min_length=1, max_length=253)]
    """Key in it."""


class EnvVar(ApiModel):
    """One environment variable of the trainer."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=253)]
    """Its name."""
    value: str | None = Field(default=None, max_length=32_768)
    """A literal."""
    secret_key_ref: SecretKey | None = None
    """A Secret's key."""

    cel = (exactly_one("value", "secret_key_ref", what="env"),)


NodeSelector = Annotated[dict[QualifiedName, LabelValue], Field(max_length=32)]
Tolerations = Annotated[tuple[Toleration, ...], Field(max_length=32)]
EnvVars = Annotated[tuple[EnvVar, ...], Field(max_length=64), ListMap("name")]


class ObjectMeta(StatusModel):
    """What we read of an object's metadata."""

    name: str
    namespace: str = "default"
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    finalizers: tuple[str, ...] = ()


def owner_reference(kind: str, api_version: str, meta: ObjectMeta) -> dict[str, Any]:
    """The controller ownerReference that children carry."""
    return {
        "apiVersion": api_version,
        "kind": kind,
        "name": meta.name,
        "uid": meta.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }
