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
from espalier_trainer import termination
from espalier_trainer.errors import UNEXPECTED, DivergedError, InvalidConfigError, ParityError, TrainerError
from espalier_trainer.log import say
from espalier_trainer.storage import FolderStore, ObjectStore, open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one job; returns the exit code."""
    arguments = _arguments(argv)
    began = time.monotonic()
    try:
        result = _train(arguments)
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
    if arguments.local is None or "TERMINATION_LOG" in os.environ:
        termination.write(result, termination.path())
    return result.exit_code


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="espalier_trainer", description="Train one version of a RegularizedModel.")
    parser.add_argument("--job", type=Path, default=Path(JOB_PATH), help="job.json as the operator mounts it")
    parser.add_argument("--port", type=int, default=PORT_TRAINER, help="of /progress and /metrics; 0 picks a free one")
    parser.add_argument(
        "--local", type=Path, help="a folder that stands for S3: s3://bucket/key is <folder>/bucket/key"
    )
    return parser.parse_args(argv)


def _train(arguments: argparse.Namespace) -> TrainingResult:
    jobfile, progress, run, session = (
        import_module(f"espalier_trainer.{name}") for name in ("jobfile", "progress", "run", "session")
    )  # a second of imports, after the arguments are known to be good
    job = jobfile.read_job(arguments.job)
    board = progress.Board(job)
    server = progress.BoardServer(board, arguments.port).start()
    say(
        "start",
        model=f"{job.model.namespace}/{job.model.name}",
        version=job.version,
        attempt=job.attempt,
        port=server.server_address[1],
    )
    preemption = session.Preemption()
    preemption.install()
    world = run.World(_opener(arguments.local), board, preemption, worker=_worker())
    try:
        with world.tracking:
            result: TrainingResult = run.run(job, world)
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


if __name__ == "__main__":
    sys.exit(main())
