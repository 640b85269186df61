"""Requests per second and latency of the server on one small model: `python -m bench.server`. Prints a table, writes JSON.

Closed loop: N connections, each with one request in flight. The load runs in its own process; on a two-core machine it competes with
the server for a core, and so may others: CPU per request is what stays comparable. Peers join with
`--peer kserve=/path/to/python --peer mlserver=/path/to/python`, each the Python of an environment that has that server and onnxruntime.
All serve the same graph with one process and one thread per computation; the peers answer with nothing but the graph's outputs, ours
also checks, counts drift, and signs prediction ids. Rounds alternate between the servers, so that the machine's moods hit all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from bench.server_model import FEATURES, mlp

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CASES = ((1, 1), (8, 1), (32, 1), (8, 64))
"""(connections, rows per request)."""
READY_WITHIN = 120.0
PORT = "PORT"
"""Stands in a command for the port that the server gets."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the table; latencies in milliseconds, medians over the rounds."""

    server: str
    connections: int
    rows: int
    requests: int
    per_second: float
    p50: float
    p99: float
    cpu: float
    """Microseconds of the server's CPU per request: what stays comparable on a busy machine."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A running server."""

    name: str
    pid: int
    port: int


def main() -> None:
    """Start all servers, warm them up, measure each case in turn, stop them."""
    options = _parser().parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "model.onnx").write_bytes(mlp())
        subjects = [stack.enter_context(_running(name, command)) for name, command in _commands(options, folder)]
        figures = compare(subjects, options.rounds, options.seconds)
        scrape = _scrape_milliseconds(subjects[0].port)
    report = {"figures": [asdict(figure) for figure in figures], "scrapeMilliseconds": scrape, "where": where()}
    options.json.write_text(json.dumps(report, indent=2))
    print(table(figures), f"/metrics: {scrape:.1f} ms per scrape", json.dumps(report["where"]), sep="\n")
    print(f"JSON: {options.json}")


def compare(subjects: Sequence[Subject], rounds: int, seconds: float) -> list[Figure]:
    """Every case on every server, in rounds; the median of each figure."""
    for subject in subjects:
        measure(subject, 4, 1, 1.0)
    figures = []
    for connections, rows in CASES:
        found = [[measure(subject, connections, rows, seconds) for subject in subjects] for _ in range(rounds)]
        figures += [_median(each) for each in zip(*found, strict=True)]
    return figures


def measure(subject: Subject, connections: int, rows: int, seconds: float) -> Figure:
    """One case against a server on 127.0.0.1."""
    case = {
        "port": subject.port,
        "path": "/v2/models/digits/infer",
        "rows": rows,
        "features": FEATURES,
        "clients": connections,
        "seconds": seconds,
    }
    command = [sys.executable, "-m", "bench.server_load", json.dumps(case)]
    before = cpu_seconds(subject.pid)
    found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    latencies = sorted(found["latencies"])
    count = len(latencies)
    cpu = (cpu_seconds(subject.pid) - before) / count * 1e6
    cuts = statistics.quantiles(latencies, n=100)
    per_second = count / found["seconds"]
    return Figure(subject.name, connections, rows, count, per_second, cuts[49] * 1000, cuts[98] * 1000, cpu)


def _median(rounds: Sequence[Figure]) -> Figure:
    first = rounds[0]
    middle = {
        name: statistics.median(getattr(each, name) for each in rounds) for name in ("per_second", "p50", "p99", "cpu")
    }
    return Figure(first.server, first.connections, first.rows, sum(each.requests for each in rounds), **middle)


def _commands(options: argparse.Namespace, folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Name and command of each server; PORT stands for its port."""
    yield "espalier", [sys.executable, "-m", "bench.server_subject", PORT]
    for name, _, python in (peer.partition("=") for peer in options.peer):
        script = Path(__file__).with_name(f"server_peer_{name}.py")
        yield name, [python, str(script), PORT, str(folder / "model.onnx")]


@contextmanager
def _running(name: str, command: Sequence[str]) -> Iterator[Subject]:
    port = free_port()
    given = [str(port) if part == PORT else part for part in command]
    with subprocess.Popen(given, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _await_ready(port, process)
            yield Subject(name, process.pid, port)
        finally:
            process.kill()


def table(figures: list[Figure]) -> str:
    """Markdown."""
    head = (
        "| server | connections | rows | requests/s | p50 ms | p99 ms | CPU µs/request |\n|---|---|---|---|---|---|---|"
    )
    lines = [
        f"| {f.server} | {f.connections} | {f.rows} | {f.per_second:.0f} | {f.p50:.2f} | {f.p99:.2f} | {f.cpu:.0f} |"
        for f in figures
    ]
    return "\n".join([head, *lines])


def where() -> dict[str, str | int | float | None]:
    """Versions and hardware: a figure without them means nothing."""
    packages = ("onnxruntime", "starlette", "uvicorn", "uvloop", "httptools", "numpy")
    load = os.getloadavg()[0]
    found: dict[str, str | int | float | None] = {name: _version(name) for name in packages}
    return found | {"python": platform.python_version(), "cores": os.cpu_count(), "load1": round(load, 1)}


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _version(package: str) -> str | None:
    try:
        return version(package)
    except ImportError:
        return None


def _await_ready(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_WITHIN
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=2).close()
            return
        except OSError:
            if time.monotonic() > deadline or process.poll() is not None:
                raise
            time.sleep(0.1)


def _scrape_milliseconds(port: int) -> float:
    times = []
    for _ in range(20):
        began = time.perf_counter()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            answer.read()
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Benchmark the server on one small model.")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each case")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON", help="kserve or mlserver")
    default = Path(tempfile.gettempdir()) / "espalier-bench-server.json"
    parser.add_argument("--json", type=Path, default=default, help="where the figures go")
    return parser


if __name__ == "__main__":
    main()
