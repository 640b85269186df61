"""`make test`: check, unit, contract, then the stage (images, cluster, chart) and e2e on it.

`python -m tools.test --help`.

A cluster that this run made is removed at the end, also after a failure; one that was there before is left as it was
found.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cluster.errors import ClusterError
from cluster.handle import Cluster
from images.errors import ImageError
from tools.stage import ROOT, StageError, python, run, set_up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RESULTS = ROOT / ".cache" / "test-times.json"
MOST_WORKERS = 8
E2E_WORKERS = "2"


class Times:
    """How long each part took; printed and written at the end, so that what dominates is known."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Announce and time one part."""
        print(f"\n=== {name}", flush=True)
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(time.monotonic() - started, 1)
            print(f"=== {name}: {self.seconds[name]:.0f} s", flush=True)

    def report(self) -> None:
        """The table, and the same as JSON."""
        total = sum(self.seconds.values())
        for name, seconds in self.seconds.items():
            print(f"{seconds:8.1f} s  {name}")
        print(f"{total:8.1f} s  in all")
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps(self.seconds, indent=1) + "\n")


def on_all_cores(*arguments: str) -> list[str]:
    """Argv of pytest with a process per core (each with a gigabyte of torch, so not without bound).

    Numeric libraries get one thread in each of them: threads of two processes on two cores only wait for each other.
    """
    workers = str(min(os.cpu_count() or 1, MOST_WORKERS))
    return ["env", "OMP_NUM_THREADS=1", *python("-m", "pytest", "-n", workers, "--dist", "worksteal", *arguments)]


def is_up() -> bool:
    """Whether a cluster of the default name was made before."""
    try:
        Cluster.load()
    except ClusterError:
        return False
    return True


def e2e(cluster: Cluster, selection: list[str]) -> None:
    """Pytest where the cluster can be reached; its own output is the report.

    Most of a test's time is waiting for pods, so files run side by side. Those that kill the operator once come
    afterwards, beside each other, and last, alone, those that stop what every test depends on. A selection of the
    caller's runs as it is.
    """
    beside = ["-n", E2E_WORKERS, "--dist"]
    usual = [
        ["-m", "not alone and not kills", *beside, "loadfile"],
        ["-m", "kills", *beside, "load"],
        ["-m", "alone"],
    ]
    ends = [pytest_inside(cluster, *each) for each in ([selection] if selection else usual)]
    if any(ends):
        raise StageError(f"e2e: pytest ended with {' and '.join(map(str, ends))}; see above")


def pytest_inside(cluster: Cluster, *arguments: str) -> int:
    """One run of pytest on the e2e rung; its exit code."""
    argv = python("-m", "pytest", "tests/e2e", "-v", "--durations=15", *arguments)
    return subprocess.run(
        cluster.exec_argv(argv), env={**os.environ, **cluster.env()}, cwd=ROOT, check=False
    ).returncode


def passes(times: Times, name: str, part: Callable[[], object]) -> bool:
    """Run one part; its failure is told in words."""
    with times.part(name):
        try:
            part()
        except (StageError, ClusterError, ImageError) as error:
            sys.stderr.write(f"\nmake test: {name}: {error}\n")
            return False
    return True


def main() -> int:
    """0 when everything passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", action="store_true", help="leave the cluster up")
    parser.add_argument("--keep-going", action="store_true", help="run the later parts also after one that failed")
    parser.add_argument("--context", help="use this kube context instead of a kind cluster of our own")
    parser.add_argument("e2e", nargs="*", help="arguments for the e2e run of pytest (after --)")
    arguments = parser.parse_args()
    times, found = Times(), is_up()
    parts: dict[str, Callable[[], object]] = {
        "check": lambda: run(python("-m", "tools.check")),
        "unit and contract": lambda: run(on_all_cores("tests/unit", "tests/contract", "-q", "--durations=10")),
        "stage: images, cluster, chart": lambda: set_up(arguments.context),
        "e2e": lambda: e2e(Cluster.load(), arguments.e2e),
    }
    failed = False
    try:
        for name, part in parts.items():
            if failed and not arguments.keep_going:
                break
            failed |= not passes(times, name, part)
    finally:
        if not (found or arguments.keep or arguments.context):
            with times.part("tear-down"):
                subprocess.run(python("-m", "cluster", "down"), cwd=ROOT, check=False)
        times.report()
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
