"""The object store against moto's S3 and against sockets that fail."""

from __future__ import annotations

import asyncio
import socket
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from moto import mock_aws

from espalier_api.hashing import snapshot_digest
from espalier_operator.adapters import objectstore as s3
from espalier_operator.settings import StoreSettings

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "operator")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)


@pytest.fixture
def client() -> Iterator[Any]:
    with mock_aws():
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="models")
        yield client
        client.close()


def store(endpoint: str | None = None, seconds: float = 5.0) -> s3.S3Store:
    return s3.S3Store(StoreSettings(endpoint_url=endpoint, timeout=timedelta(seconds=seconds), threads=2))


async def test_a_listing_is_relative_and_exact(client: Any) -> None:
    """A sibling with the same beginning is not part of a snapshot; folder markers are no objects."""
    for key in ("digits/b.csv", "digits/a/part.csv", "digits/", "digits2/c.csv"):
        client.put_object(Bucket="models", Key=key, Body=b"" if key.endswith("/") else b"rows")
    held = store()
    for uri in ("s3://models/digits/", "s3://models/digits"):
        entries = await held.snapshot(uri)
        assert sorted(entry.key for entry in entries) == ["a/part.csv", "b.csv"]
        assert all('"' not in entry.etag and entry.size == 4 for entry in entries)
    assert snapshot_digest(await held.snapshot("s3://models/digits/")).startswith("sha256:")
    held.close()


async def test_listings_go_over_pages(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "10")
    for number in range(25):
        client.put_object(Bucket="models", Key=f"many/{number:05}", Body=b"")
    held = store()
    assert len(await held.snapshot("s3://models/many/")) == 25
    monkeypatch.setattr(s3, "MAX_SNAPSHOT_OBJECTS", 20)
    with pytest.raises(s3.TooManyObjectsError):
        await held.snapshot("s3://models/many/")
    assert await held.delete_prefix("s3://models/many/") == 25
    held.close()


async def test_versions_are_found_and_read(client: Any) -> None:
    held = store()
    for key in ("vision/digits/v1/manifest.json", "vision/digits/.checkpoints/v2/x", "vision/digits/aliases.json"):
        await held.write(f"s3://models/{key}", b"{}")
    assert await held.children("s3://models/vision/digits/") == [".checkpoints", "v1"]
    assert await held.read("s3://models/vision/digits/v1/manifest.json") == b"{}"
    with pytest.raises(s3.NoSuchKeyError):
        await held.read("s3://models/vision/digits/v9/manifest.json")
    held.close()


async def test_deletion_stays_below_its_prefix(client: Any) -> None:
    held = store()
    for key in ("digits/v1/a", "digits/v1/b", "digits/v10/a"):
        await held.write(f"s3://models/{key}", b"")
    assert await held.delete_prefix("s3://models/digits/v1") == 2
    assert await held.delete_prefix("s3://models/digits/v1") == 0
    assert [entry.key for entry in await held.snapshot("s3://models/digits/")] == ["v10/a"]
    held.close()


async def test_whole_buckets_are_refused(client: Any) -> None:
    held = store()
    for uri in ("s3://models", "s3://models/", "s3://models//"):
        with pytest.raises(ValueError, match="whole bucket"):
            await held.delete_prefix(uri)
    held.close()


async def test_a_missing_bucket_is_told(client: Any) -> None:
    held = store()
    with pytest.raises(s3.NoSuchBucketError):
        await held.snapshot("s3://nowhere-at-all/x/")
    held.close()


async def answering(status: str, body: bytes) -> tuple[asyncio.Server, str]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nContent-Type: application/xml\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


DENIED = b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"
ANSWERS = [
    ("403 Forbidden", DENIED, s3.AccessDeniedError),
    ("500 Internal Server Error", b"<Error><Code>InternalError</Code></Error>", s3.StoreDownError),
    ("503 Slow Down", b"<Error><Code>SlowDown</Code></Error>", s3.StoreDownError),
    ("200 OK", b"this is not xml", s3.StoreDownError),
]


@pytest.mark.parametrize("status,body,error", ANSWERS)
async def test_answers_become_typed_errors(status: str, body: bytes, error: type[s3.StoreError]) -> None:
    server, endpoint = await answering(status, body)
    held = store(endpoint)
    async with server:
        with pytest.raises(error) as caught:
            await held.snapshot("s3://models/digits/")
    assert error is not s3.AccessDeniedError or "grant s3:ListBucket" in str(caught.value)
    held.close()


async def test_a_refused_connection_and_a_silent_one() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        silent = store(f"http://127.0.0.1:{listener.getsockname()[1]}", seconds=0.2)
        refused = store("http://127.0.0.1:9", seconds=0.2)
        for held in (silent, refused):
            with pytest.raises(s3.StoreDownError):
                await held.snapshot("s3://models/digits/")
            held.close()
