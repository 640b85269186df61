"""The life of the process: live at once, ready when the version is verified, unready on SIGTERM, gone when traffic
has moved.

After SIGTERM Kubernetes still routes to the pod for a moment, so it goes on accepting for `drainSeconds`, unready;
then it finishes what is in flight and exits 0. A version that must not be served ends the process with the error's
exit code and a termination message.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import uvicorn

from espalier_server.app import build
from espalier_server.errors import StartError
from espalier_server.metrics import Metrics
from espalier_server.state import Phase, State
from espalier_server.workers import Workers

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path
    from types import FrameType

    from espalier_api.serving import ServingConfig
    from espalier_server.loading import Loaded
    from espalier_server.storage import Store

KEEP_ALIVE_SECONDS = 3900
"""Longer than any proxy keeps an idle connection (Envoy: one hour), so that it is never we who close one under a
request."""
IN_FLIGHT_SECONDS = 10.0
"""After the drain: the longest wait for requests in flight."""
MESSAGE_BYTES = 4096
log = logging.getLogger(__name__)


class Process(uvicorn.Server):
    """uvicorn with our end: it never dies of SIGTERM, it drains."""

    def __init__(
        self, config: ServingConfig, folder: Path, open_store: Callable[[str], Store], *, host: str, port: int
    ) -> None:
        self.state = State(config, Metrics(config), Workers(config.limits))
        self.failure: Exception | None = None
        self._folder = folder
        self._open_store = open_store
        self._stopping = threading.Event()
        self._drain: asyncio.Task[None] | None = None
        settings = uvicorn.Config(
            build(self.state),
            host=host,
            port=port,
            lifespan="off",
            ws="none",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=int(IN_FLIGHT_SECONDS),
        )
        super().__init__(settings)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen first, load beside it: a pod that waits for its store is alive."""
        await super().startup(sockets)
        threading.Thread(target=self._load, args=(asyncio.get_running_loop(),), name="load", daemon=True).start()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: drain. Second: stop now. Never captured, so the process exits 0 instead of dying of the
        signal.
        """
        if self._drain is not None or self.state.phase is Phase.LOADING:
            self.state.drain()
            self.should_exit = True
            return
        log.info("%s: unready now, accepting for %g s more", signal.Signals(sig).name, self.state.config.drain_seconds)
        self.state.drain()
        self._drain = asyncio.get_running_loop().create_task(self._leave_after(self.state.config.drain_seconds))

    async def _leave_after(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self.should_exit = True

    def _load(self, loop: asyncio.AbstractEventLoop) -> None:
        """In its thread: load, then hand over to the event loop. Everything that goes wrong here ends the process."""
        from espalier_server.loading import load  # noqa: PLC0415 - numpy, onnxruntime, boto3: off the start's path

        try:
            config = self.state.config
            loaded = load(config, self._open_store, self._folder, wait=self._stopping.wait, told=self._tell)
            loop.call_soon_threadsafe(self._become_ready, loaded)
        except Exception as error:  # noqa: BLE001 - the thread's boundary: main reports it and exits with its code
            loop.call_soon_threadsafe(self._fail, error)

    def _tell(self, reason: str) -> None:
        self.state.why_not_ready = reason

    def _become_ready(self, loaded: Loaded) -> None:
        from espalier_server.serving import ServedModel  # noqa: PLC0415 - as above

        state, manifest = self.state, loaded.artifact.manifest
        try:
            served = ServedModel(state.config, loaded.model, loaded.golden, loaded.reference, state.metrics)
        except StartError as error:
            self._fail(error)
            return
        state.metrics.loaded(
            digest=loaded.artifact.digest,
            task=manifest.task.type,
            framework=manifest.framework,
            seconds=loaded.seconds,
            size=loaded.artifact.model_bytes,
        )
        state.serve(served)
        log.info(
            "ready: %s %s %s, loaded in %.2f s",
            manifest.model,
            manifest.version,
            loaded.artifact.digest,
            loaded.seconds,
        )

    def _fail(self, error: Exception) -> None:
        self.failure = error
        self.should_exit = True


def run(process: Process, termination_log: Path) -> int:
    """Serve until told to stop; returns the exit code."""
    process.run()
    process.state.workers.close()
    if process.failure is None:
        log.info("stopped")
        return 0
    return report(process.failure, termination_log)


def report(error: Exception, termination_log: Path) -> int:
    """Say why this version is not served, to the log and to `kubectl describe pod`; returns the exit code."""
    if isinstance(error, StartError):
        log.error("refusing to serve: %s: %s", type(error).__name__, error)
    else:
        log.error("cannot serve", exc_info=error)
    with suppress(OSError):  # outside Kubernetes there is no such file; the log has the message
        descriptor = os.open(termination_log, os.O_WRONLY | os.O_TRUNC)
        with os.fdopen(descriptor, "wb") as file:
            file.write(f"{type(error).__name__}: {error}".encode()[:MESSAGE_BYTES])
    return error.exit_code if isinstance(error, StartError) else 1
