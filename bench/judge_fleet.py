"""What judging costs as the fleet grows: `python -m bench.judge_fleet [--quick]`.

A stub Prometheus on a local socket answers for N rollouts with two SLIs each (errors, latency; two pods per version). Bar
(design/quality.md): queries per tick constant in N. Also printed: seconds of one tick for the whole fleet in one process, and memory.
Exit code 1 when the number of queries depends on N.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import resource
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from espalier_api.analysis import Analysis
from espalier_operator.adapters.analysis import Canary, analyse
from espalier_operator.adapters.prometheus import Prometheus
from espalier_operator.decisions.judge import Arms, SourceTiming, compile_slis
from espalier_operator.settings import PrometheusSource

OUT = Path(".cache/bench/judge_fleet.json")
NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
TICKS = 6
SPEC = {"slis": [{"name": "errors", "errorRatio": {}}, {"name": "latency", "latency": {"threshold": "200ms"}}]}


class FleetServer(ThreadingHTTPServer):
    """Counts what it is asked."""

    daemon_threads = True

    def __init__(self, rollouts: int) -> None:
        self.rollouts, self.instants, self.ranges = rollouts, 0, 0
        super().__init__(("127.0.0.1", 0), FleetHandler)

    def body(self, text: str, at: float) -> bytes:
        """Every counter of the fleet, growing with time."""
        label, values = ("le", ("0.2", "+Inf")) if "_bucket" in text else ("outcome", ("ok", "rejected", "error"))
        grown = f"{(at - NOON.timestamp() + 3600) * 10:.0f}"
        rows = [
            {
                "metric": {
                    "namespace": f"team-{model % 50}",
                    "model": f"model-{model}",
                    "version": version,
                    "pod": f"model-{model}-{version}-6bf89d-{pod}",
                    "instance": f"10.{model >> 8}.{model & 255}.{pod}:8080",
                    label: value,
                },
                "value": [at, "0" if value == "error" else grown],
            }
            for model in range(self.rollouts)
            for version in ("v3", "v4")
            for pod in range(2)
            for value in values
        ]
        return json.dumps({"status": "success", "data": {"resultType": "vector", "result": rows}}).encode()


class FleetHandler(BaseHTTPRequestHandler):
    """The two paths of the query API."""

    protocol_version = "HTTP/1.1"
    server: FleetServer

    def do_GET(self) -> None:
        """Answer an instant query for the fleet; a range query (once per canary) with nothing."""
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if parts.path.endswith("query_range"):
            self.server.ranges += 1
            body = b'{"status":"success","data":{"resultType":"matrix","result":[]}}'
        else:
            self.server.instants += 1
            body = self.server.body(query["query"], float(query["time"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Quiet."""


async def run(rollouts: int) -> dict[str, Any]:
    """`TICKS` blocks of the whole fleet."""
    server = FleetServer(rollouts)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    source = Prometheus("default", PrometheusSource(url, timeout=timedelta(seconds=30)))
    slis = compile_slis(Analysis.model_validate(SPEC), SourceTiming(), warm_up=timedelta(seconds=60))
    canaries = [Canary(Arms(f"team-{i % 50}", f"model-{i}", "v4", "v3"), NOON, {}) for i in range(rollouts)]
    entries: dict[tuple[int, str], Any] = {}
    seconds, queries, before = [], [], 0

    async def look(index: int, now: datetime) -> None:
        for sli in slis:
            seen = await analyse(sli, entries.get((index, sli.name), {}), source, canaries[index], now)
            entries[index, sli.name] = seen.look.status

    for tick in range(TICKS):
        now, began = NOON + timedelta(seconds=120 + 30 * tick), time.process_time()
        await asyncio.gather(*(look(index, now) for index in range(rollouts)))
        seconds.append(time.process_time() - began)
        queries.append(server.instants - before)
        before = server.instants
    source.close()
    server.shutdown()
    server.server_close()
    return {
        "rollouts": rollouts,
        "queriesPerTick": queries[-1],
        "rangeQueriesPerCanary": server.ranges / rollouts,
        "cpuSecondsPerTick": round(sorted(seconds[1:])[len(seconds[1:]) // 2], 3),
        "peakMiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def main() -> int:
    """Run, print, write; 1 when queries grow with the fleet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="up to 100 rollouts instead of 1000")
    parser.add_argument("--out", type=Path, default=OUT, help="where the JSON goes")
    arguments = parser.parse_args()
    sizes = (1, 10, 100) if arguments.quick else (1, 10, 100, 1000)
    rows = [asyncio.run(run(size)) for size in sizes]
    print(
        f"{TICKS} ticks of 30 s, 2 SLIs, Python {platform.python_version()}; the stub's own work is in the CPU seconds"
    )
    print("| " + " | ".join(rows[0]) + " |\n" + "|---" * len(rows[0]) + "|")
    for row in rows:
        print("| " + " | ".join(str(value) for value in row.values()) + " |")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return 0 if len({row["queriesPerTick"] for row in rows}) == 1 else 1


if __name__ == "__main__":
    sys.exit(main())
