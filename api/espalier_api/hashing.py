"""Digests that decide identity: of JSON, of a data snapshot, of what makes a new version.

These must never change for unchanged input: a new hash of an old spec would retrain a fleet. tests pin their values.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from espalier_api.model import RegularizedModelSpec

DIGEST_PATTERN = r"^sha256:[0-9a-f]{64}$"


class SnapshotEntry(NamedTuple):
    """One object of a listing: key relative to the snapshot's prefix, size in bytes, ETag (quotes are dropped)."""

    key: str
    size: int
    etag: str


def sha256(data: bytes) -> str:
    """`sha256:<hex>` of bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def canonical_json(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """One text per value: sorted keys, no spaces, shortest numbers; 1.0 and 1 and 1e0 are the same number.

    Raises ValueError for NaN, infinities and types that JSON does not know.
    """
    return json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def json_digest(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """`sha256:<hex>` of the canonical JSON."""
    return sha256(canonical_json(value).encode())


def snapshot_digest(entries: Iterable[SnapshotEntry | tuple[str, int, str]]) -> str:
    """Digest of a listing: sha256 over the lines `key TAB size TAB etag LF`, sorted by key. Cheap at any size of data.

    Storage alone computes ETags, so two copies uploaded with other part sizes differ: the digest pins a snapshot, not its content.
    """
    lines = [f"{key}\t{size}\t{etag.strip(chr(34))}\n" for key, size, etag in sorted(entries)]
    return sha256("".join(lines).encode())


def spec_hash(spec: RegularizedModelSpec, snapshot: str, request_id: str | None = None) -> str:
    """What makes a new version: task, data with resolved snapshot digest, engine, regularizers, search, seeds, a named image, the request.

    Only non-default fields count, so a field that a later release adds changes no existing hash. Gates, serving, SLOs, retention,
    training resources, the operator's default image and a parallelism that decides nothing are left out on purpose: changing them never
    retrains.
    """
    data = _given(spec.data)
    data["snapshot"] = {**data.get("snapshot", {}), "digest": snapshot}
    parts: dict[str, Any] = {
        "task": _given(spec.task),
        "data": data,
        "engine": _given(spec.engine),
        "regularizers": _given(spec.regularizers),
    }
    if spec.search is not None:
        parts["search"] = spec.search.deciding()
    if spec.evaluation.seeds != 1:
        parts["seeds"] = spec.evaluation.seeds
    if spec.training.image is not None:
        parts["image"] = spec.training.image
    if request_id is not None:
        parts["request"] = request_id
    return json_digest(parts)


def _given(model: Any) -> dict[str, Any]:  # noqa: ANN401 - any ApiModel
    dumped: dict[str, Any] = model.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude_none=True)
    return dumped


def _canonical(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    match value:
        case bool() | None | str() | int():
            return value
        case float():
            if not math.isfinite(value):
                raise ValueError(f"{value} has no JSON form; a finite number is needed")
            return int(value) if value.is_integer() and abs(value) < 2**53 else value
        case Mapping():
            return {str(key): _canonical(item) for key, item in value.items()}
        case Sequence():
            return [_canonical(item) for item in value]
        case _:
            raise ValueError(f"{type(value).__name__} has no JSON form")
