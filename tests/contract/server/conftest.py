"""The server as a process that is started as its container starts it, on a real object store."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.contract.seaweedfs import free_port
from tests.unit.server.tiny import Version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from espalier_api.serving import ServingConfig
    from tests.contract.seaweedfs import S3

ROOT = Path(__file__).resolve().parents[3]
READY_WITHIN = 30.0
PREFIX = "vision/digits/"


def publish(s3: S3, version: Version, *, without: str = "") -> None:
    """Upload a version as the trainer does, manifest last; `without` leaves one file out."""
    files = {**version.files, "manifest.json": version.manifest}
    s3.upload("models", f"{PREFIX}{version.name}/", {name: files[name] for name in files if name != without})


@dataclass(slots=True)
class Served:
    """A server process."""

    process: subprocess.Popen[bytes]
    port: int
    log_path: Path
    words_path: Path
    client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=10)

    def await_status(self, path: str, status: int) -> httpx.Response:
        """Poll until the path answers with this status; fails with the server's log."""
        deadline = time.monotonic() + READY_WITHIN
        while time.monotonic() < deadline:
            with suppress(httpx.TransportError):
                response = self.client.get(path)
                if response.status_code == status:
                    return response
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise AssertionError(f"{path} did not become {status}:\n{self.log()}")

    def infer(self, row: tuple[float, float, float] = (1.0, 2.0, 3.0)) -> httpx.Response:
        """One row."""
        tensor = {"name": "input", "shape": [1, 3], "datatype": "FP32", "data": list(row)}
        return self.client.post("/v2/models/digits/infer", json={"inputs": [tensor]})

    def terminate(self) -> None:
        """SIGTERM, as the kubelet sends it."""
        self.process.send_signal(signal.SIGTERM)

    def exit_code(self) -> int:
        """Wait for the end."""
        return self.process.wait(READY_WITHIN)

    def log(self) -> str:
        """What it wrote to stderr."""
        return self.log_path.read_text()

    def words(self) -> str:
        """The termination message."""
        return self.words_path.read_text()


@pytest.fixture
def serve(s3: S3, tmp_path: Path) -> Callable[..., Any]:
    """Starts server processes, each for the length of a `with`, on a store without versions."""
    s3.clear("models", PREFIX)

    @contextmanager
    def server(config: ServingConfig, **environment: str) -> Iterator[Served]:
        folder = tmp_path / f"server-{free_port()}"
        folder.mkdir()
        (folder / "serving.json").write_text(config.to_json())
        (folder / "words").touch()
        port = free_port()
        command = [sys.executable, "-m", "espalier_server", "--config", "serving.json", "--host", "127.0.0.1"]
        command += ["--port", str(port), "--folder", "artifact", "--termination-log", "words"]
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
        given = s3.env(AWS_EC2_METADATA_DISABLED="true")
        variables = {key: value for key, value in (inherited | given | environment).items() if value}
        with (
            (folder / "log").open("wb") as log,
            subprocess.Popen(command, cwd=folder, env=variables, stdout=log, stderr=log) as process,
        ):
            served = Served(process, port, folder / "log", folder / "words")
            try:
                yield served
            finally:
                served.client.close()
                process.kill()

    return server


@pytest.fixture
def version(s3: S3, serve: object) -> Version:
    """A good version, uploaded."""
    made = Version()
    publish(s3, made)
    return made
