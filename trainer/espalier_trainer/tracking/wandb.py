"""Weights & Biases: one run per version; later attempts go on with it.

With WANDB_MODE=offline (in training.env) nothing leaves the cluster: each attempt's run is a file in the store, below
`.tracking/<version>/wandb/`, for `wandb sync`. WANDB_BASE_URL is a server of one's own.
"""

from __future__ import annotations

import os
import secrets
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.termination import without_secrets

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from espalier_trainer.tracking.telling import End, Ending, Opening, Point

FOLDER: Final = "wandb/"
KEY: Final = "WANDB_API_KEY"
DEFAULTS: Final = {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}
"""Of the library, unless training.env says otherwise: stdout stays ours, and it would tell its makers of errors."""
SETTINGS: Final = {
    "console": "off",
    "disable_code": True,
    "disable_git": True,
    "x_disable_meta": True,  # of host, user and arguments
    "x_disable_stats": True,
    "init_timeout": 15.0,
    "finish_timeout": 15.0,  # below feed.CLOSES_WITHIN
    "finish_timeout_raises": True,
}
REFUSALS: Final = ("not logged in", "permission denied", "unauthorized", "forbidden", "401", "403")
"""The library has one error for all that a server answers; these words of it are about who is asking."""
EXIT: Final = {"succeeded": 0, "failed": 1, "preempted": 75}


def start(opening: Opening) -> Wandb:
    """Go on with the version's run, or create it. InvalidConfigError without a key, and when the server refuses it."""
    asked = opening.job.tracking.wandb if opening.job.tracking is not None else None
    assert asked is not None  # noqa: S101 - who starts has looked
    offline = os.environ.get("WANDB_MODE") == "offline"
    if not offline and not os.environ.get(KEY):
        raise InvalidConfigError(
            f"training.tracking.wandb.secretRef: {KEY} is not in the environment; put it into the Secret {asked.secret_ref.name!r} "
            "(for espalier train: export it), or set WANDB_MODE=offline in training.env"
        )
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    library = import_module("wandb")
    folder = opening.folder / FOLDER
    folder.mkdir(exist_ok=True)
    identity = opening.remembered.id or secrets.token_hex(4)
    try:
        run = library.init(
            project=asked.project,
            id=identity,
            mode="offline" if offline else "online",
            resume=None if offline else "allow",
            name=opening.name,
            group=opening.name.rpartition("/")[0],
            config={**opening.parameters(), **opening.tags()},
            dir=str(folder),
            settings=library.Settings(**SETTINGS),
        )
    except library.errors.Error as error:
        if isinstance(error, library.errors.AuthenticationError) or any(
            word in str(error).lower() for word in REFUSALS
        ):
            why = without_secrets(str(error))[:200]
            raise InvalidConfigError(
                f"training.tracking.wandb.secretRef: the server refuses the key in {asked.secret_ref.name!r}: {why}"
            ) from error
        raise
    opening.remembered.keep(identity)
    return Wandb(run, opening, folder if offline else None)


class Wandb:
    """An open run; `offline` is the folder of its file when there is no server."""

    def __init__(self, run: Any, opening: Opening, offline: Path | None) -> None:  # noqa: ANN401 - the library's
        assert opening.job.tracking is not None  # noqa: S101 - who starts has looked
        self._run, self._store, self._offline = run, opening.store, offline
        self.link = f"{opening.job.tracking.uri}{FOLDER}" if offline is not None else run.url or ""
        self._known: Mapping[str, Any] = dict(run.summary) if run.resumed else {}
        self._axes: set[str] = set()

    def log(self, points: Sequence[Point]) -> None:
        """One row per epoch, drawn over the epoch; those that an earlier attempt told already stay as they are."""
        for point in points:
            axis = f"{point.prefix}epoch"
            if axis not in self._axes:
                self._run.define_metric(f"{point.prefix}*", step_metric=axis)
                self._axes.add(axis)
            if point.epoch > self._known.get(axis, -1.0):
                self._run.log(dict(point.values))

    def close(self, how: Ending, end: End | None) -> None:
        """Final metrics, pictures and where the version lies; then the run's end. Raises TimeoutError when the server does not take it."""
        if end is not None:
            for name, value in end.metrics.items():
                self._run.summary[f"final/{name}"] = value
            self._run.summary["espalier.artifact"], self._run.summary["espalier.digest"] = end.address, end.digest
            self._run.log({name: self._image(name, content) for name, content in end.pictures.items()})
        if how == "preempted":
            self._run.mark_preempting()
        self._run.finish(exit_code=EXIT[how])
        if self._offline is not None:
            import_module(
                "wandb"
            ).teardown()  # its process goes on writing behind `finish`: a busy machine read an empty file
            for file in sorted(self._offline.rglob("*.wandb")):
                self._store.write(f"{FOLDER}{file.parent.name}/{file.name}", file.read_bytes())
            for file in sorted(self._offline.rglob("files/media/**/*.png")):
                self._store.write(f"{FOLDER}{file.relative_to(self._offline / 'wandb').as_posix()}", file.read_bytes())

    def _image(self, name: str, png: bytes) -> Any:  # noqa: ANN401 - the library's
        file = self._run.dir + "/" + name.replace("/", "-")
        with open(file, "wb") as sink:  # noqa: PTH123 - the library's folder is text
            sink.write(png)
        return import_module("wandb").Image(file)
