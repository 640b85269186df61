"""What every bench writes down beside its figures: when, on which machine, with which versions."""

from __future__ import annotations

import json
import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path("out/bench")
"""Where results go unless told otherwise; git ignores it. What is worth keeping is a table in docs/benchmarks.md."""
VERSIONS: Final = ("torch", "numpy", "scipy", "scikit-learn", "xgboost-cpu", "optuna")


def surroundings() -> dict[str, Any]:
    """Date (UTC), processor, number of CPUs, load averages at this moment, versions of Python and of what computes."""
    return {
        "date": time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime()),
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "load": [round(one, 2) for one in os.getloadavg()],
        "python": platform.python_version(),
        "versions": {name: found for name in VERSIONS if (found := _version(name))},
    }


def told(place: dict[str, Any]) -> str:
    """`surroundings` on one line."""
    versions = ", ".join(f"{name} {number}" for name, number in place["versions"].items())
    return f"{place['date']}, {place['cpus']} x {place['processor']}, load {place['load'][0]}, Python {place['python']}, {versions}"


def keep(path: Path, figures: Any) -> None:  # noqa: ANN401 - JSON
    """Write JSON in one rename: a bench that is killed leaves whole files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".tmp")
    fresh.write_text(json.dumps(figures, indent=1, default=float) + "\n")
    fresh.replace(path)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
