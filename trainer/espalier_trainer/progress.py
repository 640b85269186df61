"""What a running pod tells: /progress as JSON for the operator, /metrics for Prometheus. Only the newest state, from memory."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from espalier_api import metrics as api_metrics
from espalier_api.model import TrialsStatus
from espalier_api.names import PORT_TRAINER
from espalier_api.training import Contribution, Losses, TrainingProgress

if TYPE_CHECKING:
    from espalier_api.training import TrainingJob
    from espalier_trainer import engines
    from espalier_trainer.session import Progress


class Board:
    """The newest progress; written by the fit, read by the server's threads."""

    def __init__(self, job: TrainingJob, *, leads: bool = True) -> None:
        self._lock = threading.Lock()
        self._now = TrainingProgress()
        self._began = time.monotonic()
        self._identity = {"namespace": job.model.namespace, "model": job.model.name, "version": job.version}
        self._leads = leads
        self._registry = CollectorRegistry()
        self._gauges = {
            metric.name: Gauge(metric.name, metric.help, metric.labels, registry=self._registry)
            for metric in (
                api_metrics.TRAINING_LOSS,
                api_metrics.TRAINING_PROGRESS,
                api_metrics.REGULARIZER_COEFFICIENT,
                api_metrics.REGULARIZER_VALUE,
                api_metrics.REGULARIZER_SHARE,
                api_metrics.REGULARIZER_GRADIENT_RATIO,
            )
        }

    def phase(self, name: str) -> None:
        """A new phase: Starting, LoadingData, Searching, CrossValidating, Training, Evaluating, Exporting, Publishing."""
        with self._lock:
            self._now = self._now.model_copy(update={"phase": name})
            if name in {"Searching", "CrossValidating", "Training"}:
                self._began = time.monotonic()

    def trials(self, done: int, total: int, best: float | None) -> None:
        """How far a search is, and the best objective so far."""
        with self._lock:
            self._now = self._now.model_copy(update={"trials": TrialsStatus(done=done, total=total, best=best)})

    def fit(self, now: Progress) -> None:
        """How far the fits are; `done` is over all of them."""
        spent = time.monotonic() - self._began
        eta = spent * (1.0 - now.done) / now.done if now.done > 0 else None
        told = {name: _told(block) for name, block in now.blocks.items()}
        with self._lock:
            self._now = self._now.model_copy(
                update={
                    "progress": min(max(now.done, 0.0), 1.0),
                    "epoch": now.epoch,
                    "epochs": now.epochs,
                    "step": now.step,
                    "eta_seconds": eta,
                    "loss": Losses(train=now.losses.get("train"), validation=now.losses.get("validation")),
                    "regularizers": told,
                }
            )
        if self._leads:  # the others answer a scrape, but one fit is told once
            self._export()

    def _export(self) -> None:
        now = self._now
        self._set(api_metrics.TRAINING_PROGRESS, now.progress)
        for split in api_metrics.SPLITS:
            self._set(api_metrics.TRAINING_LOSS, getattr(now.loss, split), split=split)
        for name, block in now.regularizers.items():
            self._set(api_metrics.REGULARIZER_COEFFICIENT, block.coefficient, name=name)
            self._set(api_metrics.REGULARIZER_VALUE, block.value, name=name)
            self._set(api_metrics.REGULARIZER_SHARE, block.share, name=name)
            self._set(api_metrics.REGULARIZER_GRADIENT_RATIO, block.gradient_ratio, name=name)

    def _set(self, metric: api_metrics.Metric, value: float | None, **labels: str) -> None:
        if value is not None:
            self._gauges[metric.name].labels(**self._identity, **labels).set(value)

    def as_json(self) -> bytes:
        """Body of /progress."""
        with self._lock:
            return self._now.to_json().encode()

    def as_text(self) -> bytes:
        """Body of /metrics."""
        return generate_latest(self._registry)


def _told(block: engines.Contribution) -> Contribution:
    return Contribution(
        coefficient=block.coefficient,
        value=block.value or 0.0,
        share=block.share or 0.0,
        gradient_ratio=block.gradient_ratio,
    )


class Handler(BaseHTTPRequestHandler):
    """Two read-only pages; the board hangs on the server."""

    server: BoardServer

    def do_GET(self) -> None:
        """/progress or /metrics; anything else is 404."""
        pages = {
            "/progress": (self.server.board.as_json, "application/json"),
            "/metrics": (self.server.board.as_text, CONTENT_TYPE_LATEST),
        }
        page = pages.get(self.path.split("?", 1)[0])
        body, kind = (page[0](), page[1]) if page else (b"not found; there are /progress and /metrics\n", "text/plain")
        self.send_response(200 if page else 404)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, ANN401 - the library's signature
        """Scrapes are not news."""


class BoardServer(ThreadingHTTPServer):
    """Serves a board on its own daemon threads."""

    daemon_threads = True

    def __init__(self, board: Board, port: int = PORT_TRAINER) -> None:
        super().__init__(("", port), Handler)
        self.board = board

    def start(self) -> BoardServer:
        """Answer from now on; `server_address` has the port."""
        threading.Thread(target=self.serve_forever, name="progress", daemon=True).start()
        return self
