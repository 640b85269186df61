"""Requests per second and latency of the server on one small model: `python -m bench.server`. Prints a table, writes JSON.

Closed loop: N connections, each with one request in flight. The load runs in its own process; on a two-core machine it competes with
the server for a core, which is told beside the figures. Other servers join as further rows of the same table (docs/server.md).
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
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from bench.server_model import FEATURES

CASES = ((1, 1), (8, 1), (32, 1), (8, 64))
"""(connections, rows per request)."""
READY_WITHIN = 30.0


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the table; latencies in milliseconds."""

    connections: int
    rows: int
    requests: int
    per_second: float
    p50: float
    p99: float
    cpu: float
    """Microseconds of the server's CPU per request: what stays comparable on a busy machine."""


def main() -> None:
    """Start the server, warm it, measure each case, stop it."""
    options = _parser().parse_args()
    port = free_port()
    command = [sys.executable, "-m", "bench.server_subject", str(port)]
    with subprocess.Popen(command) as server:
        try:
            _await_ready(port)
            measure(server.pid, port, 4, 1, 1.0)
            figures = [measure(server.pid, port, connections, rows, options.seconds) for connections, rows in CASES]
            scrape = _scrape_milliseconds(port)
        finally:
            server.terminate()
    report = {"figures": [asdict(figure) for figure in figures], "scrapeMilliseconds": scrape, "where": where()}
    options.json.write_text(json.dumps(report, indent=2))
    print(table(figures), f"/metrics: {scrape:.1f} ms per scrape", json.dumps(report["where"]), sep="\n")
    print(f"JSON: {options.json}")


def measure(pid: int, port: int, connections: int, rows: int, seconds: float) -> Figure:
    """One case against the server process `pid` on 127.0.0.1."""
    case = {
        "port": port,
        "path": "/v2/models/digits/infer",
        "rows": rows,
        "features": FEATURES,
        "clients": connections,
        "seconds": seconds,
    }
    command = [sys.executable, "-m", "bench.server_load", json.dumps(case)]
    before = cpu_seconds(pid)
    found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    cpu = (cpu_seconds(pid) - before) / len(found["latencies"]) * 1e6
    latencies = sorted(found["latencies"])
    cuts = statistics.quantiles(latencies, n=100)
    count = len(latencies)
    return Figure(connections, rows, count, count / found["seconds"], cuts[49] * 1000, cuts[98] * 1000, cpu)


def table(figures: list[Figure]) -> str:
    """Markdown."""
    head = "| connections | rows | requests/s | p50 ms | p99 ms | CPU µs/request |\n|---|---|---|---|---|---|"
    lines = [
        f"| {f.connections} | {f.rows} | {f.per_second:.0f} | {f.p50:.2f} | {f.p99:.2f} | {f.cpu:.0f} |"
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


def _await_ready(port: int) -> None:
    deadline = time.monotonic() + READY_WITHIN
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=2).close()
            return
        except OSError:
            if time.monotonic() > deadline:
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
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each case")
    default = Path(tempfile.gettempdir()) / "espalier-bench-server.json"
    parser.add_argument("--json", type=Path, default=default, help="where the figures go")
    return parser


if __name__ == "__main__":
    main()
