"""SeaweedFS's own binary as S3 on loopback, the store of the demo's stack, for contract tests that need a real one."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ACCESS, SECRET = "tenant", "tenant-secret-key"
STRANGER = "stranger"
"""An access key whose identity is known, with the same secret key, and may do nothing."""
BUCKETS = ("models", "datasets")
READY_WITHIN = 60.0
GRPC_OFFSET = 10000


@dataclass(frozen=True, slots=True)
class S3:
    """A running store, an admin's client and the environment that a pod gets from its Secret."""

    url: str
    client: Any

    def env(self, **changes: str) -> dict[str, str]:
        """The tenant's keys as a pod gets them, changed."""
        base = {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": ACCESS,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
        }
        return {**base, **changes}

    def keys(self, bucket: str, prefix: str) -> list[str]:
        """Objects below a prefix, relative to it."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return [item["Key"].removeprefix(prefix) for page in pages for item in page.get("Contents", ())]

    def upload(self, bucket: str, prefix: str, files: Mapping[str, bytes]) -> None:
        """Put files below a prefix, in their order."""
        for name, content in files.items():
            self.client.put_object(Bucket=bucket, Key=prefix + name, Body=content)

    def clear(self, bucket: str, prefix: str) -> None:
        """Delete every object below a prefix."""
        for key in self.keys(bucket, prefix):
            self.client.delete_object(Bucket=bucket, Key=prefix + key)


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


@contextmanager
def running(folder: Path) -> Iterator[S3]:
    """A store with both buckets, its data in `folder`, until the block ends.

    Raises AssertionError with the end of its log when it does not answer within `READY_WITHIN` seconds.
    """
    port, log_path = free_port(), folder / "log"
    with log_path.open("wb") as log, subprocess.Popen(_command(folder, port), stdout=log, stderr=log) as process:
        url = f"http://127.0.0.1:{port}"
        client = boto3.client(
            "s3",
            endpoint_url=url,
            aws_access_key_id=ACCESS,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}, connect_timeout=2, retries={"max_attempts": 1}),
        )
        try:
            _await_buckets(client, log_path)
            yield S3(url, client)
        finally:
            client.close()
            process.kill()


def _command(folder: Path, port: int) -> list[str]:
    ports = [f"-{role}.port={free_port()}" for role in ("master", "volume", "filer")]
    return [
        str(Path(sys.executable).with_name("weed")),
        "server",
        f"-dir={folder}",
        "-ip=127.0.0.1",
        *ports,
        "-s3",
        f"-s3.port={port}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-s3.config={_identities(folder)}",
        "-volume.max=20",
        "-master.volumeSizeLimitMB=32",
        "-master.electionTimeout=1s",
        "-master.heartbeatInterval=100ms",
    ]


def _identities(folder: Path) -> Path:
    may = {ACCESS: ["Admin", "Read", "Write", "List"], STRANGER: []}
    identities = [
        {"name": name, "credentials": [{"accessKey": name, "secretKey": SECRET}], "actions": actions}
        for name, actions in may.items()
    ]
    path = folder / "identities.json"
    path.write_text(json.dumps({"identities": identities}))
    return path


def _await_buckets(client: Any, log: Path) -> None:
    deadline = time.monotonic() + READY_WITHIN
    while True:
        try:
            for bucket in BUCKETS:
                client.create_bucket(Bucket=bucket)
                client.put_object(Bucket=bucket, Key="probe", Body=b"x")
        except (BotoCoreError, ClientError) as error:
            if time.monotonic() > deadline:
                raise AssertionError(f"SeaweedFS did not start: {error}\n{log.read_text()[-2000:]}") from error
            time.sleep(0.2)
        else:
            return
