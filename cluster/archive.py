"""docker-archive files: write one from files on disk, read what one holds."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from cluster.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PATH_ENV = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Image:
    """One image of an archive: its names and the digest of its configuration."""

    refs: tuple[str, ...]
    config_digest: str


def write(out: Path, ref: str, config: Mapping[str, Any], files: Mapping[str, Path]) -> None:
    """Write a one-layer image whose bytes depend only on the content.

    Args:
        out: the archive to write.
        ref: the image's name, such as ``local.test/k8s/pause:3.10``.
        config: the OCI image configuration's ``config`` object.
        files: path in the image -> file or folder on disk. A folder goes in whole.

    """
    with tempfile.NamedTemporaryFile(dir=out.parent, suffix=".layer") as layer:
        _write_layer(layer, files)
        layer.flush()
        diff_id = _digest(Path(layer.name))
        image = {
            "architecture": _architecture(),
            "os": "linux",
            "config": dict(config),
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
            "history": [{"created_by": "espalier cluster"}],
        }
        config_bytes = json.dumps(image, sort_keys=True).encode()
        config_name = f"{hashlib.sha256(config_bytes).hexdigest()}.json"
        manifest = [{"Config": config_name, "RepoTags": [ref], "Layers": ["layer.tar"]}]
        with tarfile.open(out, "w") as archive:
            _add_bytes(archive, config_name, config_bytes)
            archive.addfile(_plain(archive.gettarinfo(layer.name, "layer.tar")), _rewound(layer))
            _add_bytes(archive, "manifest.json", json.dumps(manifest).encode())


def read(file: Path) -> list[Image]:
    """The images in a docker-archive.

    Raises:
        ClusterError: the file is missing or not a docker-archive.

    """
    try:
        with tarfile.open(file) as archive:
            member = archive.extractfile("manifest.json")
            if member is None:
                raise KeyError("manifest.json")  # noqa: TRY301 - same remedy as a missing one
            manifest = json.load(member)
            return [
                Image(tuple(entry.get("RepoTags") or ()), _config_digest(archive, entry["Config"]))
                for entry in manifest
            ]
    except (OSError, KeyError, ValueError, tarfile.TarError) as error:
        raise ClusterError(
            f"{file} is not a docker-archive: {error}",
            remedy="write it with `docker save -o FILE IMAGE`, or with the images room",
        ) from error


def _config_digest(archive: tarfile.TarFile, name: str) -> str:
    member = archive.extractfile(name)
    if member is None:
        raise KeyError(name)
    return f"sha256:{hashlib.sha256(member.read()).hexdigest()}"


def _architecture() -> str:
    machine = os.uname().machine
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def _write_layer(target: IO[bytes], files: Mapping[str, Path]) -> None:
    with tarfile.open(fileobj=target, mode="w", format=tarfile.GNU_FORMAT) as layer:
        seen: set[str] = set()
        for inside, source in sorted(files.items()):
            for name, path in _members(inside.strip("/"), source):
                _add_parents(layer, name, seen)
                if name not in seen:
                    seen.add(name)
                    layer.add(path, name, recursive=False, filter=_plain)


def _members(inside: str, source: Path) -> Iterator[tuple[str, Path]]:
    if not source.is_dir():
        yield inside, source.resolve()
        return
    for folder, folders, names in os.walk(source):
        folders.sort()
        for name in sorted(folders + names):
            path = Path(folder, name)
            yield str(Path(inside, path.relative_to(source))), path


def _add_parents(layer: tarfile.TarFile, name: str, seen: set[str]) -> None:
    for parent in reversed(Path(name).parents[:-1]):
        folder = str(parent)
        if folder not in seen:
            seen.add(folder)
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            layer.addfile(_plain(entry))


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without owner and time, so that the same files give the same digest."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mtime = 0
    return entry


def _add_bytes(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), 0o644
    archive.addfile(entry, io.BytesIO(data))


def _rewound(file: Any) -> IO[bytes]:  # noqa: ANN401 - tempfile's wrapper has no public type
    file.seek(0)
    stream: IO[bytes] = file
    return stream


def _digest(file: Path) -> str:
    with file.open("rb") as data:
        return f"sha256:{hashlib.file_digest(data, 'sha256').hexdigest()}"
