"""A rollback's verdict as an annotation: written in the same request as weight 0, so that no crash can come between them."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from espalier_api.durations import format_time
from espalier_api.names import GROUP
from espalier_operator.decisions.rollout.world import Mark

if TYPE_CHECKING:
    from collections.abc import Mapping

ANNOTATION: Final = f"{GROUP}/rolled-back"
LIMIT: Final = 2048
"""Characters of a message in the mark; the annotations of an object have 256 KiB in all."""


def annotations_of(mark: Mark | None) -> dict[str, str]:
    """The annotation to write; none when there is no verdict, which takes away an older one."""
    if mark is None:
        return {}
    return {
        ANNOTATION: json.dumps(
            {
                "version": mark.version,
                "started": mark.started,
                "outcome": mark.outcome,
                "reason": mark.reason,
                "message": mark.message[:LIMIT],
                "at": format_time(mark.at),
                "sli": mark.sli,
                "evidence": mark.evidence,
            }
        )
    }


def mark_in(metadata: Mapping[str, Any]) -> Mark | None:
    """The verdict that an object carries. One that cannot be read is none: status has it too, this is the second copy."""
    text = (metadata.get("annotations") or {}).get(ANNOTATION)
    if text is None:
        return None
    try:
        found = json.loads(text)
        return Mark(
            version=str(found["version"]),
            started=str(found["started"]),
            outcome=str(found["outcome"]),
            reason=str(found["reason"]),
            message=str(found["message"]),
            at=datetime.fromisoformat(found["at"]),
            sli=str(found.get("sli", "")),
            evidence=found.get("evidence"),
        )
    except (ValueError, KeyError, TypeError):
        return None
