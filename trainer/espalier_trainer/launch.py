"""Several processes in this pod: starts one trainer per place, passes signals on, and ends with the code that tells why.

Not torch's elastic agent (adr/0070): that one loses the workers' exit codes on SIGTERM, orders pods by host name, and costs an import of
torch of its own. The number of processes is fixed; when a pod fails the operator starts all of them anew from the checkpoint. Where one pod
holds all processes, one that was killed is made good for here, from the same checkpoint. Without torch.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from espalier_api.exit_codes import Blame, ExitCode, blame
from espalier_api.names import ENV_JOB_INDEX
from espalier_api.training import TrainingResult
from espalier_trainer import termination
from espalier_trainer.errors import PreemptedError
from espalier_trainer.log import say
from espalier_trainer.peers import Place

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from espalier_trainer.session import Preemption

RESTARTS: Final = 1
"""How often killed processes are started again, where all of them are in this pod."""
LEAVING: Final = 45.0
"""Seconds from the first end, or from SIGTERM, to SIGKILL: less than the pod's grace (60), more than a checkpoint takes."""
LOOK: Final = 0.05


def places(document: Mapping[str, Any], index: int, gpus: int, port: int) -> list[Place]:
    """The processes of pod `index`, from job.json as it is written; empty when one process does it all. `port`: a free one of this pod."""
    nodes, each = int(document.get("nodes", 1)), document.get("processesPerNode", "auto")
    if each == "auto":
        each = max(gpus, 1) if "torch" in document.get("engine", {}) else 1
    if nodes * int(each) == 1:
        return []
    meet = document.get("rendezvous") or f"127.0.0.1:{port}"
    return [Place(index * int(each) + local, nodes * int(each), local, int(each), meet) for local in range(int(each))]


def of_this_pod(job: Path) -> list[Place]:
    """See `places`. A document that cannot be read is left to the trainer, which says what is wrong with it."""
    try:
        document = json.loads(job.read_text(encoding="utf-8"))
        return places(document, int(os.environ.get(ENV_JOB_INDEX, "0")), visible_gpus(), free_port())
    except (OSError, ValueError, TypeError, AttributeError):
        return []


def visible_gpus(devices: Path = Path("/dev")) -> int:
    """As many as the container has device files of, or as CUDA_VISIBLE_DEVICES names."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return len([name for name in named.split(",") if name.strip() not in {"", "-1"}])
    return len([path for path in devices.glob("nvidia[0-9]*") if path.name.removeprefix("nvidia").isdigit()])


def free_port() -> int:
    """A port that is free now on the loopback device."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def arguments(place: Place) -> list[str]:
    """What makes a trainer take a place."""
    numbers = (place.rank, place.size, place.local, place.locals)
    return ["--place", "/".join(map(str, numbers)), "--meet", place.meet]


PROGRAM: Final = (sys.executable, "-m", "espalier_trainer")


def run(
    job: Path, argv: Sequence[str], target: Path | None, preemption: Preemption, program: Sequence[str] = PROGRAM
) -> int:
    """Run all processes of this pod to their end; the termination message of the one that tells goes to `target`. Returns the exit code."""
    restarts = 0
    while True:
        here = of_this_pod(job)
        with tempfile.TemporaryDirectory(prefix="espalier-ends-") as folder:
            ends = _Processes(here, (*program, *argv), Path(folder), preemption).wait()
            end = min(ends, key=lambda each: each.order)
            say("processes", ended={each.place.rank: each.code for each in ends}, tells=end.place.rank)
            whole = len(here) == here[0].size
            if end.killed and whole and restarts < RESTARTS and not preemption.requested:
                restarts += 1
                say("restart", why=end.why, from_="the newest checkpoint")
                continue
            if target is not None:
                target.write_text(end.message(), encoding="utf-8")
            return end.code


class _End:
    """How one process ended."""

    def __init__(self, place: Place, returned: int, order: int, words: Path, *, told_to_leave: bool = False) -> None:
        self.place, self._order, self._signal = place, order, -returned
        self._unheard = (
            told_to_leave and self._signal == signal.SIGTERM
        )  # who listens never dies of it: it had nothing yet
        self.killed = returned < 0 and not self._unheard
        told = returned if returned >= 0 else 128 - returned  # as a container would tell it
        self.code = int(ExitCode.PREEMPTED) if self._unheard else told
        self._words = words

    @property
    def order(self) -> tuple[Blame, int, int]:
        """Sorts the one that tells why first; of those that ended well the leader."""
        told = blame(self.code)
        return told, 0 if told is Blame.UNKNOWN else self._order, self.place.rank

    @property
    def why(self) -> str:
        """For people."""
        return f"process {self.place.rank} of {self.place.size} was killed by signal {self._signal}"

    def message(self) -> str:
        """The process's own last words, or what is known of its end."""
        if self._words.is_file() and (words := self._words.read_text(encoding="utf-8")):
            return words
        if self._unheard:
            return termination.message(
                TrainingResult(
                    outcome="Preempted",
                    exit_code=self.code,
                    reason=PreemptedError.reason,
                    message="SIGTERM before anything was read; the next attempt starts from the newest checkpoint",
                )
            )
        why = self.why if self.killed else f"process {self.place.rank} of {self.place.size} ended with {self.code}"
        result = TrainingResult(outcome="Failed", exit_code=self.code, reason="InfrastructureFailure", message=why)
        return termination.message(result)


class _Processes:
    """The processes of one start."""

    def __init__(self, here: Sequence[Place], command: Sequence[str], folder: Path, preemption: Preemption) -> None:
        self._preemption = preemption
        self._running: dict[Place, subprocess.Popen[bytes]] = {}
        self._words = {place: folder / f"{place.rank}.json" for place in here}
        for place in here:
            local = {"GLOO_SOCKET_IFNAME": "lo"} if len(here) == place.size else {}
            environment = {**os.environ, **local, "RANK": str(place.rank), "TERMINATION_LOG": str(self._words[place])}
            self._running[place] = subprocess.Popen([*command, *arguments(place)], env=environment)  # noqa: S603 - our own program

    def wait(self) -> list[_End]:
        """Until all have ended. The first that fails takes the others with it: they would only wait for it."""
        ends: list[_End] = []
        kill_at: float | None = None
        while self._running:
            for place, process in list(self._running.items()):
                if (returned := process.poll()) is not None:
                    del self._running[place]
                    left = self._preemption.requested
                    ends.append(_End(place, returned, len(ends), self._words[place], told_to_leave=left))
            failed = any(end.code != ExitCode.OK for end in ends)
            if kill_at is None and (failed or self._preemption.requested):
                kill_at = time.monotonic() + LEAVING
                self._signal(signal.SIGTERM)
            if kill_at is not None and time.monotonic() > kill_at:
                self._signal(signal.SIGKILL)
            time.sleep(LOOK)
        return ends

    def _signal(self, number: int) -> None:
        for process in self._running.values():
            process.send_signal(number)
