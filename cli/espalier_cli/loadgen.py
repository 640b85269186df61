"""Labelled traffic for a served model: sends rows at a steady rate, tells the truth about them later, and counts what comes back.

`python loadgen.py --url http://envoy --host digits.example.com --model digits --rows rows.npz`

Open loop: request i is due at i / rps whether or not earlier ones were answered, and its latency counts from then, so a server that
stalls cannot hide behind a client that waits for it. Bounded in rate, in requests in flight (beyond: `dropped`), in number and in time.
One JSON object per interval on stdout, with totals since the start; the last one has `"summary": true`. Needs aiohttp and numpy only: it
is the whole program of the image `loadgen`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HTTP_OK: Final = 200
HTTP_CLIENT_ERROR: Final = 400
HTTP_SERVER_ERROR: Final = 500
NO_VERSION: Final = "none"
"""Answers without X-Espalier-Version: the gateway's own, or no answer at all."""
SLACK_SECONDS: Final = 5.0
"""After the last request and its feedback's delay: the longest wait for answers."""


class RowsError(Exception):
    """The file of rows cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What to send where, how fast, for how long."""

    url: str
    host: str | None
    model: str
    rps: float = 50.0
    duration: float = 60.0
    count: int | None = None
    feedback_delay: float = 2.0
    feedback_share: float = 1.0
    interval: float = 5.0
    timeout: float = 10.0
    inflight: int = 500
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """One request, ready to send, and its true label: a class name, or the number of a regression."""

    body: bytes
    label: str | float


def read_rows(path: Path) -> list[Row]:
    """Rows of an npz (`x` [n, numbers], `y` [n], and `categories` [n, columns] of a model that has some) or of a JSON object with the
    same keys. NaN, and null in JSON, is a missing number. Raises RowsError.
    """
    try:
        if path.suffix == ".json":
            content = json.loads(path.read_text())
            x, y = np.asarray(content["x"], dtype=np.float32), list(content["y"])
            names = content.get("categories")
        else:
            with np.load(path, allow_pickle=False) as file:
                x, y = file["x"].astype(np.float32), file["y"].tolist()
                names = file["categories"].astype(str).tolist() if "categories" in file.files else None
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise RowsError(f"{path}: needs x (numbers, [rows, features]) and y (labels): {error}") from error
    if x.ndim != 2 or len(x) != len(y) or len(x) == 0:  # noqa: PLR2004 - rows and features
        raise RowsError(f"{path}: x is {x.shape} and y has {len(y)} labels; one label per row is needed")
    if names is not None and len(names) != len(x):
        raise RowsError(f"{path}: categories has {len(names)} rows, x has {len(x)}")
    texts = [[]] * len(x) if names is None else names
    return [Row(_body(row, text), _label(label)) for row, text, label in zip(x, texts, y, strict=True)]


def _body(row: np.ndarray[Any, np.dtype[np.float32]], names: Sequence[str | None]) -> bytes:
    """The Open Inference Protocol request of one row; numbers in the shortest form that is the same float32, NaN as null."""
    data = [None if np.isnan(value) else float(str(value)) for value in row]
    tensors: list[dict[str, Any]] = []
    if data:
        tensors.append({"name": "input", "shape": [1, len(data)], "datatype": "FP32", "data": data})
    if names:
        tensors.append({"name": "categories", "shape": [1, len(names)], "datatype": "BYTES", "data": list(names)})
    return json.dumps({"inputs": tensors}, separators=(",", ":")).encode()


def _label(value: Any) -> str | float:  # noqa: ANN401 - text or a number
    return float(value) if isinstance(value, float) else str(value)


class Latencies:
    """A histogram with edges 5 % apart: percentiles of any number of requests in little memory."""

    EDGES: Final = np.geomspace(1e-4, 100.0, 284)

    def __init__(self) -> None:
        self._counts = np.zeros(len(self.EDGES) + 1, dtype=np.int64)

    def add(self, seconds: float) -> None:
        """Count one request."""
        self._counts[int(np.searchsorted(self.EDGES, seconds))] += 1

    def percentile(self, share: float) -> float | None:
        """Seconds that `share` of the requests did not exceed, to 5 %; None without requests."""
        total = int(self._counts.sum())
        if total == 0:
            return None
        index = int(np.searchsorted(np.cumsum(self._counts), share * total))
        return float(self.EDGES[min(index, len(self.EDGES) - 1)])


@dataclass(slots=True)
class Tally:
    """What one version did: `errors` are 5xx and lost connections, `refused` 4xx, `correct` is among the `judged`."""

    requests: int = 0
    errors: int = 0
    refused: int = 0
    abstained: int = 0
    judged: int = 0
    correct: int = 0
    latencies: Latencies = field(default_factory=Latencies)

    def report(self) -> dict[str, Any]:
        """Plain data for JSON; accuracy only when something was judged."""
        names = ("requests", "errors", "refused", "abstained", "judged", "correct")
        counts: dict[str, Any] = {name: getattr(self, name) for name in names}
        if self.judged:
            counts["accuracy"] = self.correct / self.judged
        latency = {f"p{share:.0f}": self.latencies.percentile(share / 100) for share in (50, 95, 99)}
        return counts | {"latencySeconds": latency}


@dataclass(slots=True)
class Report:
    """Totals since the start, per version and over all."""

    versions: dict[str, Tally] = field(default_factory=dict)
    sent: int = 0
    dropped: int = 0
    feedback: dict[str, int] = field(default_factory=lambda: {"sent": 0, "accepted": 0, "failed": 0})

    def of(self, version: str | None) -> Tally:
        """The tally of a version; made when it is first seen."""
        return self.versions.setdefault(version or NO_VERSION, Tally())

    def line(self, elapsed: float, *, summary: bool = False) -> str:
        """One JSON object."""
        tallies = self.versions.values()
        content = {
            "time": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            "elapsedSeconds": round(elapsed, 1),
            "sent": self.sent,
            "requests": sum(tally.requests for tally in tallies),
            "errors": sum(tally.errors for tally in tallies),
            "dropped": self.dropped,
            "feedback": self.feedback,
            "versions": {name: self.versions[name].report() for name in sorted(self.versions)},
        }
        return json.dumps(content | ({"summary": True} if summary else {}))


class Traffic:
    """One run."""

    def __init__(self, settings: Settings, rows: Sequence[Row], session: aiohttp.ClientSession) -> None:
        self.report = Report()
        self._settings = settings
        self._rows = rows
        self._session = session
        self._infer = f"{settings.url.rstrip('/')}/v2/models/{settings.model}/infer"
        self._feedback = f"{settings.url.rstrip('/')}/v1/feedback"
        self._random = random.Random(settings.seed)  # noqa: S311 - which rows, not a secret
        self._running: set[asyncio.Task[None]] = set()
        self._labels: deque[tuple[float, str, str | float]] = deque()
        self._began = time.monotonic()
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Send nothing more; `run` then ends as if the time were over, without waiting for late feedback."""
        self._stop.set()

    async def run(self) -> None:
        """Send until the time or the number is over, then wait for answers and feedback, and print the summary."""
        self._began = time.monotonic()
        side = [asyncio.create_task(self._tell()), asyncio.create_task(self._label())]
        await self._send()
        await self._finish()
        for task in side:
            task.cancel()
        await asyncio.gather(*side, return_exceptions=True)
        self._print(summary=True)

    async def _send(self) -> None:
        for due, row in self._plan():
            pause = self._began + due - time.monotonic()
            if pause > 0 and await self._stopped_within(pause):
                return
            if self._stop.is_set():
                return
            if len(self._running) >= self._settings.inflight:
                self.report.dropped += 1
                continue
            self.report.sent += 1
            task = asyncio.create_task(self._ask(row, self._began + due))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    def _plan(self) -> Iterator[tuple[float, Row]]:
        """When (seconds after the start) and what, in order."""
        settings = self._settings
        number = int(settings.duration * settings.rps)
        number = number if settings.count is None else min(number, settings.count)
        for index in range(number):
            yield index / settings.rps, self._random.choice(self._rows)

    async def _ask(self, row: Row, due: float) -> None:
        """One request, from the moment it was due. Every outcome is counted; a failure to connect is the server's."""
        try:
            async with self._session.post(self._infer, data=row.body, headers=self._headers()) as response:
                answer = await response.read()
        except (aiohttp.ClientError, TimeoutError):
            tally = self.report.of(None)
            tally.requests += 1
            tally.errors += 1
            return
        tally = self.report.of(response.headers.get("X-Espalier-Version"))
        tally.requests += 1
        tally.latencies.add(time.monotonic() - due)
        if response.status == HTTP_OK:
            self._judge(tally, row, answer)
        elif response.status >= HTTP_SERVER_ERROR:
            tally.errors += 1
        else:
            tally.refused += 1

    def _judge(self, tally: Tally, row: Row, raw: bytes) -> None:
        """Compare with the truth, and remember to send it. An answer that is not the protocol's is an error."""
        try:
            answer = json.loads(raw)
            outputs = {output["name"]: output["data"][0] for output in answer["outputs"]}
            identity = str(answer["id"])
        except (ValueError, KeyError, TypeError, IndexError):
            tally.errors += 1
            return
        if "label" in outputs and outputs["label"] is None:
            tally.abstained += 1
        elif "label" in outputs:
            tally.judged += 1
            tally.correct += outputs["label"] == row.label
        if self._random.random() < self._settings.feedback_share:
            self._labels.append((time.monotonic() + self._settings.feedback_delay, identity, row.label))

    async def _label(self) -> None:
        """Send each label when its delay is over."""
        while True:
            if not self._labels or (pause := self._labels[0][0] - time.monotonic()) > 0:
                await asyncio.sleep(min(pause, 0.05) if self._labels else 0.05)
                continue
            _, identity, label = self._labels.popleft()
            task = asyncio.create_task(self._send_label(identity, label))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _send_label(self, identity: str, label: str | float) -> None:
        self.report.feedback["sent"] += 1
        body = json.dumps({"id": identity, "label": label}).encode()
        try:
            async with self._session.post(self._feedback, data=body, headers=self._headers()) as response:
                await response.read()
                accepted = response.status < HTTP_CLIENT_ERROR
        except (aiohttp.ClientError, TimeoutError):
            accepted = False
        self.report.feedback["accepted" if accepted else "failed"] += 1

    async def _finish(self) -> None:
        """Let answers and labels that are on their way arrive, but not for ever."""
        late = 0.0 if self._stop.is_set() else self._settings.feedback_delay
        deadline = time.monotonic() + late + min(SLACK_SECONDS, self._settings.timeout)
        while (self._running or (self._labels and late)) and time.monotonic() < deadline:  # noqa: ASYNC110 - a deadline
            await asyncio.sleep(0.02)
        for task in list(self._running):
            task.cancel()

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(self._settings.interval)
            self._print()

    def _print(self, *, summary: bool = False) -> None:
        print(self.report.line(time.monotonic() - self._began, summary=summary), flush=True)

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json"}
        return headers if self._settings.host is None else headers | {"Host": self._settings.host}

    async def _stopped_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._stop.wait(), seconds)
        except TimeoutError:
            return False
        return True


async def generate(settings: Settings, rows: Sequence[Row]) -> Report:
    """Run once; SIGTERM and SIGINT end it early, with its summary."""
    connector = aiohttp.TCPConnector(limit=settings.inflight)
    timeout = aiohttp.ClientTimeout(total=settings.timeout)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        traffic = Traffic(settings, rows, session)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, traffic.stop)
        try:
            await traffic.run()
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
    return traffic.report


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run, exit 0; 2 for a file of rows that cannot be used."""
    options = vars(_parser().parse_args(arguments))
    try:
        rows = read_rows(options.pop("rows"))
    except RowsError as error:
        print(f"loadgen: {error}", file=sys.stderr)
        return 2
    asyncio.run(generate(Settings(**options), rows))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="loadgen", description="Labelled traffic for a served model.")
    parser.add_argument("--url", required=True, help="gateway or server, for example http://envoy.espalier-stack")
    parser.add_argument("--host", help="Host header: the route's host name")
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", type=Path, required=True, help="npz or json with x [rows, features] and y [rows]")
    parser.add_argument("--rps", type=_positive, default=50.0, help="requests per second (open loop)")
    parser.add_argument("--duration", type=_positive, default=60.0, help="seconds")
    parser.add_argument("--count", type=int, help="at most so many requests")
    parser.add_argument("--feedback-delay", type=float, default=2.0, help="seconds from an answer to its label")
    parser.add_argument("--feedback-share", type=float, default=1.0, help="0-1: part of the answers that get a label")
    parser.add_argument("--interval", type=_positive, default=5.0, help="seconds between two reports")
    parser.add_argument("--timeout", type=_positive, default=10.0, help="seconds for one request")
    parser.add_argument("--inflight", type=int, default=500, help="requests at once; more are dropped and counted")
    parser.add_argument("--seed", type=int, default=0, help="which rows, in which order")
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"must be above 0, is {text}")
    return value


if __name__ == "__main__":
    sys.exit(main())
