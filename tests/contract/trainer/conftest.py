"""SeaweedFS's own binary as S3 on loopback: the store of the demo's stack."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:
    from collections.abc import Iterator

ACCESS, SECRET = "tenant", "tenant-secret-key"
GRPC_OFFSET = 10000


@dataclass(slots=True)
class S3:
    """A running store, an admin's client and the environment that a pod gets from its Secret."""

    url: str
    client: Any

    def env(self, **changes: str) -> dict[str, str]:
        """The tenant's keys."""
        base = {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": ACCESS,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
        }
        return {**base, **changes}

    def keys(self, bucket: str, prefix: str) -> list[str]:
        """Objects below a prefix."""
        listed = self.client.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", ())
        return [item["Key"].removeprefix(prefix) for item in listed]


def _free_port() -> int:
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port + GRPC_OFFSET < 65536:
            with socket.socket() as probe, suppress(OSError):
                probe.bind(("127.0.0.1", port + GRPC_OFFSET))
                return port


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """One store for all tests; each uses prefixes of its own."""
    folder = tmp_path_factory.mktemp("seaweedfs")
    identity = {
        "name": "tenant",
        "credentials": [{"accessKey": ACCESS, "secretKey": SECRET}],
        "actions": ["Admin", "Read", "Write", "List"],
    }
    (folder / "identities.json").write_text(json.dumps({"identities": [identity]}))
    port = _free_port()
    ports = [f"-{role}.port={_free_port()}" for role in ("master", "volume", "filer")]
    command = [Path(sys.executable).with_name("weed"), "server", f"-dir={folder}", "-ip=127.0.0.1", *ports]
    command += [
        "-s3",
        f"-s3.port={port}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-s3.config={folder / 'identities.json'}",
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
            _await_buckets(client, folder / "log")
            yield S3(f"http://127.0.0.1:{port}", client)
        finally:
            process.kill()


def _await_buckets(client: Any, log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            for bucket in ("models", "datasets"):
                client.create_bucket(Bucket=bucket)
                client.put_object(Bucket=bucket, Key="probe", Body=b"x")
        except (BotoCoreError, ClientError) as error:
            if time.monotonic() > deadline:
                raise AssertionError(f"SeaweedFS did not start: {error}\n{log.read_text()[-2000:]}") from error
            time.sleep(0.2)
        else:
            return
