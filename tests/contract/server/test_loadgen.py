"""The load generator against the real server, and against answers that no server should give."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from aiohttp import web

from espalier_cli.loadgen import Latencies, RowsError, Settings, generate, main, read_rows
from tests.contract.seaweedfs import free_port
from tests.contract.server.conftest import ROOT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.unit.server.tiny import Version


@pytest.fixture
def rows_file(tmp_path: Path) -> Path:
    """Two rows that the tiny classifier answers right, one that it answers wrong."""
    path = tmp_path / "rows.npz"
    rows = np.array([[1, 2, 3], [9, 1, 1], [1, 9, 1]], dtype=np.float32)
    np.savez_compressed(path, x=rows, y=np.array(["eel", "cat", "cat"]))
    return path


def run(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    """The program as its image starts it."""
    command = [sys.executable, str(ROOT / "cli/espalier_cli/loadgen.py"), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)


def test_what_it_counts_is_what_the_server_counted(
    serve: Callable[..., Any], version: Version, rows_file: Path
) -> None:
    with serve(version.config()) as served:
        served.await_status("/v2/health/ready", 200)
        arguments = ["--url", f"http://127.0.0.1:{served.port}", "--host", "digits.example.com", "--model", "digits"]
        limits = ["--rps", 100, "--duration", 60, "--count", 150, "--feedback-delay", 0.5, "--interval", 0.5]
        with run(*arguments, "--rows", rows_file, *limits) as program:
            lines = [json.loads(line) for line in program.stdout or ()]
        metrics = served.client.get("/metrics").text
    assert program.returncode == 0
    assert len(lines) >= 3
    last = lines[-1]
    assert last["summary"] is True
    assert (last["sent"], last["requests"], last["errors"], last["dropped"]) == (150, 150, 0, 0)
    assert last["feedback"] == {"sent": 150, "accepted": 150, "failed": 0}
    seen = last["versions"]["v4"]
    assert seen["judged"] == 150
    assert 0.4 < seen["accuracy"] < 0.9
    assert seen["latencySeconds"]["p50"] <= seen["latencySeconds"]["p99"] < 10
    assert 'outcome="ok",version="v4"} 150.0' in metrics
    assert (
        f'model_feedback_total{{model="digits",namespace="vision",result="correct",version="v4"}} {seen["correct"]}.0'
        in metrics
    )


def test_sigterm_ends_it_early_with_its_summary(rows_file: Path) -> None:
    """Nothing listens: every request is an error of nobody's version, and still it ends well."""
    arguments = ["--url", f"http://127.0.0.1:{free_port()}", "--model", "digits", "--rows", rows_file]
    with run(*arguments, "--rps", 50, "--duration", 600, "--interval", 0.2) as program:
        assert program.stdout is not None
        program.stdout.readline()
        began = time.monotonic()
        program.send_signal(signal.SIGTERM)
        last = json.loads(program.stdout.read().splitlines()[-1])
    assert program.returncode == 0
    assert time.monotonic() - began < 60
    assert last["summary"] is True
    assert last["errors"] == last["requests"] > 0
    assert set(last["versions"]) == {"none"}


@asynccontextmanager
async def answering(handler: Callable[[web.Request], Any]) -> AsyncIterator[str]:
    """A server with one answer to everything."""
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


def settings(url: str, **changes: Any) -> Settings:
    """Twenty quick requests."""
    given: dict[str, Any] = {"rps": 200.0, "duration": 0.1, "feedback_delay": 0.0, "timeout": 1.0} | changes
    return Settings(url=url, host="digits.example.com", model="digits", **given)


@pytest.mark.parametrize(
    "status,body,counted",
    [
        (503, b"upstream connect error", "errors"),
        (200, b"<html>", "errors"),
        (200, b'{"outputs": []}', "errors"),
        (200, b'{"id": "x", "outputs": [{"name": "label", "data": [null]}]}', "abstained"),
        (404, b"", "refused"),
        (429, b"", "refused"),
    ],
)
async def test_bad_answers_are_counted_not_fatal(rows_file: Path, status: int, body: bytes, counted: str) -> None:
    hosts = set()

    async def answer(request: web.Request) -> web.Response:
        hosts.add(request.headers["Host"])
        return web.Response(status=status, body=body, headers={"X-Espalier-Version": "v7"})

    async with answering(answer) as url:
        report = await generate(settings(url), read_rows(rows_file))
    tally = report.versions["v7"].report()
    assert tally["requests"] == tally[counted] == 20
    assert "accuracy" not in tally
    assert hosts == {"digits.example.com"}


async def test_a_stalled_server_is_seen_and_does_not_slow_the_rate(rows_file: Path) -> None:
    """Open loop: what is due is sent, up to the bound; latency counts from when it was due."""

    async def stall(_: web.Request) -> web.Response:
        await asyncio.sleep(3)
        return web.Response(status=500)

    async with answering(stall) as url:
        report = await generate(settings(url, inflight=8, timeout=30.0), read_rows(rows_file))
    assert (report.sent, report.dropped) == (8, 12)
    slowest = report.versions["none"].latencies.percentile(0.5)
    assert slowest is not None
    assert slowest > 2.8


@pytest.mark.parametrize(
    "name,content",
    [
        ("absent.npz", None),
        ("rows.npz", b"x"),
        ("rows.json", b"{}"),
        ("rows.json", b'{"x": [[1]], "y": []}'),
        ("rows.json", b"["),
    ],
)
def test_unusable_rows(tmp_path: Path, name: str, content: bytes | None, capsys: pytest.CaptureFixture[str]) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(RowsError):
        read_rows(tmp_path / name)
    assert main(["--url", "http://x", "--model", "m", "--rows", str(tmp_path / name)]) == 2
    assert name in capsys.readouterr().err


def test_rows_of_json_and_their_shortest_numbers(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text('{"x": [[0.1, 2], [3, 4]], "y": ["cat", 1.5]}')
    first, second = read_rows(tmp_path / "rows.json")
    assert json.loads(first.body)["inputs"][0]["data"] == [0.1, 2.0]
    assert (first.label, second.label) == ("cat", 1.5)


def test_percentiles_to_five_per_cent() -> None:
    latencies = Latencies()
    assert latencies.percentile(0.5) is None
    for milliseconds in range(1, 1001):
        latencies.add(milliseconds / 1000)
    for share in (0.5, 0.95, 0.99):
        assert latencies.percentile(share) == pytest.approx(share, rel=0.05)
