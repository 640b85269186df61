"""What a decision returns: data that says what shall be true, never how to get there.

A Plan is executed in one fixed order (`controllers/execute.py`): status first, because status is the write-ahead log
and its resourceVersion precondition fences a stale operator before it touches anything else; then events, applies,
deletes, purges, and the finalizer last.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from espalier_api.durations import format_time

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

EventType = Literal["Normal", "Warning"]
ConditionStatus = Literal["True", "False", "Unknown"]

MAX_CONDITION_MESSAGE = 4096
"""Longest condition message we write, in characters; the CRD allows 32768, but a person reads it in a terminal."""


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """Where an object lives. `namespace` is empty for cluster-scoped kinds."""

    api_version: str
    kind: str
    namespace: str
    name: str

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> ObjectRef:
        """The reference of a manifest or of an object read from the API."""
        metadata = manifest["metadata"]
        return cls(manifest["apiVersion"], manifest["kind"], metadata.get("namespace", ""), metadata["name"])

    def __str__(self) -> str:
        """`Kind namespace/name`, as it appears in messages."""
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class Event:
    """A Kubernetes Event about the object that is being reconciled; only for transitions."""

    type_: EventType
    reason: str
    message: str

    @classmethod
    def normal(cls, reason: str, message: str) -> Event:
        """Something went as intended."""
        return cls("Normal", reason, message)

    @classmethod
    def warning(cls, reason: str, message: str) -> Event:
        """Something a person may have to act on."""
        return cls("Warning", reason, message)


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything one pass wants to change.

    `status` is the whole desired status (not a patch); None leaves it alone, and an equal one costs no request.
    `purge` are S3 prefixes (`s3://bucket/prefix/`) to be deleted, best effort.
    `release_finalizer` lets the object go: only a decision about a deleted object sets it.
    """

    apply: tuple[Mapping[str, Any], ...] = ()
    delete: tuple[ObjectRef, ...] = ()
    status: Mapping[str, Any] | None = None
    events: tuple[Event, ...] = ()
    requeue_after: timedelta | None = None
    release_finalizer: bool = False
    purge: tuple[str, ...] = ()

    @classmethod
    def wait(cls, requeue_after: timedelta | None = None) -> Plan:
        """Nothing to change; look again after `requeue_after`, or at the next wake-up."""
        return cls(requeue_after=requeue_after)


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition as decided now; `upsert` gives it its lastTransitionTime."""

    type: str
    status: ConditionStatus
    reason: str
    message: str = ""


def upsert(
    existing: Sequence[Mapping[str, Any]], wanted: Iterable[Condition], *, generation: int, now: datetime
) -> list[dict[str, Any]]:
    """`existing` conditions with `wanted` put in by type; order of first appearance is kept.

    `lastTransitionTime` moves only when `status` changes, so that a pass without news leaves the list equal and
    nothing is written.
    """
    merged = {str(condition["type"]): dict(condition) for condition in existing}
    for condition in wanted:
        before = merged.get(condition.type, {})
        same = before.get("status") == condition.status and "lastTransitionTime" in before
        merged[condition.type] = {
            "type": condition.type,
            "status": condition.status,
            "reason": condition.reason,
            "message": shorten(condition.message, MAX_CONDITION_MESSAGE),
            "observedGeneration": generation,
            "lastTransitionTime": before["lastTransitionTime"] if same else rfc3339(now),
        }
    return list(merged.values())


def find(conditions: Sequence[Mapping[str, Any]], type_: str) -> Mapping[str, Any] | None:
    """The condition of that type, if it is there."""
    return next((condition for condition in conditions if condition.get("type") == type_), None)


def rfc3339(moment: datetime) -> str:
    """RFC 3339 in UTC with whole seconds, as the Kubernetes API writes times: finer ones would make equal statuses
    differ.
    """
    return format_time(moment.replace(microsecond=0))


def parse_time(text: str) -> datetime:
    """The inverse of `rfc3339`; fractions of a second are understood."""
    return datetime.fromisoformat(text)


def shorten(text: str, limit: int) -> str:
    """`text` cut to `limit` characters, with an ellipsis where it was cut."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
