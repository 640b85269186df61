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


FINAL = frozenset({ExitCode.INVALID_CONFIG, ExitCode.DIVERGED, ExitCode.DATA_PROBLEM})
"""Codes after which a new attempt with the same inputs would end the same way."""


def is_final(code: int) -> bool:
    """True when another attempt is pointless."""
    return code in FINAL


def counts_as_attempt(code: int) -> bool:
    """True when the ended attempt is charged to `training.retries`."""
    return code not in {ExitCode.OK, ExitCode.PREEMPTED}
