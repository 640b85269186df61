"""The object store behind one small Protocol: S3 in a cluster, a folder for tests and `--local` runs.

Only what the trainer needs: list, read, stream to a file, write, write-if-absent, delete. Every failure of the store becomes an
InfrastructureError (the operator retries) with the bucket and the operation in its message and never a credential.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

from espalier_trainer.errors import InfrastructureError, InvalidConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

CHUNK: Final = 1 << 20
_NOT_FOUND: Final = 404


class AlreadyExistsError(Exception):
    """A write-if-absent found something there."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One object as the listing tells it; `key` is relative to the listed prefix, `etag` has no quotes."""

    key: str
    size: int
    etag: str


class ObjectStore(Protocol):
    """Objects below one prefix; keys are relative to it and use `/`."""

    def entries(self) -> list[Entry]:
        """Every object below the prefix, sorted by key."""
        ...

    def read(self, key: str) -> bytes | None:
        """The object's bytes; None when there is none."""
        ...

    def download(self, key: str, target: Path) -> str:
        """Stream the object into `target`; return the hex sha256 of its bytes."""
        ...

    def write(self, key: str, data: bytes) -> None:
        """Create or replace the object, atomically."""
        ...

    def write_new(self, key: str, data: bytes) -> None:
        """Create the object; AlreadyExistsError when there is one."""
        ...

    def delete(self, key: str) -> None:
        """Remove the object; no error when there is none."""
        ...


def open_store(uri: str, field: str) -> ObjectStore:
    """The store at `s3://bucket/prefix/` or `file:///folder/`; `field` names the job's field in the error message."""
    parts = urlsplit(uri)
    prefix = parts.path.strip("/")
    if parts.scheme == "s3" and parts.netloc:
        return S3Store(parts.netloc, f"{prefix}/" if prefix else "")
    if parts.scheme == "file" and not parts.netloc:
        return FolderStore(Path(unquote(parts.path)))
    raise InvalidConfigError(
        f"{field}: {uri!r} is not a storage location; use s3://<bucket>/<prefix>/ or file:///<folder>/"
    )


class FolderStore:
    """A folder with the same semantics; atomic by write-to-temporary, fsync and rename or link."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def entries(self) -> list[Entry]:
        """Every file below the root; the ETag is the MD5 like S3's for simple uploads."""
        files = sorted(p for p in self.root.rglob("*") if p.is_file() and not p.name.startswith(".tmp-"))
        return sorted(
            (Entry(p.relative_to(self.root).as_posix(), p.stat().st_size, _md5(p)) for p in files), key=lambda e: e.key
        )

    def read(self, key: str) -> bytes | None:
        """The file's bytes; None when there is none."""
        path = self.root / key
        return path.read_bytes() if path.is_file() else None

    def download(self, key: str, target: Path) -> str:
        """Copy the file; return the hex sha256 of its bytes."""
        digest = hashlib.sha256()
        with (self.root / key).open("rb") as source, target.open("wb") as sink:
            while chunk := source.read(CHUNK):
                digest.update(chunk)
                sink.write(chunk)
        return digest.hexdigest()

    def write(self, key: str, data: bytes) -> None:
        """Replace atomically: a reader sees the old bytes or the new ones."""
        self._staged(key, data).replace(self.root / key)

    def write_new(self, key: str, data: bytes) -> None:
        """Link the staged file into place; linking fails when the name is taken."""
        staged = self._staged(key, data)
        try:
            (self.root / key).hardlink_to(staged)
        except FileExistsError:
            raise AlreadyExistsError(key) from None
        finally:
            staged.unlink()

    def delete(self, key: str) -> None:
        """Remove the file if there is one."""
        (self.root / key).unlink(missing_ok=True)

    def _staged(self, key: str, data: bytes) -> Path:
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        staged = path.with_name(f".tmp-{os.getpid()}-{path.name}")
        with staged.open("wb") as sink:
            sink.write(data)
            sink.flush()
            os.fsync(sink.fileno())
        return staged


def _md5(path: Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


class S3Store:
    """One prefix of one bucket. Endpoint, region and credentials come from the standard AWS_* environment."""

    def __init__(self, bucket: str, prefix: str) -> None:
        self.bucket, self.prefix = bucket, prefix
        self._botocore: Any = import_module("botocore.exceptions")  # boto3 costs half a second: not for local runs
        config = import_module("botocore.config").Config(
            s3={"addressing_style": "path"},
            retries={"mode": "standard", "max_attempts": 5},
            connect_timeout=5,
            read_timeout=60,
            # newer SDKs send trailing checksums by default, which S3 look-alikes refuse
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        self._client: Any = (
            import_module("boto3.session")
            .Session()
            .client("s3", config=config, region_name=region, endpoint_url=os.environ.get("AWS_ENDPOINT_URL") or None)
        )

    def entries(self) -> list[Entry]:
        """Every object below the prefix, page by page; folder markers are not objects."""

        def pages() -> list[Entry]:
            paginator = self._client.get_paginator("list_objects_v2")
            found = [
                item
                for page in paginator.paginate(Bucket=self.bucket, Prefix=self.prefix)
                for item in page.get("Contents", ())
            ]
            return [
                Entry(item["Key"].removeprefix(self.prefix), int(item["Size"]), item["ETag"].strip('"'))
                for item in found
                if not item["Key"].endswith("/")
            ]

        return sorted(self._call("list", "", pages), key=lambda entry: entry.key)

    def read(self, key: str) -> bytes | None:
        """The object's bytes; None on 404."""

        def get() -> bytes | None:
            try:
                body: bytes = self._client.get_object(Bucket=self.bucket, Key=self.prefix + key)["Body"].read()
            except self._botocore.ClientError as error:
                if _status(error) == _NOT_FOUND:
                    return None
                raise
            return body

        return self._call("read", key, get)

    def download(self, key: str, target: Path) -> str:
        """Stream the object to `target` in chunks; memory stays flat however large it is."""

        def stream() -> str:
            digest = hashlib.sha256()
            body = self._client.get_object(Bucket=self.bucket, Key=self.prefix + key)["Body"]
            with target.open("wb") as sink:
                for chunk in body.iter_chunks(CHUNK):
                    digest.update(chunk)
                    sink.write(chunk)
            return digest.hexdigest()

        return self._call("read", key, stream)

    def write(self, key: str, data: bytes) -> None:
        """One PUT: S3 shows an object whole or not at all."""
        self._call("write", key, lambda: self._client.put_object(Bucket=self.bucket, Key=self.prefix + key, Body=data))

    def write_new(self, key: str, data: bytes) -> None:
        """PUT with If-None-Match: *. A store that does not know the header gets a HEAD first (a race remains there)."""

        def conditional() -> bool:
            try:
                self._client.put_object(Bucket=self.bucket, Key=self.prefix + key, Body=data, IfNoneMatch="*")
            except self._botocore.ClientError as error:
                if _status(error) in {409, 412}:
                    raise AlreadyExistsError(key) from None
                if _status(error) in {400, 501}:
                    return False
                raise
            return True

        if self._exists(key):  # also covers stores that accept the header and ignore it
            raise AlreadyExistsError(key)
        if not self._call("write", key, conditional):
            self.write(key, data)

    def _exists(self, key: str) -> bool:
        def head() -> bool:
            try:
                self._client.head_object(Bucket=self.bucket, Key=self.prefix + key)
            except self._botocore.ClientError as error:
                if _status(error) == _NOT_FOUND:
                    return False
                raise
            return True

        return self._call("head", key, head)

    def delete(self, key: str) -> None:
        """DELETE; S3 answers the same whether the object was there."""
        self._call("delete", key, lambda: self._client.delete_object(Bucket=self.bucket, Key=self.prefix + key))

    def _call(self, verb: str, key: str, action: Callable[[], T]) -> T:
        try:
            return action()
        except self._botocore.ClientError as error:
            code = error.response.get("Error", {}).get("Code", "unknown")
            raise InfrastructureError(self._told(verb, key, f"{code} (HTTP {_status(error)})")) from error
        except (self._botocore.BotoCoreError, self._botocore.HTTPClientError, ConnectionError) as error:
            raise InfrastructureError(self._told(verb, key, type(error).__name__)) from error

    def _told(self, verb: str, key: str, what: str) -> str:
        return (
            f"S3: cannot {verb} s3://{self.bucket}/{self.prefix}{key}: {what}. "
            "Check AWS_ENDPOINT_URL, the network and the rights of the Secret in spec.artifacts.secretRef"
        )


def _status(error: Any) -> int:  # noqa: ANN401 - botocore ships no types
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
