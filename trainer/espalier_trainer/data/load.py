"""A snapshot from the store to a folder: its digest is checked before and again after it was read."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from espalier_api.hashing import SnapshotEntry, snapshot_digest
from espalier_trainer.data import tables
from espalier_trainer.errors import DataProblemError, SnapshotChangedError

if TYPE_CHECKING:
    from pathlib import Path

    from espalier_trainer.data.tables import Table
    from espalier_trainer.storage import Entry, ObjectStore


def fetch(store: ObjectStore, uri: str, expected: str | None, folder: Path) -> tuple[Table, str, str]:
    """Read the snapshot; returns (table, snapshot digest, hex sha256 of the content)."""
    entries = store.entries()
    if not entries:
        raise DataProblemError(f"data.snapshot.uri: nothing below {uri}; check the bucket and the prefix")
    digest = _checked(entries, uri, expected, "differs from what the operator resolved")
    content = hashlib.sha256()
    paths: dict[str, Path] = {}
    for number, entry in enumerate(entries):
        path = folder / f"{number:06d}"
        content.update(f"{entry.key}\t{store.download(entry.key, path)}\n".encode())
        paths[entry.key] = path
    _checked(store.entries(), uri, digest, "changed while it was read")
    return tables.read(paths), digest, content.hexdigest()


def _checked(entries: list[Entry], uri: str, expected: str | None, what: str) -> str:
    digest = snapshot_digest(SnapshotEntry(e.key, e.size, e.etag) for e in entries)
    if expected is not None and digest != expected:
        raise SnapshotChangedError(
            f"data.snapshot: {uri} {what}: expected {expected}, found {digest}. Write new data below a new prefix; snapshots are immutable"
        )
    return digest
