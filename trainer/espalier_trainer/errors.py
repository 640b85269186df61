"""What can end a training run, and with which exit code. One hierarchy, so that the boundary in `main` needs one handler.

The operator reads nothing but the exit code and the termination message; therefore every class names its code and its reason (a word
of espalier_api.conditions) and carries a sentence that names the object, the field, what was wrong and what to do.
"""

from __future__ import annotations

from typing import ClassVar, Final

from espalier_api.conditions import (
    DATA_PROBLEM,
    DIVERGED,
    INFRASTRUCTURE_FAILURE,
    INVALID_CONFIG,
    PREEMPTED,
    SNAPSHOT_CHANGED,
    Reason,
)
from espalier_api.exit_codes import ExitCode

UNEXPECTED: Final = 1
"""A bug: retried like an infrastructure failure, with the traceback in the log."""
UNAVAILABLE: Final = 69
"""EX_UNAVAILABLE of sysexits.h: storage or machine; every code that is not in ExitCode is retried with backoff."""


class TrainerError(Exception):
    """A run that ended for a reason we understand."""

    exit_code: ClassVar[int] = UNAVAILABLE
    reason: ClassVar[Reason] = INFRASTRUCTURE_FAILURE


class InvalidConfigError(TrainerError):
    """The job cannot be honoured as declared; trying again cannot help (exit 42)."""

    exit_code = ExitCode.INVALID_CONFIG
    reason = INVALID_CONFIG


class DivergedError(TrainerError):
    """A loss or gradient stopped being a number (exit 43, diagnosis F7)."""

    exit_code = ExitCode.DIVERGED
    reason = DIVERGED


class DataProblemError(TrainerError):
    """The snapshot is not what the job says it is (exit 44)."""

    exit_code = ExitCode.DATA_PROBLEM
    reason = DATA_PROBLEM


class SnapshotChangedError(DataProblemError):
    """The snapshot is not the one that the operator resolved (exit 44)."""

    reason = SNAPSHOT_CHANGED


class PreemptedError(TrainerError):
    """SIGTERM arrived; what can be resumed has been saved (exit 75)."""

    exit_code = ExitCode.PREEMPTED
    reason = PREEMPTED


class PeerLostError(TrainerError):
    """Another process of this training is gone; it tells why (exit 76)."""

    exit_code = ExitCode.PEER_LOST


class InfrastructureError(TrainerError):
    """Storage or the machine failed; the operator tries again with backoff."""


class ParityError(TrainerError):
    """What would be served is not what was judged (diagnosis F3); nothing is published, and a retry would end the same."""

    exit_code = ExitCode.INVALID_CONFIG
    reason = INVALID_CONFIG

    def __init__(self, evidence: str, suggestion: str) -> None:
        super().__init__(f"F3: {evidence}; {suggestion}")
        self.evidence, self.suggestion = evidence, suggestion
