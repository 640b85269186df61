"""What the operator's client relies on, asked of the real API server: apply, fences, finalizers, watches, caches."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from espalier_operator.adapters.kube import AioKube, ConflictError, GoneError, InvalidError, NotFoundError
from espalier_operator.adapters.resources import CONFIG_MAPS, MODELS
from espalier_operator.adapters.watches import Caches
from espalier_operator.decisions.plan import ObjectRef
from espalier_operator.settings import Settings
from tests.e2e.clients import api_client
from tests.e2e.harness import model_manifest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.e2e.harness import World

pytestmark = pytest.mark.e2e


@asynccontextmanager
async def client() -> AsyncIterator[AioKube]:
    async with api_client() as api:
        yield AioKube(api, timeout=timedelta(seconds=15), concurrency=8)


def config_map(namespace: str, **data: str) -> dict[str, Any]:
    labels = {"app.kubernetes.io/managed-by": "espalier", "espalier.dev/model": "semantics"}
    metadata = {"name": f"semantics-{uuid.uuid4().hex[:8]}", "namespace": namespace, "labels": labels}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def held_model(namespace: str) -> dict[str, Any]:
    """A model that the running operator leaves alone: its snapshot does not exist, so nothing is trained."""
    manifest = model_manifest(
        f"m{uuid.uuid4().hex[:8]}", data={"snapshot": {"uri": "s3://datasets/nowhere/at/all/"}, "target": "y"}
    )
    manifest["metadata"]["namespace"] = namespace
    return manifest


def test_apply_creates_and_changes_and_removes_what_it_no_longer_says(world: World) -> None:
    async def run() -> None:
        async with client() as kube:
            manifest = config_map(world.kube.namespace, a="1", b="2")
            created = await kube.apply(manifest)
            assert created["data"] == {"a": "1", "b": "2"}  # 201 answers with the object
            changed = await kube.apply({**manifest, "data": {"a": "9"}})
            assert changed["data"] == {"a": "9"}
            same = await kube.apply({**manifest, "data": {"a": "9"}})
            assert same["metadata"]["resourceVersion"] == changed["metadata"]["resourceVersion"]
            await kube.delete(ObjectRef.of(manifest))
            await kube.delete(ObjectRef.of(manifest))
            with pytest.raises(NotFoundError):
                await kube.get(ObjectRef.of(manifest))

    asyncio.run(run())


def test_a_stale_status_write_is_refused_and_a_bad_one_too(world: World) -> None:
    async def run() -> None:
        async with client() as kube:
            manifest = held_model(world.kube.namespace)
            ref = ObjectRef.of(manifest)
            created = await kube.apply(manifest)
            await asyncio.sleep(5)  # the operator says what it has to say
            current = await kube.get(ref)
            with pytest.raises(ConflictError):
                await kube.patch_status(
                    ref, {"phase": "Stale"}, resource_version=created["metadata"]["resourceVersion"]
                )
            with pytest.raises(InvalidError):
                await kube.patch_status(ref, {"nextVersion": "not a number"})
            assert current["metadata"]["generation"] == 1
            await kube.delete(ref)

    asyncio.run(run())


def test_finalizers_are_set_with_a_precondition(world: World) -> None:
    async def run() -> None:
        async with client() as kube:
            manifest = config_map(world.kube.namespace)
            ref = ObjectRef.of(manifest)
            created = await kube.apply(manifest)
            version = created["metadata"]["resourceVersion"]
            held = await kube.set_finalizers(ref, ["espalier.dev/finalizer"], resource_version=version)
            with pytest.raises(ConflictError):
                await kube.set_finalizers(ref, [], resource_version=version)
            await kube.delete(ref)
            leaving = await kube.get(ref)
            assert leaving["metadata"]["deletionTimestamp"]
            await kube.set_finalizers(ref, [], resource_version=leaving["metadata"]["resourceVersion"])
            with pytest.raises(NotFoundError):
                await kube.get(ref)
            assert held["metadata"]["finalizers"] == ["espalier.dev/finalizer"]

    asyncio.run(run())


def test_a_watch_from_the_distant_past_is_gone(world: World) -> None:
    async def run() -> None:
        async with client() as kube:
            events = kube.watch(MODELS, world.kube.namespace, "", "1", lasting=timedelta(seconds=10))
            async with aclosing(events) as opened:  # type: ignore[type-var]
                with pytest.raises(GoneError):
                    async for _ in opened:
                        pass

    asyncio.run(run())


def test_caches_follow_the_server(world: World) -> None:
    async def run() -> None:
        async with client() as kube:
            settings = Settings("t", "s", namespaces=(world.kube.namespace,))
            woken: list[str] = []
            caches = Caches(kube, settings, lambda obj: woken.append(obj["metadata"]["name"]))
            task = asyncio.create_task(caches.run())
            async with asyncio.timeout(30):
                await caches.wait_synced()
                manifest = config_map(world.kube.namespace)
                name = manifest["metadata"]["name"]
                await kube.apply(manifest)
                while name not in woken:  # noqa: ASYNC110 - looks at what the caches did
                    await asyncio.sleep(0.01)
                assert [
                    each["metadata"]["name"]
                    for each in caches.of(CONFIG_MAPS).by_model(world.kube.namespace, "semantics")
                ] == [name]
                await kube.delete(ObjectRef.of(manifest))
                while caches.get(ObjectRef.of(manifest)) is not None:  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
