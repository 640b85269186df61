"""Caches fed by list + watch: what the operator observes without asking.

One `Cache` per kind and watched namespace scope. Properties that decisions rely on:
- **Own writes are visible at once**: `assume` puts the API server's answer to a write into the cache, so a pass never
  decides on a state older than what this process did itself. Older events cannot overwrite newer objects
  (resourceVersions of one kind are comparable).
- **Deletions are never missed**: after a gap (410, silence, restart of the server) the cache lists again and drops
  what is gone.
- **Silence is not health**: a watch without bookmarks for `watch_silence` is opened again; `unsynced_for` tells
  liveness about blindness.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from espalier_api.names import ANNOTATION_REQUEST, KIND_MODEL, LABEL_MANAGED_BY, LABEL_MODEL, MANAGED_BY
from espalier_operator.adapters.kube import ForbiddenError, GoneError, Kube, KubeError, NotFoundError, Object
from espalier_operator.adapters.resources import CHILDREN, OPTIONAL, OWN, Resource, resource_of

if TYPE_CHECKING:
    from espalier_operator.decisions.plan import ObjectRef
    from espalier_operator.settings import Settings

LOG = logging.getLogger(__name__)

OnChange = Callable[[Object], None]
SELECTOR = f"{LABEL_MANAGED_BY}={MANAGED_BY}"
ABSENT_RETRY_SECONDS = 30.0
"""How often a missing optional kind (HTTPRoute without Gateway API) is looked for again."""


class Cache:
    """Objects of one kind, by (namespace, name), with an index by model."""

    def __init__(self, resource: Resource, on_change: OnChange) -> None:
        self.resource = resource
        self.synced = False
        """True after the first complete list of every watched namespace."""
        self._objects: dict[tuple[str, str], Object] = {}
        self._by_model: dict[tuple[str, str], set[tuple[str, str]]] = defaultdict(set)
        self._gone: dict[tuple[str, str], int] = {}
        self._on_change = on_change

    def get(self, namespace: str, name: str) -> Object | None:
        """The object, or None."""
        return self._objects.get((namespace, name))

    def by_model(self, namespace: str, model: str) -> list[Object]:
        """Objects that belong to a model: children by label, a RegularizedModel by name, others by
        spec.modelRef.name. Sorted by name.
        """
        return [self._objects[key] for key in sorted(self._by_model.get((namespace, model), ()))]

    def __iter__(self) -> Iterator[Object]:
        """All objects."""
        return iter(list(self._objects.values()))

    def __len__(self) -> int:
        return len(self._objects)

    def assume(self, obj: Object) -> None:
        """Take the API server's answer to our own write, without waking anybody: the writer knows."""
        self._put(obj)

    def put(self, obj: Object) -> None:
        """Take an object from a watch or a list; wakes its model when it is news."""
        if self._put(obj):
            self._on_change(obj)

    def remove(self, obj: Object) -> None:
        """Take a deletion from a watch; wakes its model."""
        key = _key(obj)
        held = self._objects.get(key)
        if held is not None and _version(held) > _version(obj):
            return  # re-created in the meantime
        self._gone[key] = _version(obj)
        if held is not None:
            self._forget(key)
            self._on_change(held)

    def replace(self, namespace: str, objects: list[Object], resource_version: str) -> None:
        """A complete list of one namespace (all when empty): puts what is there, removes what is gone; keeps writes
        newer than the list.
        """
        listed = {_key(obj) for obj in objects}
        at = int(resource_version or 0)
        for key, held in list(self._objects.items()):
            if (not namespace or key[0] == namespace) and key not in listed and _version(held) <= at:
                self._forget(key)
                self._on_change(held)
        for obj in objects:
            self.put(obj)
        self._gone = {key: version for key, version in self._gone.items() if version > at}

    def _put(self, obj: Object) -> bool:
        key = _key(obj)
        version = _version(obj)
        held = self._objects.get(key)
        if held is not None and _version(held) >= version:
            return False
        if self._gone.get(key, -1) >= version:
            return False  # the deletion overtook the answer to our write
        if held is not None:
            self._forget(key)
        self._objects[key] = _trim(obj)
        if model := model_of(obj):
            self._by_model[key[0], model].add(key)
        return True

    def _forget(self, key: tuple[str, str]) -> None:
        held = self._objects.pop(key)
        group = (key[0], model_of(held))
        self._by_model[group].discard(key)
        if not self._by_model[group]:
            del self._by_model[group]


class Caches:
    """The caches of all kinds, and the tasks that feed them."""

    def __init__(self, kube: Kube, settings: Settings, on_change: OnChange) -> None:
        self._kube = kube
        self._settings = settings
        self._caches = {
            (resource.api_version, resource.kind): Cache(resource, on_change) for resource in (*OWN, *CHILDREN)
        }
        self._unsynced_since: dict[tuple[Resource, str], float] = {}
        self._synced: set[tuple[Resource, str]] = set()
        self._changed = asyncio.Event()

    def of(self, resource: Resource) -> Cache:
        """The cache of a resource. KeyError for one that is not watched."""
        return self._caches[resource.api_version, resource.kind]

    def get(self, ref: ObjectRef) -> Object | None:
        """The object, or None. KeyError for a kind that is not watched."""
        return self._caches[ref.api_version, ref.kind].get(ref.namespace, ref.name)

    def watches(self, ref: ObjectRef) -> bool:
        """True when objects of that kind are cached."""
        return (ref.api_version, ref.kind) in self._caches

    def assume(self, obj: Object) -> None:
        """Make our own write visible; kinds that are not watched are ignored."""
        if (cache := self._caches.get((obj["apiVersion"], obj["kind"]))) is not None:
            cache.assume(obj)

    @property
    def synced(self) -> bool:
        """True when every kind was listed completely once. Nothing is decided before."""
        return all(cache.synced for cache in self._caches.values())

    async def wait_synced(self) -> None:
        """Return when `synced`."""
        while not self.synced:
            self._changed.clear()
            await self._changed.wait()

    def unsynced_for(self, now: float) -> float:
        """Seconds (of `time.monotonic`) for which the blindest watch has had no connection; 0 when all are well."""
        return max((now - since for since in self._unsynced_since.values()), default=0.0)

    async def run(self) -> None:
        """Feed all caches until cancelled."""
        async with asyncio.TaskGroup() as group:
            for cache in self._caches.values():
                for namespace in self._settings.namespaces or ("",):
                    group.create_task(self._feed(cache, namespace), name=f"watch {cache.resource.plural} {namespace}")

    async def _feed(self, cache: Cache, namespace: str) -> None:
        """List, watch, and start over on any trouble with jittered backoff. Never ends by itself."""
        selector = SELECTOR if cache.resource in CHILDREN else ""
        scope = (cache.resource, namespace)
        failures = 0
        while True:
            self._unsynced_since.setdefault(scope, time.monotonic())
            try:
                objects, version = await self._kube.list(cache.resource, namespace, selector)
                cache.replace(namespace, objects, version)
                self._mark_synced(scope)
                failures = 0
                await self._follow(cache, namespace, selector, version)
            except NotFoundError as error:
                if cache.resource not in OPTIONAL:
                    LOG.error("%s: %s; install the CRDs (chart value crds.enabled)", cache.resource.plural, error)  # noqa: TRY400
                    await asyncio.sleep(_delay(failures := failures + 1))
                    continue
                cache.replace(namespace, [], "0")
                self._mark_synced(scope)  # absent is a fact, not blindness
                await asyncio.sleep(ABSENT_RETRY_SECONDS)
            except GoneError:
                LOG.info("%s: the watch is too old, listing again", cache.resource.plural)
            except KubeError as error:
                level = logging.ERROR if isinstance(error, ForbiddenError) else logging.WARNING
                LOG.log(level, "%s: %s; listing again after a backoff", cache.resource.plural, error)
                await asyncio.sleep(_delay(failures := failures + 1))

    async def _follow(self, cache: Cache, namespace: str, selector: str, version: str) -> None:
        """Watch from `version` on, over as many connections as it takes; returns only by an exception."""
        while True:
            events = self._kube.watch(
                cache.resource, namespace, selector, version, lasting=self._settings.watch_timeout
            )
            async with aclosing(events) as stream:  # type: ignore[type-var] # an async generator by construction
                async for event in stream:
                    version = event["object"]["metadata"]["resourceVersion"]
                    _take(cache, event)

    def _mark_synced(self, scope: tuple[Resource, str]) -> None:
        self._unsynced_since.pop(scope, None)
        self._synced.add(scope)
        resource = scope[0]
        wanted = {(resource, namespace) for namespace in self._settings.namespaces or ("",)}
        self._caches[resource.api_version, resource.kind].synced = wanted <= self._synced
        self._changed.set()


def model_of(obj: Object) -> str:
    """The model that an object belongs to; empty when it tells none."""
    metadata = obj["metadata"]
    if obj["kind"] == KIND_MODEL:
        return str(metadata["name"])
    if label := (metadata.get("labels") or {}).get(LABEL_MODEL):
        return str(label)
    return str(((obj.get("spec") or {}).get("modelRef") or {}).get("name", ""))


def is_own(obj: Object) -> bool:
    """True for our three kinds."""
    return resource_of(obj["apiVersion"], obj["kind"]) in OWN


def _take(cache: Cache, event: Mapping[str, Any]) -> None:
    match event["type"]:
        case "ADDED" | "MODIFIED":
            cache.put(event["object"])
        case "DELETED":
            cache.remove(event["object"])
        case _:
            pass  # BOOKMARK: only its resourceVersion matters


def _key(obj: Object) -> tuple[str, str]:
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def _version(obj: Object) -> int:
    return int(obj["metadata"].get("resourceVersion") or 0)


def _trim(obj: Object) -> Object:
    """Without ConfigMap payloads and managedFields: half of the memory. Of the latter stays who wrote a request, by name."""
    metadata = {key: value for key, value in obj["metadata"].items() if key != "managedFields"}
    if (manager := _asker(obj["metadata"])) is not None:
        metadata["managedFields"] = [{"manager": manager}]
    return {**{key: value for key, value in obj.items() if key not in {"data", "binaryData"}}, "metadata": metadata}


def _asker(metadata: Mapping[str, Any]) -> str | None:
    """The field manager that owns the request annotation."""
    if ANNOTATION_REQUEST not in (metadata.get("annotations") or {}):
        return None
    for entry in metadata.get("managedFields") or ():
        owned = (entry.get("fieldsV1") or {}).get("f:metadata", {}).get("f:annotations", {})
        if f"f:{ANNOTATION_REQUEST}" in owned:
            return str(entry.get("manager", ""))
    return None


def _delay(failures: int) -> float:
    """Seconds before the next list: 1, 2, 4 ... 30, with jitter so that all kinds do not come at once."""
    return float(min(30.0, 2.0 ** (failures - 1)) * random.uniform(0.5, 1.0))  # noqa: S311 - jitter is no secret
