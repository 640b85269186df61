"""The real Prometheus, outside any cluster: the binary of our image, filled through its remote-write door with a past we made up.

A past instead of live scrapes: the truth is known event by event, and nobody waits for it.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import tarfile
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from cluster.progress import Progress
from images.build import Workshop

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

STALE = struct.unpack("<d", struct.pack("<Q", 0x7FF0000000000002))[0]
"""The NaN by which Prometheus knows that a series ended."""
CONFIG = "storage: {tsdb: {out_of_order_time_window: 3h}}\n"


def binary(folder: Path) -> Path:
    """`prometheus` out of our image's archive, which is built when it is not in the cache."""
    found = folder / "prometheus"
    if found.exists():
        return found
    (archive,) = Workshop.open().build(["prometheus"], Progress())
    with tarfile.open(archive.path) as image:
        for layer in image.getmembers():
            if not layer.name.endswith(".tar") and "/blobs/" not in f"/{layer.name}":
                continue
            stream = image.extractfile(layer)
            if stream is None or (content := _program(stream)) is None:
                continue
            found.write_bytes(content)
            found.chmod(0o755)
            return found
    raise AssertionError(f"{archive.path} holds no bin/prometheus; look at images/prometheus/Dockerfile")


def _program(layer: IO[bytes]) -> bytes | None:
    """The executable, if this layer brings it."""
    with suppress(tarfile.ReadError), tarfile.open(fileobj=layer) as files:
        for member in files:
            if member.isfile() and member.name.endswith("bin/prometheus"):
                content = files.extractfile(member)
                assert content is not None
                return content.read()
    return None


@dataclass
class RealPrometheus:
    """A running server; it may be paused and killed, and its data stays."""

    program: Path
    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Until it is ready."""
        config = self.folder / "prometheus.yml"
        config.write_text(CONFIG)
        arguments = [
            str(self.program),
            f"--config.file={config}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--web.enable-remote-write-receiver",
            "--log.level=warn",
        ]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(arguments, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{self.url}/-/ready", timeout=1):  # noqa: S310 - our own address
                    return
            except (urllib.error.URLError, OSError):
                assert self.process.poll() is None, (self.folder / "log").read_text()
                time.sleep(0.05)
        raise AssertionError(f"Prometheus is not ready: {(self.folder / 'log').read_text()}")

    def write(self, series: Sequence[tuple[Mapping[str, str], Sequence[tuple[float, float]]]]) -> None:
        """(labels, [(unix seconds, value)]) per series."""
        body = _snappy(b"".join(_field(1, _timeseries(labels, samples)) for labels, samples in series))
        request = urllib.request.Request(  # noqa: S310 - our own address
            f"{self.url}/api/v1/write",
            data=body,
            headers={"Content-Encoding": "snappy", "Content-Type": "application/x-protobuf"},
        )
        with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310 - our own address
            assert response.status == 204

    def kill(self) -> None:
        """As a lost node would."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait(10)
            self.process = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """It listens and says nothing."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.process.pid, signal.SIGCONT)


@contextmanager
def running(program: Path, folder: Path) -> Iterator[RealPrometheus]:
    """A server with an empty store."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = RealPrometheus(program, folder, port)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def _timeseries(labels: Mapping[str, str], samples: Sequence[tuple[float, float]]) -> bytes:
    """prometheus.TimeSeries of remote write 1.0."""
    named = b"".join(
        _field(1, _field(1, name.encode()) + _field(2, value.encode())) for name, value in sorted(labels.items())
    )
    points = b"".join(
        _field(2, b"\x09" + struct.pack("<d", value) + b"\x10" + _varint(round(at * 1000))) for at, value in samples
    )
    return named + points


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited protobuf field."""
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _snappy(raw: bytes) -> bytes:
    """The block format with literals only: valid, merely not smaller."""
    parts = [_varint(len(raw))]
    for start in range(0, len(raw), 60):
        chunk = raw[start : start + 60]
        parts.append(bytes([(len(chunk) - 1) << 2]) + chunk)
    return b"".join(parts)
