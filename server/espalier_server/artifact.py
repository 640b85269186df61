"""Brings a version's files to local disk and believes none of them before its digest agrees.

The chain of trust: ServingConfig.digest pins manifest.json, manifest.json pins every other file; where a key is given, model.sig
must vouch for the manifest and those files before any of them is read. A file gets its name only after its size and sha256
agreed, so a half-downloaded one is never read.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from espalier_api.artifact import (
    GOLDEN,
    MANIFEST,
    REFERENCE,
    REQUIRED_FILES,
    SIGNATURE,
    Manifest,
    version_digest,
)
from espalier_server.errors import ArtifactError, MissingObjectError, SignatureError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from espalier_api.artifact import FileEntry
    from espalier_api.serving import ServingConfig
    from espalier_server.storage import Store

MAX_MANIFEST_BYTES = 4 << 20
MAX_FILES = 256
MAX_TOTAL_BYTES = 16 << 30
PARALLEL_DOWNLOADS = 4
KEPT = (GOLDEN, REFERENCE)
"""What the server reads besides the model. The rest is verified and not stored."""

_SAFE_NAME = re.compile(r"(?:pictures/)?[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class Artifact:
    """A verified version on local disk."""

    folder: Path
    manifest: Manifest
    digest: str

    @property
    def model_path(self) -> Path:
        """The ONNX file; weights that it keeps outside lie beside it."""
        return self.folder / self.manifest.task.served

    @property
    def model_bytes(self) -> int:
        """Size of the served model in bytes, external weights included."""
        served = self.manifest.task.served
        return sum(entry.size for name, entry in self.manifest.files.items() if _is_model(name, served))

    def reference(self) -> dict[str, Any]:
        """reference.json, parsed."""
        try:
            content = json.loads((self.folder / REFERENCE).read_bytes())
        except (ValueError, RecursionError) as error:
            raise ArtifactError(f"{REFERENCE}: not JSON: {error}") from error
        if not isinstance(content, dict):
            raise ArtifactError(f"{REFERENCE}: must be a JSON object, is {type(content).__name__}")
        return content


def fetch(store: Store, config: ServingConfig, folder: Path) -> Artifact:
    """Download and verify everything that the manifest lists into `folder`, which is emptied first.

    Raises ArtifactError (final), StorageDeniedError (final) or StorageUnavailableError (try again).
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    manifest = _manifest(store, config)
    if config.public_key_path is not None:
        _check_signature(store, config, manifest, Path(config.public_key_path))
    with ThreadPoolExecutor(PARALLEL_DOWNLOADS, thread_name_prefix="download") as pool:
        kept = {*KEPT, *(name for name in manifest.files if _is_model(name, manifest.task.served))}
        done = [pool.submit(_download, store, folder, n, e, keep=n in kept) for n, e in manifest.files.items()]
        for future in done:
            future.result()
    return Artifact(folder=folder, manifest=manifest, digest=config.digest)


def _manifest(store: Store, config: ServingConfig) -> Manifest:
    """manifest.json, once its digest is the intended one and it speaks of the intended version."""
    content = _whole(store, MANIFEST, MAX_MANIFEST_BYTES)
    digest = version_digest(content)
    if digest != config.digest:
        raise ArtifactError(
            f"{config.artifact_uri}{MANIFEST}: digest {digest} is not the intended {config.digest}: "
            "the artifact was changed after training, or artifactUri points at another version"
        )
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ArtifactError(f"{MANIFEST}: {where}: {first['msg']}") from error
    _check(manifest, config)
    return manifest


def _check_signature(store: Store, config: ServingConfig, manifest: Manifest, public_key: Path) -> None:
    """model.sig is there and by one of the keys. Whoever removes it must not get further than who breaks it."""
    from espalier_server import signing  # noqa: PLC0415 - OpenSSL: 6 MB that only signed models need

    keys = signing.read_keys(public_key)
    try:
        content = _whole(store, SIGNATURE, signing.MAX_SIGNATURE_BYTES)
    except MissingObjectError as error:
        raise SignatureError(
            f"{config.artifact_uri}{SIGNATURE} does not exist, and spec.artifacts.signing asks for it: sign the version "
            "(docs/trainer.md), or train a new one"
        ) from error
    signing.check(content, manifest, config.digest.removeprefix("sha256:"), keys)


def _whole(store: Store, name: str, limit: int) -> bytes:
    """A small file; ArtifactError when it has more than `limit` bytes."""
    content = bytearray()
    for chunk in store.read(name):
        content += chunk
        if len(content) > limit:
            raise ArtifactError(f"{name}: longer than {limit} bytes")
    return bytes(content)


def _check(manifest: Manifest, config: ServingConfig) -> None:
    """The manifest is this version's, complete, and names files that may lie in one folder."""
    for field in ("namespace", "model", "version"):
        if getattr(manifest, field) != getattr(config, field):
            raise ArtifactError(
                f"{MANIFEST}: {field} is {getattr(manifest, field)!r}, "
                f"serving.json wants {getattr(config, field)!r}: artifactUri points at another version"
            )
    if missing := [name for name in (*REQUIRED_FILES, manifest.task.served) if name not in manifest.files]:
        raise ArtifactError(f"{MANIFEST}: files: {', '.join(missing)} not listed; the version is incomplete")
    if unsafe := [name for name in manifest.files if not _SAFE_NAME.fullmatch(name) or name == MANIFEST]:
        raise ArtifactError(f"{MANIFEST}: files: {unsafe[0]!r} is not a plain file name")
    total = sum(entry.size for entry in manifest.files.values())
    if len(manifest.files) > MAX_FILES or total > MAX_TOTAL_BYTES:
        raise ArtifactError(
            f"{MANIFEST}: files: {len(manifest.files)} files, {total} bytes; "
            f"at most {MAX_FILES} and {MAX_TOTAL_BYTES} are accepted"
        )


def _is_model(name: str, served: str) -> bool:
    """The served graph and the external weights of large ones (model.onnx.data)."""
    return name == served or name.startswith(f"{served}.")


def _download(store: Store, folder: Path, name: str, entry: FileEntry, *, keep: bool) -> None:
    """Verify one file; store it under its name when the server needs it, and only after it agreed."""
    if not keep:
        for _ in _verified(store, name, entry):
            pass
        return
    partial = folder / f"{name}.partial"
    with partial.open("wb") as file:
        for chunk in _verified(store, name, entry):
            file.write(chunk)
    partial.rename(folder / name)


def _verified(store: Store, name: str, entry: FileEntry) -> Iterator[bytes]:
    """The chunks of a file; raises ArtifactError at the end, or as soon as it is too long."""
    digest, size = hashlib.sha256(), 0
    for chunk in store.read(name):
        size += len(chunk)
        if size > entry.size:
            raise ArtifactError(f"{name}: longer than the {entry.size} bytes in {MANIFEST}: the file was changed")
        digest.update(chunk)
        yield chunk
    if size != entry.size:
        raise ArtifactError(f"{name}: {size} bytes, {MANIFEST} says {entry.size}: the file was cut or changed")
    if digest.hexdigest() != entry.sha256:
        raise ArtifactError(
            f"{name}: sha256 {digest.hexdigest()} is not the {entry.sha256} of {MANIFEST}: the file was changed"
        )
