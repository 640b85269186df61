"""TensorBoard: event files in the store, renewed while the fit runs.

S3 cannot append: a file is put whole, at most every EVERY seconds and never more than a tenth of the time, and is followed by another one
when it is long. A later attempt writes files of its own that begin by taking back the epochs it repeats.
"""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Final

from espalier_trainer.tracking import event_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from espalier_trainer.tracking.telling import End, Ending, Opening, Point

FOLDER: Final = "tensorboard/"
EVERY: Final = 15.0
PATIENCE: Final = 10.0
"""Upload again after this many times the seconds that the last upload took."""
LONG: Final = 4 << 20
"""Bytes of a file after which the next one begins."""


def start(opening: Opening) -> Tensorboard:
    """Nothing can be wrong: there is nothing to configure, and the store is the artifact's."""
    return Tensorboard(opening)


class Tensorboard:
    """The event files of one attempt."""

    def __init__(self, opening: Opening) -> None:
        assert opening.job.tracking is not None  # noqa: S101 - who starts has looked
        self.link = f"{opening.job.tracking.uri}{FOLDER}"
        self._opening, self._number, self._newest = opening, 0, 0
        self._name = (
            f"{FOLDER}events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.a{opening.job.attempt}"
        )
        self._content = bytearray()
        self._next, self._ahead = 0.0, 0

    def log(self, points: Sequence[Point]) -> None:
        """Scalars at their epoch; uploads when it is time."""
        for point in points[self._ahead :]:
            self._begin(point.epoch, point.at)
            values = [event_file.scalar(name, value) for name, value in point.values.items()]
            self._content += event_file.summary(values, point.epoch, point.at)
            self._newest = max(self._newest, point.epoch)
        self._ahead = len(points)  # when the upload fails, the same points come again
        if points and time.monotonic() >= self._next:
            self._upload()
        self._ahead = 0

    def close(self, how: Ending, end: End | None) -> None:
        """Final metrics, pictures, where the version lies and how it ended; then the whole file."""
        now = time.time()
        self._begin(self._newest, now)
        values = [event_file.text("ended", how)]
        if end is not None:
            values += [event_file.scalar(f"final/{name}", value) for name, value in end.metrics.items()]
            values += [event_file.image(name.removesuffix(".png"), content) for name, content in end.pictures.items()]
            values.append(event_file.text("version", f"{end.address}\n\n{end.digest}"))
        self._content += event_file.summary(values, self._newest, now)
        self._upload()

    def _begin(self, epoch: int, at: float) -> None:
        """What the first file says before the first point, and every file before everything."""
        if self._content:
            return
        self._content += event_file.header(at)
        if self._number == 0:
            if self._opening.job.attempt > 1:
                self._content += event_file.restart(epoch, at)
            rows = "\n".join(f"| {name} | {value} |" for name, value in self._opening.parameters().items())
            self._content += event_file.summary(
                [event_file.text("job", f"| field | value |\n|---|---|\n{rows}")], epoch, at
            )

    def _upload(self) -> None:
        began = time.monotonic()
        self._opening.store.write(f"{self._name}.{self._number:04d}", bytes(self._content))
        if len(self._content) > LONG:
            self._content.clear()
            self._number += 1
        took = time.monotonic() - began
        self._next = began + took + max(EVERY, PATIENCE * took)
