"""One JSON line per event on stdout: what a cluster's log collector wants, and short enough for a person."""

from __future__ import annotations

import json
import sys
import time
from typing import Any


def say(event: str, **facts: Any) -> None:  # noqa: ANN401 - any JSON value
    """Print one event; values that JSON does not know are told as text."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    line = json.dumps({"time": stamp, "event": event, **facts}, default=str)
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
