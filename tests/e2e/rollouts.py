"""A rollout from its first champion on, and what watches that traffic never goes where it must not."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kubernetes import client, config

from tests.e2e.harness import model_manifest
from tests.e2e.history import Recorder, breaches

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.harness import World


def first_champion(world: World, **spec: Any) -> None:
    """Rollout and model applied, v1 serving."""
    world.apply_rollout(**spec)
    world.apply(model_manifest())
    world.await_("v1 champion", lambda: world.champion() == "v1")


def next_version(world: World, strength: float = 0.011, **spec: Any) -> None:
    """A version as good as the first (or, with `data=`, a bad one)."""
    world.apply(model_manifest(regularizers={"l2": {"strength": strength}}, **spec))


def steps(*weights: int, hold: str = "12s") -> dict[str, Any]:
    """A strategy with these weights."""
    return {"warmUp": "4s", "steps": [{"weight": weight, "hold": hold} for weight in weights]}


@contextmanager
def watched(world: World) -> Iterator[None]:
    """Every state of the route and the pods is recorded meanwhile; at the end it fails when an invariant was broken in any."""
    api_client = config.new_client_from_config(context=world.kube.context)
    core, custom = client.CoreV1Api(api_client), client.CustomObjectsApi(api_client)
    routes = ("gateway.networking.k8s.io", "v1", world.kube.namespace, "httproutes")
    recorders = [
        Recorder("Pod", core.list_namespaced_pod, (world.kube.namespace,)),
        Recorder("HTTPRoute", custom.list_namespaced_custom_object, routes),
    ]
    threads = [threading.Thread(target=recorder.run, daemon=True) for recorder in recorders]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for recorder in recorders:
            recorder.stop.set()
        for thread in threads:
            thread.join(timeout=30)
        api_client.close()
    assert not any(recorder.gaps for recorder in recorders), [recorder.gaps for recorder in recorders]
    assert all(recorder.changes for recorder in recorders)
    broken = list(
        breaches([change for recorder in recorders for change in recorder.changes], "digits", time.monotonic())
    )
    assert not broken, broken[:10]
