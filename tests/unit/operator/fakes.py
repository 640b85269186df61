"""A small world for controllers: an API server and an object store in memory, with the semantics that decisions rely on.

Honest about: uid, resourceVersion (one counter for all), generation (moves with spec only), the status subresource,
server-side apply as create or merge, preconditions, finalizers, label selectors, watches with deletions. Not about:
field ownership, schemas, admission.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from espalier_operator.adapters.kube import ConflictError, KubeError, NotFoundError, UnavailableError
from espalier_operator.adapters.objectstore import NoSuchKeyError
from espalier_operator.adapters.resources import resource_of
from espalier_operator.decisions.plan import ObjectRef

if TYPE_CHECKING:
    import builtins
    from collections.abc import AsyncIterator, Sequence
    from datetime import timedelta

    from espalier_api.hashing import SnapshotEntry
    from espalier_operator.adapters.kube import Object
    from espalier_operator.adapters.resources import Resource

WITHOUT_GENERATION = frozenset({"ConfigMap", "Service", "Event"})
NOW = "2026-11-22T12:00:00Z"
Objects = list[dict[str, Any]]
"""Named outside of FakeKube, whose method `list` hides the type."""


class FakeKube:
    """Kube in memory. `fail` makes the next calls fail; `requests` is what was asked, as `verb Kind name`."""

    def __init__(self) -> None:
        self.objects: dict[ObjectRef, dict[str, Any]] = {}
        self.events: list[Object] = []
        self.requests: list[str] = []
        self.fail: list[KubeError] = []
        self._version = itertools.count(1)
        self._uid = itertools.count(1)
        self._watchers: defaultdict[tuple[str, str], list[asyncio.Queue[Object]]] = defaultdict(list)

    # --- Kube ------------------------------------------------------------------------------------------------------
    async def apply(self, manifest: Object) -> Object:
        ref = self._asked("apply", ObjectRef.of(manifest))
        if ref not in self.objects:
            return self._stored(ref, copy.deepcopy(dict(manifest)), "ADDED")
        found = self.objects[ref]
        merged = _merge(found, {key: value for key, value in manifest.items() if key != "status"})
        return self._stored(ref, merged, "MODIFIED") if merged != found else copy.deepcopy(found)

    async def create(self, manifest: Object) -> Object:
        self._asked("create", ObjectRef(manifest["apiVersion"], manifest["kind"], "", ""))
        if manifest["kind"] == "Event":
            self.events.append(manifest)
            return manifest
        return self._stored(ObjectRef.of(manifest), copy.deepcopy(dict(manifest)), "ADDED")

    async def delete(self, ref: ObjectRef, *, propagation: str = "Background", uid: str | None = None) -> None:
        self._asked("delete", ref)
        if (found := self.objects.get(ref)) is None:
            return
        if found["metadata"].get("finalizers"):
            changed = copy.deepcopy(found)
            changed["metadata"].setdefault("deletionTimestamp", NOW)
            self._stored(ref, changed, "MODIFIED")
        else:
            self._removed(ref)

    async def patch_status(self, ref: ObjectRef, status: Object, *, resource_version: str | None = None) -> Object:
        found = self._current(self._asked("status", ref), resource_version)
        merged = copy.deepcopy(found)
        merged["status"] = _merge(merged.get("status") or {}, status)
        return self._stored(ref, merged, "MODIFIED") if merged != found else copy.deepcopy(found)

    async def set_finalizers(self, ref: ObjectRef, finalizers: Sequence[str], *, resource_version: str) -> Object:
        changed = copy.deepcopy(self._current(self._asked("finalizers", ref), resource_version))
        changed["metadata"]["finalizers"] = list(finalizers)
        if changed["metadata"].get("deletionTimestamp") and not finalizers:
            self._removed(ref)
            return changed
        return self._stored(ref, changed, "MODIFIED")

    async def get(self, ref: ObjectRef) -> Object:
        return copy.deepcopy(self._current(self._asked("get", ref), None))

    async def list(self, resource: Resource, namespace: str = "", selector: str = "") -> tuple[list[Object], str]:
        self._asked("list", ObjectRef(resource.api_version, resource.kind, namespace, ""))
        found: builtins.list[Object] = [
            copy.deepcopy(each) for ref, each in self.objects.items() if _matches(ref, each, resource, selector)
        ]
        return found, str(next(self._version))

    async def watch(
        self, resource: Resource, namespace: str, selector: str, resource_version: str, *, lasting: timedelta
    ) -> AsyncIterator[Object]:
        queue: asyncio.Queue[Object] = asyncio.Queue()
        watchers = self._watchers[resource.api_version, resource.kind]
        watchers.append(queue)
        try:
            while True:
                event = await queue.get()
                if isinstance(event, KubeError):
                    raise event
                if _matches(ObjectRef.of(event["object"]), event["object"], resource, selector):
                    yield event
        finally:
            watchers.remove(queue)

    # --- the world ---------------------------------------------------------------------------------------------------
    def put(self, manifest: Object) -> Object:
        """What somebody else writes: create, or replace spec, metadata and status."""
        ref = ObjectRef.of(manifest)
        if (found := self.objects.get(ref)) is None:
            return self._stored(ref, copy.deepcopy(dict(manifest)), "ADDED")
        kept = {
            key: found["metadata"][key] for key in ("uid", "generation", "resourceVersion") if key in found["metadata"]
        }
        merged = {**found, **copy.deepcopy(dict(manifest))}
        merged["metadata"] = {**merged["metadata"], **kept}
        return self._stored(ref, merged, "MODIFIED")

    def break_watches(self, error: KubeError) -> None:
        """Every open watch ends with `error`."""
        for queue in itertools.chain.from_iterable(self._watchers.values()):
            queue.put_nowait(error)  # type: ignore[arg-type]

    def of_kind(self, kind: str) -> Objects:
        """All objects of a kind."""
        return [found for ref, found in self.objects.items() if ref.kind == kind]

    def _asked(self, verb: str, ref: ObjectRef) -> ObjectRef:
        self.requests.append(f"{verb} {ref.kind} {ref.name}".strip())
        if self.fail and verb != "list":
            raise self.fail.pop(0)
        return ref

    def _current(self, ref: ObjectRef, resource_version: str | None) -> dict[str, Any]:
        if (found := self.objects.get(ref)) is None:
            raise NotFoundError(404, f"{ref}: not found")
        if resource_version not in (None, found["metadata"]["resourceVersion"]):
            raise ConflictError(409, f"{ref}: the object has been modified")
        return found

    def _stored(self, ref: ObjectRef, obj: dict[str, Any], change: str) -> Object:
        before = self.objects.get(ref)
        metadata = obj["metadata"]
        metadata.setdefault("uid", f"uid-{next(self._uid)}")
        if ref.kind not in WITHOUT_GENERATION:
            moved = before is None or before.get("spec") != obj.get("spec")
            metadata["generation"] = metadata.get("generation", 0) + (1 if moved else 0)
        metadata["resourceVersion"] = str(next(self._version))
        self.objects[ref] = obj
        self._tell(change, obj)
        return copy.deepcopy(obj)

    def _removed(self, ref: ObjectRef) -> None:
        gone = self.objects.pop(ref)
        gone["metadata"]["resourceVersion"] = str(next(self._version))
        self._tell("DELETED", gone)
        for child in [other for other, obj in self.objects.items() if _is_owned(obj, gone["metadata"]["uid"])]:
            self._removed(child)

    def _tell(self, change: str, obj: Object) -> None:
        for queue in self._watchers[obj["apiVersion"], obj["kind"]]:
            queue.put_nowait({"type": change, "object": copy.deepcopy(obj)})


class FakeStore:
    """ObjectStore in memory: URI -> (content, ETag). `down` makes every request fail."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.down: Exception | None = None

    async def snapshot(self, uri: str) -> list[SnapshotEntry]:
        from espalier_api.hashing import SnapshotEntry  # noqa: PLC0415 - a named tuple, needed at run time only here

        self._check()
        return [
            SnapshotEntry(key.removeprefix(uri), len(value), str(hash(value)))
            for key, value in self.objects.items()
            if key.startswith(uri)
        ]

    async def children(self, uri: str) -> list[str]:
        self._check()
        return sorted({key.removeprefix(uri).split("/")[0] for key in self.objects if key.startswith(uri)})

    async def read(self, uri: str) -> bytes:
        self._check()
        if uri not in self.objects:
            raise NoSuchKeyError(f"read {uri}: NoSuchKey")
        return self.objects[uri]

    async def write(self, uri: str, content: bytes) -> None:
        self._check()
        self.objects[uri] = content

    async def delete_prefix(self, uri: str) -> int:
        self._check()
        doomed = [key for key in self.objects if key.startswith(uri)]
        for key in doomed:
            del self.objects[key]
        return len(doomed)

    def _check(self) -> None:
        if self.down is not None:
            raise self.down


def unavailable() -> KubeError:
    """What an overloaded API server answers."""
    return UnavailableError(503, "the API server is overloaded")


def _merge(before: Object, patch: Object) -> dict[str, Any]:
    """RFC 7386."""
    merged = copy.deepcopy(dict(before))
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def _matches(ref: ObjectRef, obj: Object, resource: Resource, selector: str) -> bool:
    label, _, value = selector.partition("=")
    labels = obj["metadata"].get("labels") or {}
    return resource_of(ref.api_version, ref.kind) == resource and (not selector or labels.get(label) == value)


def _is_owned(obj: Object, uid: str) -> bool:
    return any(owner.get("uid") == uid for owner in obj["metadata"].get("ownerReferences") or [])
