"""S3 as the operator needs it: listings, manifests, aliases, clean-up. In its own small thread pool, with timeouts and typed errors.

The identity is the operator's own (AWS_* environment); a tenant's Secret is never read. One attempt per request:
loops decide about trying again.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from espalier_api.hashing import SnapshotEntry
from espalier_api.names import split_s3
from espalier_operator import telemetry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mypy_boto3_s3 import S3Client

    from espalier_operator.settings import StoreSettings

T = TypeVar("T")

MAX_SNAPSHOT_OBJECTS: Final = 100_000
"""Beyond this a listing is no snapshot; 100 pages are about ten seconds."""
JSON: Final = "application/json"


class StoreError(Exception):
    """A request to the object store failed; the message names bucket and key."""


class StoreDownError(StoreError):
    """No answer, a timeout or 5xx. Try again later; nothing is known."""


class AccessDeniedError(StoreError):
    """The operator's identity may not do that; the message tells which grant is missing."""


class NoSuchBucketError(StoreError):
    """The bucket does not exist."""


class NoSuchKeyError(StoreError):
    """The object does not exist."""


class TooManyObjectsError(StoreError):
    """More objects below a prefix than a snapshot may have."""


class ObjectStore(Protocol):
    """What controllers may ask of S3. Every method raises a StoreError."""

    async def snapshot(self, uri: str) -> list[SnapshotEntry]:
        """Every object below `uri`, keys relative to it; empty when there is none. TooManyObjectsError beyond `MAX_SNAPSHOT_OBJECTS`."""

    async def children(self, uri: str) -> list[str]:
        """Names of the prefixes directly below `uri` (`v1`, `v2`, `.checkpoints`), without slashes."""

    async def read(self, uri: str) -> bytes:
        """An object's content; NoSuchKeyError when it is not there."""

    async def write(self, uri: str, content: bytes) -> None:
        """Put a small JSON document, replacing what is there."""

    async def delete_prefix(self, uri: str) -> int:
        """Delete everything below `uri` and return how many objects that were; nothing there is a success."""


class S3Store:
    """ObjectStore over boto3, path-style."""

    def __init__(self, settings: StoreSettings) -> None:
        self._settings = settings
        self._threads = ThreadPoolExecutor(settings.threads, thread_name_prefix="s3")

    @cached_property
    def _client(self) -> S3Client:
        """Made on first use, so that an operator without a store starts and says so in conditions."""
        seconds = self._settings.timeout.total_seconds()
        return boto3.client(
            "s3",
            endpoint_url=self._settings.endpoint_url,
            region_name=self._settings.region or _region(),
            config=Config(
                connect_timeout=seconds,
                read_timeout=seconds,
                retries={"total_max_attempts": 1},
                max_pool_connections=self._settings.threads,
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def close(self) -> None:
        """Let the threads go; what is under way ends by its timeout."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def snapshot(self, uri: str) -> list[SnapshotEntry]:
        """See ObjectStore."""
        return await self._run("list", uri, partial(self._snapshot, uri))

    async def children(self, uri: str) -> list[str]:
        """See ObjectStore."""
        return await self._run("list", uri, partial(self._children, uri))

    async def read(self, uri: str) -> bytes:
        """See ObjectStore."""
        return await self._run("read", uri, partial(self._read, uri))

    async def write(self, uri: str, content: bytes) -> None:
        """See ObjectStore."""
        await self._run("write", uri, partial(self._write, uri, content))

    async def delete_prefix(self, uri: str) -> int:
        """See ObjectStore."""
        return await self._run("delete", uri, partial(self._delete_prefix, uri))

    async def _run(self, operation: str, uri: str, call: Callable[[], T]) -> T:
        result = "error"
        try:
            answer = await asyncio.get_running_loop().run_in_executor(self._threads, call)
            result = "ok"
            return answer
        except ClientError as error:
            translated = _translated(error, operation, uri)
            result = type(translated).__name__.removesuffix("Error")
            raise translated from error
        except (BotoCoreError, OSError) as error:
            result = "StoreDown"
            raise StoreDownError(f"{operation} {uri}: {error}") from error
        finally:
            telemetry.STORE_REQUESTS.labels(operation, result).inc()

    def _snapshot(self, uri: str) -> list[SnapshotEntry]:
        bucket, prefix = split_prefix(uri)
        entries: list[SnapshotEntry] = []
        for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for found in page.get("Contents", []):
                key = found["Key"].removeprefix(prefix)
                if key and not key.endswith("/"):  # some stores show folders as empty objects
                    entries.append(SnapshotEntry(key, found["Size"], found["ETag"].strip('"')))
            if len(entries) > MAX_SNAPSHOT_OBJECTS:
                raise TooManyObjectsError(f"{uri} holds more than {MAX_SNAPSHOT_OBJECTS} objects")
        return entries

    def _children(self, uri: str) -> list[str]:
        bucket, prefix = split_prefix(uri)
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, Delimiter="/")
        found = (common["Prefix"] for page in pages for common in page.get("CommonPrefixes", []))
        return [name.removeprefix(prefix).rstrip("/") for name in found]

    def _read(self, uri: str) -> bytes:
        bucket, key = split_s3(uri)
        return self._client.get_object(Bucket=bucket, Key=key)["Body"].read()

    def _write(self, uri: str, content: bytes) -> None:
        bucket, key = split_s3(uri)
        self._client.put_object(Bucket=bucket, Key=key, Body=content, ContentType=JSON)

    def _delete_prefix(self, uri: str) -> int:
        bucket, prefix = split_prefix(uri)
        deleted = 0
        for key in list(self._keys(bucket, prefix)):
            self._client.delete_object(Bucket=bucket, Key=key)
            deleted += 1
        return deleted

    def _keys(self, bucket: str, prefix: str) -> Iterator[str]:
        for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            yield from (found["Key"] for found in page.get("Contents", []))


def _region() -> str:
    """S3 look-alikes accept any region but boto3 needs one."""
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"


def split_prefix(uri: str) -> tuple[str, str]:
    """Bucket and prefix; a prefix ends with a slash, so that `.../digits` never means `.../digits2` too.

    Raises ValueError for a bucket without a prefix: nothing here works on whole buckets.
    """
    bucket, prefix = split_s3(uri)
    if not prefix.strip("/"):
        raise ValueError(f"{uri!r} names a whole bucket; add a prefix")
    return bucket, prefix.rstrip("/") + "/"


def _translated(error: ClientError, operation: str, uri: str) -> StoreError:
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    words = f"{operation} {uri}: {code or status}: {error.response.get('Error', {}).get('Message', '')}".rstrip(": ")
    match code, status:
        case "NoSuchBucket", _:
            return NoSuchBucketError(words)
        case ("NoSuchKey", _) | (_, 404):
            return NoSuchKeyError(words)
        case (_, 401) | (_, 403):
            grant = {"list": "ListBucket", "read": "GetObject", "write": "PutObject", "delete": "DeleteObject"}[
                operation
            ]
            return AccessDeniedError(f"{words}; grant s3:{grant} to the operator's identity")
        case _:
            return StoreDownError(words)
