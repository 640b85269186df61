"""What the logged signals say about a version, as failure modes F1-F8 of the guide.

The trainer diagnoses all of them itself (its result carries them, and they are the last thing its termination message
gives up); what only the outside can see is added here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from espalier_api import conditions as c
from espalier_api.model import Diagnosis

if TYPE_CHECKING:
    from espalier_operator.decisions.attempts import Attempt

_DIVERGED = Diagnosis(
    mode="F7",
    evidence="the objective became NaN or infinite and the trainer ended with 43",
    suggestion="lower the learning rate, add gradientClipping, and lower penalty strengths before adding others",
)


def diagnose(attempt: Attempt) -> tuple[Diagnosis, ...]:
    """The trainer's findings; a divergence always has F7, also when the trainer's message was lost."""
    found = attempt.result.diagnosis if attempt.result is not None else ()
    if attempt.reason == c.DIVERGED and not any(finding.mode == "F7" for finding in found):
        return (_DIVERGED, *found)
    return tuple(found)
