"""Run one command of a builder: its output goes to a log, its steps to the person who waits."""

from __future__ import annotations

import os
import re
import subprocess
from typing import TYPE_CHECKING

from images.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cluster.progress import Progress

# buildah and podman: "[2/2] STEP 3/9: RUN pip ..."; docker: "#7 [build 3/4] RUN pip ...".
_STEP = re.compile(r"^(?:\[\d+/\d+\] )?STEP \d+/\d+: (?P<buildah>.*)|^#\d+ \[[^]]+\] (?P<docker>[A-Z].*)")
_SLOW = ("RUN", "COPY --from")


def step_title(line: str) -> str:
    """What a line of a builder's output announces, shortened; empty unless it is a step that takes time."""
    found = _STEP.match(line)
    title = (found["buildah"] or found["docker"]) if found else ""
    return " ".join(title.split())[:90] if title.startswith(_SLOW) else ""


def run(argv: Sequence[str], *, log: Path, what: str, remedy: str, progress: Progress | None = None) -> None:
    """Run ``argv`` with a low priority, so that Go builds and tests beside it keep their pace.

    Args:
        log: the command and its output are appended here.
        what: for the message when it fails.
        remedy: likewise.
        progress: told about the steps of a build.

    Raises:
        ImageError: it ended with another status than 0.

    """
    log.parent.mkdir(parents=True, exist_ok=True)
    tail: list[str] = []
    with log.open("a") as sink:
        sink.write(f"+ {' '.join(argv)}\n")
        with subprocess.Popen(
            ["nice", "-n", "5", *argv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            env={**os.environ, "BUILDKIT_PROGRESS": "plain"}, stdin=subprocess.DEVNULL,
        ) as process:  # fmt: skip
            for line in process.stdout or ():
                sink.write(line)
                tail = [*tail[-24:], line]
                if progress and (title := step_title(line)):
                    progress.say(f"  {title}")
    if process.returncode:
        raise ImageError(f"{what} failed ({process.returncode}); log: {log}\n{''.join(tail)}", remedy=remedy)


def output(argv: Sequence[str]) -> str:
    """What a short command prints; empty if it fails."""
    done = subprocess.run(argv, text=True, capture_output=True, check=False)
    return done.stdout if done.returncode == 0 else ""
