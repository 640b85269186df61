"""`python -m espalier_trainer --job /etc/espalier/job/job.json`: the process boundary.

Every end is an exit code and a termination message.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from espalier_api.model import Diagnosis
from espalier_api.names import ENV_JOB_INDEX, JOB_PATH, PORT_TRAINER
from espalier_api.training import OUTCOME_OF_EXIT, TrainingResult
from espalier_trainer import launch, peers, termination
from espalier_trainer.errors import UNEXPECTED, DivergedError, InvalidConfigError, ParityError, TrainerError
from espalier_trainer.log import say
from espalier_trainer.peers import Place
from espalier_trainer.session import Preemption
from espalier_trainer.storage import FolderStore, ObjectStore, open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def main(argv: Sequence[str] | None = None, preemption: Preemption | None = None) -> int:
    """Run one job; returns the exit code. `preemption` listens already, unless this is no process of its own."""
    arguments = _arguments(argv)
    target = termination.path() if arguments.local is None or "TERMINATION_LOG" in os.environ else None
    if preemption is None:
        preemption = Preemption()
        preemption.install()
    if arguments.place.size == 1 and launch.of_this_pod(arguments.job):
        return launch.run(arguments.job, sys.argv[1:] if argv is None else argv, target, preemption)
    began = time.monotonic()
    try:
        result = _train(arguments, preemption)
    except TrainerError as error:
        result = _failed(error, began)
    except Exception as error:  # noqa: BLE001 - the boundary: told in full below, retried by the operator
        say("traceback", text=termination.without_secrets(traceback.format_exc()))
        result = TrainingResult(
            outcome="Failed",
            exit_code=UNEXPECTED,
            reason="InfrastructureFailure",
            message=f"unexpected {type(error).__name__}: {str(error)[:500]}; the pod's log has the traceback",
            duration_seconds=round(time.monotonic() - began, 3),
        )
    say(
        "result",
        outcome=result.outcome,
        exitCode=result.exit_code,
        message=termination.without_secrets(result.message),
        digest=result.digest,
    )
    if target is not None:
        termination.write(result, target)
    return result.exit_code


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="espalier_trainer", description="Train one version of a RegularizedModel.")
    parser.add_argument("--job", type=Path, default=Path(JOB_PATH), help="job.json as the operator mounts it")
    parser.add_argument("--port", type=int, default=PORT_TRAINER, help="of /progress and /metrics; 0 picks a free one")
    parser.add_argument(
        "--local", type=Path, help="a folder that stands for S3: s3://bucket/key is <folder>/bucket/key"
    )
    parser.add_argument("--place", help=argparse.SUPPRESS, default="0/1/0/1")
    parser.add_argument("--meet", help=argparse.SUPPRESS, default="")
    found = parser.parse_args(argv)
    rank, size, local, there = map(int, found.place.split("/"))
    found.place = Place(rank, size, local, there, found.meet)
    return found


def _train(arguments: argparse.Namespace, preemption: Preemption) -> TrainingResult:
    jobfile, progress, run = (
        import_module(f"espalier_trainer.{name}") for name in ("jobfile", "progress", "run")
    )  # a second of imports, after the arguments are known to be good
    preemption.check("anything was read")
    place = arguments.place
    job = jobfile.read_job(arguments.job, place.size)
    board = progress.Board(job, leads=place.rank == 0)
    server = progress.BoardServer(board, arguments.port if place.local == 0 else 0).start()
    say(
        "start",
        model=f"{job.model.namespace}/{job.model.name}",
        version=job.version,
        attempt=job.attempt,
        port=server.server_address[1],
        **({"process": f"{place.rank} of {place.size}", "pid": os.getpid()} if place.size > 1 else {}),
    )
    world = run.World(_opener(arguments.local), board, preemption, worker=_worker())
    try:
        if place.size > 1:
            peers.join(
                import_module("espalier_trainer.engines.torch.world").Together(place, lambda: preemption.requested)
            )
        with world.tracking:
            result: TrainingResult = run.run(job, world)
        peers.current().leave()
    finally:
        server.shutdown()
        server.server_close()
    return result.model_copy(update={"message": "; ".join((result.message, *world.tracking.lost()))})


def _worker() -> int | None:
    """Which pod of an Indexed Job this is, as Kubernetes tells it: who runs which trial, and nothing of what comes out."""
    index = os.environ.get(ENV_JOB_INDEX)
    return None if index is None else int(index)


def _opener(local: Path | None) -> Callable[[str, str], ObjectStore]:
    """S3, or the folder that stands for it."""
    if local is None:
        return open_store

    def open_folder(uri: str, field: str) -> ObjectStore:
        if not uri.startswith("s3://"):
            raise InvalidConfigError(f"{field}: {uri!r} is not an S3 address")
        return FolderStore(local / uri.removeprefix("s3://"))

    return open_folder


def _failed(error: TrainerError, began: float) -> TrainingResult:
    diagnosis: tuple[Diagnosis, ...] = ()
    if isinstance(error, DivergedError):
        diagnosis = (
            Diagnosis(
                mode="F7",
                evidence=str(error)[:1024],
                suggestion="lower the learning rate or add regularizers.gradientClipping",
            ),
        )
    if isinstance(error, ParityError):
        diagnosis = (Diagnosis(mode="F3", evidence=error.evidence[:1024], suggestion=error.suggestion[:1024]),)
    return TrainingResult(
        outcome=OUTCOME_OF_EXIT.get(error.exit_code, "Failed"),
        exit_code=int(error.exit_code),
        reason=str(error.reason),
        message=str(error),
        diagnosis=diagnosis,
        duration_seconds=round(time.monotonic() - began, 3),
    )
