"""Carries out a Plan, always in the same order.

1. **status**, with the resourceVersion that was observed: it is the write-ahead log, and its precondition fences a
stale operator before
   it touches anything else (design/rollout.md, invariant 7). A crash after it is repaired by the next pass, which
   sees the intent.
2. **events**, best effort: they tell of the transition that the status just recorded.
3. **applies**, in order, skipped when the same manifest was applied and nobody changed the object since.
4. **deletes**, then **purges** (best effort), then the **finalizer**.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from espalier_api.names import FINALIZER
from espalier_operator.adapters.kube import Kube, NotFoundError, Object
from espalier_operator.adapters.objectstore import StoreError
from espalier_operator.decisions.plan import ObjectRef, Plan

if TYPE_CHECKING:
    from espalier_operator.adapters.events import Recorder
    from espalier_operator.adapters.watches import Caches

LOG = logging.getLogger(__name__)


class Purger(Protocol):
    """The part of an object store that a plan needs."""

    async def delete_prefix(self, uri: str) -> int:
        """Delete everything below `s3://bucket/prefix/`; returns the number of objects."""


class Executor:
    """Executes plans. One per process: it remembers what it applied, only to save requests; a restart applies once
    more.
    """

    def __init__(self, kube: Kube, caches: Caches, recorder: Recorder, store: Purger | None = None) -> None:
        self._kube = kube
        self._caches = caches
        self._recorder = recorder
        self._store = store
        self._applied: dict[ObjectRef, tuple[str, object]] = {}
        self._unpurged: dict[ObjectRef, tuple[str, ...]] = {}
        self.on_written: Callable[[Object], None] | None = None
        """Told of each status that was written: caches wake nobody for our own writes."""

    async def execute(self, plan: Plan, owner: Object) -> None:
        """Carry out `plan` for `owner` (as observed). Raises KubeError; what was done until then stays done and is
        safe to repeat.
        """
        owner = await self._write_status(plan, owner)
        for event in plan.events:
            await self._recorder.record(owner, event)
        for manifest in plan.apply:
            await self._apply(manifest)
        for ref in plan.delete:
            await self._delete(ref)
        await self._purge(ObjectRef.of(owner), plan.purge)
        if plan.release_finalizer:
            await self.release(owner)

    async def hold(self, owner: Object) -> Object:
        """Put our finalizer on `owner` if it is not there; returns the object as stored."""
        finalizers = owner["metadata"].get("finalizers") or []
        return owner if FINALIZER in finalizers else await self._set_finalizers(owner, [*finalizers, FINALIZER])

    async def release(self, owner: Object) -> None:
        """Take our finalizer off `owner`, leaving those of others."""
        finalizers = owner["metadata"].get("finalizers") or []
        if FINALIZER not in finalizers:
            return
        try:
            await self._set_finalizers(owner, [name for name in finalizers if name != FINALIZER])
        except NotFoundError:
            return  # gone already, which is what releasing is for

    async def _set_finalizers(self, owner: Object, finalizers: list[str]) -> Object:
        version = owner["metadata"]["resourceVersion"]
        stored = await self._kube.set_finalizers(ObjectRef.of(owner), finalizers, resource_version=version)
        self._caches.assume(stored)
        return stored

    async def _write_status(self, plan: Plan, owner: Object) -> Object:
        if plan.status is None or not (change := difference(owner.get("status") or {}, plan.status)):
            return owner
        version = owner["metadata"]["resourceVersion"]
        stored = await self._kube.patch_status(ObjectRef.of(owner), change, resource_version=version)
        self._caches.assume(stored)
        if self.on_written is not None:
            self.on_written(stored)
        return stored

    async def _apply(self, manifest: Mapping[str, Any]) -> None:
        ref = ObjectRef.of(manifest)
        digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
        known = self._caches.get(ref) if self._caches.watches(ref) else None
        if known is not None and self._applied.get(ref) == (digest, _mark(known)):
            return
        stored = await self._kube.apply(manifest)
        self._caches.assume(stored)
        self._applied[ref] = (digest, _mark(stored))

    async def _purge(self, owner: ObjectRef, prefixes: tuple[str, ...]) -> None:
        """Delete prefixes, also those that failed in an earlier pass: a silent store must not fail what was decided."""
        if self._store is None:
            return
        left = []
        for prefix in (*self._unpurged.pop(owner, ()), *prefixes):
            try:
                await self._store.delete_prefix(prefix)
            except StoreError as error:
                LOG.warning("%s: %s is left for the next pass: %s", owner, prefix, error)
                left.append(prefix)
        if left:
            self._unpurged[owner] = tuple(left)

    async def _delete(self, ref: ObjectRef) -> None:
        """Delete unless the cache says that it is on its way already."""
        known = self._caches.get(ref) if self._caches.watches(ref) else None
        if known is not None and known["metadata"].get("deletionTimestamp"):
            return
        await self._kube.delete(ref)
        self._applied.pop(ref, None)


def difference(current: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The merge patch (RFC 7386) from `current` to `wanted`: changed keys, and None for those to be removed. Empty
    when equal.

    Lists are compared and replaced whole. None inside `wanted` means absent, since the API server stores no nulls.
    """
    patch: dict[str, Any] = {key: None for key in current if wanted.get(key) is None}
    for key, value in wanted.items():
        before = current.get(key)
        if value is None or value == before:
            continue
        patch[key] = difference(before, value) if isinstance(value, Mapping) and isinstance(before, Mapping) else value
    return patch


def _mark(obj: Object) -> object:
    """What changes when somebody changes an object's intent: the generation where the kind has one, else the
    resourceVersion.
    """
    metadata = obj["metadata"]
    return metadata["uid"], metadata.get("generation") or metadata["resourceVersion"]
