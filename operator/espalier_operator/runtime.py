"""Puts the parts together: one object per outside thing, one controller per kind. No logic.

Between `controllers` and `main`: `main` knows kopf, this module does not.
"""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubernetes.aio import config as kube_config
from kubernetes.aio.client import ApiClient, Configuration

from espalier_operator.adapters.events import Recorder
from espalier_operator.adapters.kube import AioKube, Kube, Object
from espalier_operator.adapters.objectstore import S3Store
from espalier_operator.adapters.prometheus import Prometheus, open_sources
from espalier_operator.adapters.served import ServedDigests
from espalier_operator.adapters.traffic.adopted import AdoptedRouteRouter
from espalier_operator.adapters.traffic.httproute import HTTPRouteRouter
from espalier_operator.adapters.traffic.replicas import ReplicasRouter
from espalier_operator.adapters.watches import Caches
from espalier_operator.controllers.execute import Executor
from espalier_operator.controllers.health import Health
from espalier_operator.controllers.loop import Controller, Loops
from espalier_operator.controllers.model.controller import ModelController
from espalier_operator.controllers.model.observe import HttpProgress, ModelObserver
from espalier_operator.controllers.retrain.controller import RetrainController
from espalier_operator.controllers.rollout.controller import RolloutController

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from espalier_operator.settings import Settings

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Parts:
    """What controllers are made of."""

    settings: Settings
    kube: Kube
    caches: Caches
    executor: Executor
    recorder: Recorder
    store: S3Store
    progress: HttpProgress
    sources: Mapping[str, Prometheus]
    digests: ServedDigests


def _model(parts: Parts) -> Controller:
    return ModelController(
        caches=parts.caches,
        executor=parts.executor,
        observer=ModelObserver(parts.caches, parts.store, parts.progress),
        store=parts.store,
        recorder=parts.recorder,
        settings=parts.settings,
    )


def _rollout(parts: Parts) -> Controller:
    return RolloutController(
        caches=parts.caches,
        executor=parts.executor,
        routers={
            "gatewayAPI": HTTPRouteRouter(parts.kube, parts.caches),
            "existingRoute": AdoptedRouteRouter(parts.kube, parts.caches),
            "replicas": ReplicasRouter(parts.kube, parts.caches),
        },
        sources=parts.sources,
        digests=parts.digests,
        store=parts.store,
        server_image=parts.settings.server_image,
    )


def _retrain(parts: Parts) -> Controller:
    return RetrainController(parts.caches, parts.executor)


CONTROLLERS: tuple[Callable[[Parts], Controller], ...] = (_model, _rollout, _retrain)
"""One maker per kind."""


class Runtime:
    """The running operator without its frame."""

    def __init__(self, settings: Settings, client: ApiClient) -> None:
        self._client = client
        kube = AioKube(
            client,
            timeout=settings.kube_timeout,
            concurrency=settings.kube_concurrency,
            silence=settings.watch_silence,
        )
        caches = Caches(kube, settings, self._changed)
        recorder = Recorder(kube)
        store = S3Store(settings.store)
        executor = Executor(kube, caches, recorder, store)
        self.parts = Parts(
            settings,
            kube,
            caches,
            executor,
            recorder,
            store,
            HttpProgress(),
            open_sources(settings.prometheus),
            ServedDigests(),
        )
        self.loops = Loops(caches, executor, reconcile_timeout=settings.reconcile_timeout)
        executor.on_written = self.loops.written
        for make in CONTROLLERS:
            self.loops.register(make(self.parts))
        self.health = Health(caches, self.loops, settings.liveness_grace.total_seconds())
        self._feeding: asyncio.Task[None] | None = None

    def _changed(self, obj: Object) -> None:
        self.loops.changed(obj)  # loops need caches to be made, so this end of the knot is tied late

    def start(self) -> None:
        """Begin to watch; loops start with the objects that are found."""
        self._feeding = asyncio.create_task(self.parts.caches.run(), name="caches")

    def trouble(self) -> str | None:
        """Why this process should be restarted, or None."""
        if self._feeding is not None and self._feeding.done():
            return "the watches have ended"
        return self.health.trouble()

    async def stop(self) -> None:
        """End loops first, then watches, then connections."""
        await self.loops.stop()
        if self._feeding is not None:
            self._feeding.cancel()
            await asyncio.gather(self._feeding, return_exceptions=True)
        await self.parts.progress.close()
        await self.parts.digests.close()
        for source in self.parts.sources.values():
            source.close()
        self.parts.store.close()
        await self._client.close()  # type: ignore[no-untyped-call]


async def connect() -> ApiClient:
    """A client of the API server: the pod's service account, else the kubeconfig of a developer."""
    configuration = Configuration()
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        kube_config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    else:
        await kube_config.load_kube_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    configuration.connection_pool_maxsize = 256  # watches hold connections; requests are bounded by kube_concurrency
    return ApiClient(configuration)
