"""The operator's process: kopf is the frame (signals, start and stop, liveness endpoint, events of our kinds), `runtime` the contents.

Only `on.event` handlers: they leave neither annotations nor finalizers on users' objects. kopf's daemons would, and would release an object
that was deleted while the operator was down without asking us (docs/adr/0010).
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING, Any, Final

import kopf
from prometheus_client import GCCollector, PlatformCollector, ProcessCollector, start_http_server

from espalier_api import names
from espalier_operator import telemetry
from espalier_operator.adapters.resources import OWN
from espalier_operator.controllers.loop import Key
from espalier_operator.runtime import Runtime, connect
from espalier_operator.settings import Settings, SettingsError, load

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

LOG = logging.getLogger("espalier")

WATCH_SECONDS: Final = 300
"""kopf's own watches of our three kinds end after this long and are opened again."""


CHATTY: Final = ("kopf.objects", "kopf.activities.probe", "aiohttp.access", "botocore")
"""Loggers that write one line per watch event, probe or client; our own log tells every transition instead."""


class EndlessBackoff:
    """1, 2, 4 ... 30 seconds with jitter, for ever: kopf ends the whole process when its backoffs run out, and a restart heals nothing."""

    def __iter__(self) -> Iterator[float]:
        """A fresh sequence for each request."""
        delay = 1.0
        while True:
            yield delay * random.uniform(0.5, 1.0)  # noqa: S311 - jitter is no secret
            delay = min(30.0, delay * 2)


def build(settings: Settings) -> kopf.OperatorRegistry:
    """Handlers of kopf around a runtime that lives from start-up to clean-up."""
    registry, operator_settings = kopf.OperatorRegistry(), settings
    running: dict[str, Runtime] = {}

    @kopf.on.startup(registry=registry)
    async def start(settings: kopf.OperatorSettings, **_: Any) -> None:  # noqa: ANN401 - kopf's protocol
        frame(settings)
        running["runtime"] = runtime = Runtime(operator_settings, await connect())
        runtime.start()

    @kopf.on.login(registry=registry)
    def login(**context: Any) -> kopf.ConnectionInfo | None:  # noqa: ANN401 - kopf's protocol
        return kopf.login_via_client(**context)

    @kopf.on.cleanup(registry=registry)
    async def stop(**_: Any) -> None:  # noqa: ANN401 - kopf's protocol
        if (runtime := running.pop("runtime", None)) is not None:
            await runtime.stop()

    @kopf.on.probe(id="espalier", registry=registry)
    async def alive(**_: Any) -> str:  # noqa: ANN401 - kopf's protocol
        trouble = running["runtime"].trouble() if "runtime" in running else None
        if trouble is not None:
            LOG.error("liveness: %s", trouble)
            raise kopf.PermanentError(trouble)  # any other exception would let the probe hang in retries
        return "ok"

    async def seen(kind: str, namespace: str, name: str, type: str | None, **_: Any) -> None:  # noqa: A002, ANN401 - kopf's names
        if type != "DELETED" and "runtime" in running:
            running["runtime"].loops.ensure(Key(kind, namespace, name))

    for resource in OWN:
        kopf.on.event(resource.group, names.VERSION, resource.plural, registry=registry, id=resource.plural)(
            _about(resource.kind, seen)
        )
    return registry


def _about(kind: str, seen: Any) -> Any:  # noqa: ANN401 - kopf's protocol
    async def handler(namespace: str, name: str, type: str | None, **_: Any) -> None:  # noqa: A002, ANN401 - kopf's names
        await seen(kind=kind, namespace=namespace, name=name, type=type)

    return handler


def frame(settings: kopf.OperatorSettings) -> None:
    """Settings of kopf itself: nothing of it is left on objects, and no outage ends the process."""
    settings.persistence.finalizer = f"{names.GROUP}/unused"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=names.GROUP)
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=names.GROUP)
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.networking.error_backoffs = EndlessBackoff()
    settings.networking.connect_timeout = 10
    settings.networking.request_timeout = 60
    settings.watching.server_timeout = WATCH_SECONDS
    settings.watching.client_timeout = WATCH_SECONDS + 10
    settings.watching.connect_timeout = 10


def observe_self() -> None:
    """Process, platform and garbage collector of this process, beside our own metrics."""
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=telemetry.REGISTRY)


def run(environ: Mapping[str, str] | None = None) -> int:
    """Run until SIGTERM. Returns the exit code: 0, or 2 when a setting is wrong."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for chatty in CHATTY:
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        settings = load(environ)
    except SettingsError as error:
        LOG.error("%s", error)  # noqa: TRY400 - a message for a person, not a crash
        return 2
    if settings.metrics_port:
        observe_self()
        start_http_server(settings.metrics_port, registry=telemetry.REGISTRY)
    asyncio.run(
        kopf.operator(
            registry=build(settings),
            standalone=True,
            clusterwide=not settings.namespaces,
            namespaces=settings.namespaces,
            liveness_endpoint=f"http://0.0.0.0:{settings.probe_port}/healthz",
        )
    )
    return 0
