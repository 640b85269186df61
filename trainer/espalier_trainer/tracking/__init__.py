"""Who else is told about a training besides /metrics: TensorBoard, W&B, MLflow. One file each; libraries are imported when job.json asks.

What is told comes from where /progress comes from: numbers that are on the host already, once per epoch. Each tracker has a thread of
its own (feed.py), so a slow or dead server neither slows nor fails a fit. A wrong configuration ends the job before it begins (42).
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from espalier_api.artifact import EVIDENTLY_HTML
from espalier_trainer.errors import InvalidConfigError, PreemptedError
from espalier_trainer.log import say
from espalier_trainer.tracking.feed import CLOSES_WITHIN, TOLD, Feed
from espalier_trainer.tracking.runs import Runs
from espalier_trainer.tracking.telling import End, Ending, Opening, Point, Tracker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from espalier_api.training import TrainingJob
    from espalier_trainer.engines import Fitted
    from espalier_trainer.evaluation.evaluate import Evaluation
    from espalier_trainer.prepared import Prepared
    from espalier_trainer.session import Progress
    from espalier_trainer.storage import ObjectStore

LIBRARIES: Final = {"wandb": "wandb", "mlflow": "mlflow", "evidently": "evidently"}
"""Field of training.tracking -> what is imported; event files of TensorBoard need no library (event_file.py)."""
FED: Final = ("tensorboard", "wandb", "mlflow")
"""Modules below, each with `start(Opening) -> Tracker`; evidently.py is asked once, at the end."""
LOSSES: Final = {
    "train": "loss/train",
    "validation": "loss/validation",
    "objective": "loss/objective",
    "metric": "validation/metric",
    "learningRate": "learningRate",
}
"""What a fit tells -> under which name trackers show it."""


class Tracking:
    """Everybody who wants to know. Inert until `start`; a context that closes every run with how the training ended."""

    def __init__(self) -> None:
        self._feeds: dict[str, Feed] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._end: End | None = None
        self._parts: dict[str, tuple[int, int]] = {}

    def start(self, job: TrainingJob, open_store: Callable[[str, str], ObjectStore]) -> None:
        """Open the runs of this version, the same for all its attempts. InvalidConfigError names the field that cannot work."""
        if job.tracking is None or not speaks(os.environ):
            return
        asked = dict(job.tracking)
        check_installed([name for name in LIBRARIES if asked[name] is not None])
        if not (fed := [name for name in FED if asked[name] is not None]):
            return
        self._folder = tempfile.TemporaryDirectory(prefix="espalier-tracking-", ignore_cleanup_errors=True)
        store = open_store(job.tracking.uri, "tracking.uri")
        runs = Runs(store)
        for name in fed:
            module = import_module(f"{__name__}.{name}")
            opening = Opening(job, store, Path(self._folder.name), runs.of(name))
            self._feeds[name] = Feed(name, partial(module.start, opening)).start()
        say("tracking", **self.links())

    def fit(self, now: Progress, prefix: str = "") -> None:
        """One epoch is done. Fits of further seeds have a prefix, `seed-8/`."""
        if self._feeds:
            prefix = self._part(now.epoch, prefix)
            self._put(Point(now.epoch, {f"{prefix}{n}": v for n, v in told(now)}, prefix))

    def _part(self, epoch: int, prefix: str) -> str:
        """With `part-2/` when epochs begin again: an ensemble or a path fits several times inside one fit."""
        part, last = self._parts.get(prefix, (1, -1))
        part += epoch <= last
        self._parts[prefix] = part, epoch
        return prefix if part == 1 else f"{prefix}part-{part}/"

    def search(self, trials: Sequence[Mapping[str, Any]]) -> None:
        """What each trial of a search came to, as search.json has it; those that failed have no objective."""
        for trial in trials:
            if self._feeds and "objective" in trial:
                values = {"search/epoch": float(trial["number"]), "search/objective": float(trial["objective"])}
                self._put(Point(trial["number"], values, "search/"))

    def _put(self, point: Point) -> None:
        for feed in self._feeds.values():
            feed.put(point)

    def links(self) -> dict[str, str]:
        """Where to read, by tracker; absent are those that could not be reached yet."""
        return {name: feed.link for name, feed in self._feeds.items() if feed.link}

    def troubles(self) -> dict[str, dict[str, object]]:
        """By tracker: points that it has not got so far, how often it failed and with which words. Empty when all is well."""
        return {name: feed.trouble() for name, feed in self._feeds.items() if feed.failures}

    def lost(self) -> list[str]:
        """In words, for the result's message: trackers that have not got everything."""
        return [
            f"{name} has not got everything ({feed.trouble()['points']} points; {feed.trouble()['reason']})"
            for name, feed in self._feeds.items()
            if not feed.complete
        ]

    def finish(self, end: End) -> None:
        """The version is published: this is told when the context closes."""
        self._end = end

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all runs, side by side, within feed.CLOSES_WITHIN seconds."""
        how: Ending = "succeeded" if error is None else "preempted" if isinstance(error, PreemptedError) else "failed"
        for feed in self._feeds.values():
            feed.end(how, self._end)
        deadline = time.monotonic() + CLOSES_WITHIN
        for feed in self._feeds.values():
            feed.join(max(0.0, deadline - time.monotonic()))
        if self._folder is not None:
            self._folder.cleanup()


def speaks(environment: Mapping[str, str]) -> bool:
    """True for the one process among those that train together, or search together, which tells for all: the first."""
    return environment.get("RANK", "0") == "0" and environment.get("JOB_COMPLETION_INDEX", "0") == "0"


def check_installed(wanted: list[str]) -> None:
    """InvalidConfigError when the image lacks a library; nothing is imported."""
    for name in wanted:
        if find_spec(LIBRARIES[name]) is None:
            raise InvalidConfigError(
                f"training.tracking.{name}: this trainer's image has no {LIBRARIES[name]}; set training.image to one that is built with "
                f"it (docs/images.md, Trackers), install espalier[{name}] where you run espalier train, or remove the field"
            )


def reports(job: TrainingJob, fitted: Fitted, evaluation: Evaluation, prepared: Prepared) -> dict[str, bytes]:
    """Files of the version for training.tracking.evidently; empty when nobody asked, or when the library failed (which is said)."""
    if job.tracking is None or job.tracking.evidently is None or not speaks(os.environ):
        return {}
    try:
        files: dict[str, bytes] = import_module(f"{__name__}.evidently").report(fitted, evaluation, prepared)
    except Exception as error:  # noqa: BLE001 - whatever the library throws: a report must not fail the training
        why = f"{type(error).__name__}: {error}"[:TOLD]
        evaluation.notes["evidently"] = {"failed": why}
        say("tracking-failed", tracker="evidently", why=why, then="the version has no report")
        return {}
    return files


def reported(files: Mapping[str, bytes]) -> dict[str, str]:
    """Where the report is, if there is one."""
    return {"evidently": EVIDENTLY_HTML} if EVIDENTLY_HTML in files else {}


def told(now: Progress) -> list[tuple[str, float]]:
    """(name, number) of everything in one epoch that is a finite number."""
    found: list[tuple[str, float | None]] = [("epoch", float(now.epoch)), ("step", float(now.step))]
    found += [(name, now.losses.get(key)) for key, name in LOSSES.items()]
    for name, block in now.blocks.items():
        found += [
            (f"regularizers/{name}/{field}", value)
            for field, value in (
                ("coefficient", block.coefficient),
                ("value", block.value),
                ("share", block.share),
                ("gradientRatio", block.gradient_ratio),
            )
        ]
    return [(name, float(value)) for name, value in found if value is not None and math.isfinite(value)]


__all__ = [
    "FED",
    "LIBRARIES",
    "End",
    "Opening",
    "Point",
    "Tracker",
    "Tracking",
    "check_installed",
    "reported",
    "reports",
    "speaks",
    "told",
]
