"""The real things: SeaweedFS as S3 on loopback, and the server as a process that is started as its container starts it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import httpx
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tests.unit.server.tiny import Version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from espalier_api.serving import ServingConfig

ROOT = Path(__file__).resolve().parents[3]
ACCESS, SECRET = "tenant", "tenant-secret"
READY_WITHIN = 30.0
GRPC_OFFSET = 10000


def free_port() -> int:
    """A loopback port that is free now, as is the one that SeaweedFS derives from it for gRPC."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port + GRPC_OFFSET < 65536:
            with socket.socket() as probe, suppress(OSError):
                probe.bind(("127.0.0.1", port + GRPC_OFFSET))
                return port


@dataclass(slots=True)
class S3:
    """A running object store and an admin's client."""

    url: str
    client: Any

    def put(self, version: Version, *, without: str = "") -> None:
        """Upload a version as the trainer does, manifest last; `without` leaves one file out."""
        prefix = f"vision/digits/{version.name}/"
        for name, content in [*version.files.items(), ("manifest.json", version.manifest)]:
            if name != without:
                self.client.put_object(Bucket="models", Key=prefix + name, Body=content)

    def empty(self) -> None:
        """Delete every object."""
        for entry in self.client.list_objects_v2(Bucket="models").get("Contents", []):
            self.client.delete_object(Bucket="models", Key=entry["Key"])


def _identities(folder: Path) -> Path:
    identity = {
        "name": "tenant",
        "credentials": [{"accessKey": ACCESS, "secretKey": SECRET}],
        "actions": ["Admin", "Read", "Write", "List"],
    }
    stranger = {"name": "stranger", "credentials": [{"accessKey": "stranger", "secretKey": SECRET}], "actions": []}
    path = folder / "identities.json"
    path.write_text(json.dumps({"identities": [identity, stranger]}))
    return path


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """SeaweedFS's own binary, as in the demo's stack."""
    folder = tmp_path_factory.mktemp("seaweedfs")
    port = free_port()
    ports = [f"-{role}.port={free_port()}" for role in ("master", "volume", "filer")]
    command = [str(Path(sys.executable).with_name("weed")), "server", f"-dir={folder}", "-ip=127.0.0.1", *ports]
    command += [
        "-s3",
        f"-s3.port={port}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-s3.config={_identities(folder)}",
        "-volume.max=20",
    ]
    command += ["-master.volumeSizeLimitMB=32", "-master.electionTimeout=1s", "-master.heartbeatInterval=100ms"]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            client = boto3.client(
                "s3",
                endpoint_url=f"http://127.0.0.1:{port}",
                aws_access_key_id=ACCESS,
                aws_secret_access_key=SECRET,
                region_name="us-east-1",
                config=Config(s3={"addressing_style": "path"}, connect_timeout=2, retries={"max_attempts": 1}),
            )
            _await_bucket(client, folder / "log")
            yield S3(f"http://127.0.0.1:{port}", client)
        finally:
            process.kill()


def _await_bucket(client: Any, log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            client.create_bucket(Bucket="models")
            client.put_object(Bucket="models", Key="probe", Body=b"x")
            return
        except (BotoCoreError, ClientError) as error:
            if time.monotonic() > deadline:
                raise AssertionError(f"SeaweedFS did not start: {error}\n{log.read_text()[-2000:]}") from error
            time.sleep(0.2)


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
    """Starts server processes, each for the length of a `with`, on an empty store."""
    s3.empty()

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
        given = {
            "AWS_ENDPOINT_URL": s3.url,
            "AWS_ACCESS_KEY_ID": ACCESS,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
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
    s3.put(made)
    return made
