"""Every state that a route and its pods went through, in the order in which the API server wrote them.

Two reads are never one moment; but all objects of a cluster's store share one counter of revisions. So both kinds are watched, event by
event, and the events are put in order by resourceVersion: no breach is too short to be seen, and none is made up by reading twice.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

FULL = 100  # percent
GRACE = 30.0
"""Seconds (strategy.unreadyGrace) that a pod may lose its readiness by itself; a pod that is taken away has none."""
LABEL = "espalier.dev/version"


@dataclass(frozen=True, slots=True)
class Change:
    """One event of a watch: what the object is since this revision; `gone` when it was deleted."""

    revision: int
    at: float
    kind: str
    name: str
    object: dict[str, Any]
    gone: bool = False


def breaches(changes: Iterable[Change], model: str, until: float = 0.0) -> Iterator[str]:
    """Invariants 1 and 2 of design/rollout.md at every revision; `until` is when the watching ended."""
    weights: dict[str, int] = {}
    pods: dict[str, dict[str, Any]] = {}
    lost: dict[str, float] = {}
    for change in sorted(changes, key=lambda each: each.revision):
        if change.kind == "HTTPRoute":
            weights = {} if change.gone else weights_of(change.object, model)
            if weights and sum(weights.values()) != FULL:
                yield f"revision {change.revision}: weights {weights} do not sum to 100"
        elif change.gone:
            pods.pop(change.name, None)
        else:
            pods[change.name] = change.object
        ready = {version_of(pod) for pod in pods.values() if is_ready(pod)}
        lost = {version: since for version, since in lost.items() if version in weights}
        for version, weight in weights.items():
            if not weight or version in ready:
                lost.pop(version, None)
                continue
            by_itself = change.kind == "Pod" and not change.gone and not leaving(change.object)
            first = lost.setdefault(version, change.at if by_itself else change.at - 2 * GRACE)
            if change.at - first > GRACE:
                yield f"revision {change.revision}: {version} has weight {weight} and no ready pod ({change.kind} {change.name})"
                lost[version] = float("inf")  # told once
    for version, first in lost.items():
        if until - first > GRACE:
            yield f"at the end {version} has had weight {weights[version]} and no ready pod for {until - first:.0f} s"


def weights_of(route: dict[str, Any], model: str) -> dict[str, int]:
    """Percent by version."""
    backends = [ref for rule in route["spec"]["rules"] for ref in rule.get("backendRefs", [])]
    return {ref["name"].removeprefix(f"{model}-"): int(ref.get("weight", 1)) for ref in backends}


def version_of(pod: dict[str, Any]) -> str:
    """Whose pod it is."""
    return str((pod["metadata"].get("labels") or {}).get(LABEL, ""))


def is_ready(pod: dict[str, Any]) -> bool:
    """As its Ready condition says; a pod that drains is not ready soon, but answers until then."""
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def leaving(pod: dict[str, Any]) -> bool:
    """Somebody takes it away."""
    return bool(pod["metadata"].get("deletionTimestamp"))


@dataclass(slots=True)
class Recorder:
    """Watches one kind in one namespace until stopped."""

    kind: str
    list_objects: Callable[..., Any]
    """The client's list method of the kind."""
    arguments: tuple[str, ...]
    changes: list[Change] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)
    """Times in which events may have been missed: the test must not pass on what nobody saw."""
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Events of all objects, from those that are there.

        The server keeps few events of a kind. A watch that hears of its own namespace only would ask again with a revision that is long
        forgotten while others are busy, so it takes bookmarks, which the server sends now and then and before it ends a watch.
        """
        from kubernetes import client, watch  # noqa: PLC0415 - only where a cluster is

        seen = self._those_there(client.ApiClient())
        while not self.stop.is_set():
            try:
                stream = watch.Watch().stream(
                    self.list_objects,
                    *self.arguments,
                    resource_version=seen,
                    allow_watch_bookmarks=True,
                    timeout_seconds=10,
                )
                for event in stream:
                    seen = self._record(event)
            except client.exceptions.ApiException as error:
                self.gaps.append(f"{self.kind}: the watch broke after revision {seen}: {error.status} {error.reason}")
                seen = self._those_there(client.ApiClient())

    def _those_there(self, api: Any) -> str:
        """Record what a list shows; its revision is newer than that of any object in it."""
        with api:
            listing = api.sanitize_for_serialization(self.list_objects(*self.arguments))
        for item in listing["items"]:
            self._record({"type": "ADDED", "raw_object": item})
        return str(listing["metadata"]["resourceVersion"])

    def _record(self, event: dict[str, Any]) -> str:
        found = event["raw_object"]
        metadata = found["metadata"]
        if event["type"] == "BOOKMARK":
            return str(metadata["resourceVersion"])
        change = Change(
            int(metadata["resourceVersion"]),
            time.monotonic(),
            self.kind,
            metadata["name"],
            found,
            event["type"] == "DELETED",
        )
        self.changes.append(change)
        return str(metadata["resourceVersion"])
