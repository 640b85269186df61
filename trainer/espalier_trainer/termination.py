"""The last words of a pod: a result of at most 4096 bytes that is always valid JSON and never holds a credential."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from espalier_api.names import TERMINATION_LOG
from espalier_api.training import TERMINATION_MESSAGE_BYTES, TrainingResult

SECRET_VARIABLES: Final = (
    *("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID"),
    *("WANDB_API_KEY", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"),
)
_MESSAGE: Final = 1500


def path() -> Path:
    """Where the kubelet reads; TERMINATION_LOG moves it."""
    return Path(os.environ.get("TERMINATION_LOG", TERMINATION_LOG))


def without_secrets(text: str) -> str:
    """Values of credential variables, replaced."""
    for name in SECRET_VARIABLES:
        value = os.environ.get(name)
        if value and len(value) >= 4:  # noqa: PLR2004 - a shorter one would eat ordinary text
            text = text.replace(value, f"<{name}>")
    return text


def message(result: TrainingResult) -> str:
    """JSON within the limit: first the message is cut to a readable length, then the API drops what is told elsewhere too."""
    told = without_secrets(result.message)
    if len(told) > _MESSAGE:
        told = f"{told[: _MESSAGE - 1]}…"
    short = result.model_copy(update={"message": told})
    try:
        return short.to_termination_message()
    except ValueError:
        bare = short.model_copy(
            update={"metrics": _fewest(short), "diagnosis": (), "classes": (), "message": told[:200]}
        )
        text = bare.to_json()
        fits = len(text.encode()) <= TERMINATION_MESSAGE_BYTES
        return text if fits else bare.model_copy(update={"metrics": {}}).to_json()


def _fewest(result: TrainingResult) -> dict[str, object]:
    """Values without intervals: gates need no more."""
    return {
        n: v.model_copy(update={"low": None, "high": None, "n": None})
        for n, v in result.metrics.items()
        if "/" not in n
    }


def write(result: TrainingResult, target: Path) -> None:
    """Write the message."""
    target.write_text(message(result), encoding="utf-8")
