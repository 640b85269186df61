"""How a training pod ends. The operator decides on these and on nothing the pod prints."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """The trainer's exit codes. Every other code, a signal included, is an infrastructure failure: retried with backoff up to `retries`."""

    OK = 0
    """The artifact is complete: manifest.json is written."""
    INVALID_CONFIG = 42
    """The configuration cannot work, whatever the data or the machine. Final."""
    DIVERGED = 43
    """NaN, infinity or divergence of the objective. Final; diagnosis F7."""
    DATA_PROBLEM = 44
    """The snapshot changed, its schema does not fit, or a label is out of range. Final."""
    PREEMPTED = 75
    """SIGTERM; the checkpoint is in S3. Retried, and does not count as an attempt (EX_TEMPFAIL of sysexits.h)."""
    PEER_LOST = 76
    """Another process of this training is gone, and it tells why; never the reason of a failure, only its echo. Retried like
    infrastructure (EX_PROTOCOL of sysexits.h).
    """


FINAL = frozenset({ExitCode.INVALID_CONFIG, ExitCode.DIVERGED, ExitCode.DATA_PROBLEM})
"""Codes after which a new attempt with the same inputs would end the same way."""


def is_final(code: int) -> bool:
    """True when another attempt is pointless."""
    return code in FINAL


class Blame(IntEnum):
    """How well the end of one process explains that all of a training ended; the smallest value tells why."""

    FINAL = 0
    """42, 43, 44: it would come again."""
    OWN = 1
    """Killed, or an exit code of its own."""
    PREEMPTED = 2
    """75: told to stop, with a checkpoint; where nothing above is seen, everybody was."""
    TORN_DOWN = 3
    """76, or SIGTERM before the process could listen to it: another one went first."""
    UNKNOWN = 4
    """It ended well, or nobody knows how it ended."""


SIGTERM = 143
"""128 + 15: how a container ends that was told to and could not listen yet."""


def blame(code: int | None) -> Blame:
    """What an exit code (0-255, None when it is unknown) says about the cause."""
    if code is None or code == ExitCode.OK:
        return Blame.UNKNOWN
    if is_final(code):
        return Blame.FINAL
    if code == ExitCode.PREEMPTED:
        return Blame.PREEMPTED
    return Blame.TORN_DOWN if code in {ExitCode.PEER_LOST, SIGTERM} else Blame.OWN


def counts_as_attempt(code: int) -> bool:
    """True when the ended attempt is charged to `training.retries`."""
    return code not in {ExitCode.OK, ExitCode.PREEMPTED}
