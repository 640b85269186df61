"""What travels to a node: only what it lacks, in a form that is whole together with what it has."""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tarfile
from typing import TYPE_CHECKING

import pytest

from cluster import thin

if TYPE_CHECKING:
    from pathlib import Path

REF = "local.test/espalier/demo:1"


def sha(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def docker_archive(path: Path, layers: list[bytes], *, images: int = 1, named: bool = True) -> Path:
    config = json.dumps({"rootfs": {"diff_ids": [sha(each) for each in layers]}}).encode()
    names = [f"{sha(each)[7:]}.tar" if named else f"layer-{n}.tar" for n, each in enumerate(layers)]
    manifest = [{"Config": "config.json", "RepoTags": [REF], "Layers": names}] * images
    with tarfile.open(path, "w") as archive:
        members = [*zip(names, layers, strict=True), ("config.json", config)]
        for name, data in [*members, ("manifest.json", json.dumps(manifest).encode())]:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def layout(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {entry.name: archive.extractfile(entry).read() for entry in archive}  # type: ignore[union-attr]


@pytest.mark.parametrize("held", [[], [0], [0, 1]])
def test_the_layout_is_whole_but_for_the_layers_that_the_node_has(tmp_path: Path, held: list[int]) -> None:
    layers = [b"base" * 1000, b"source"]
    file = docker_archive(tmp_path / "a.tar", layers)
    bundle = thin.read(file)
    assert bundle is not None
    sink = io.BytesIO()
    sent = thin.write(bundle, file, {sha(layers[n]) for n in held}, sink)
    assert sent == sum(len(each) for n, each in enumerate(layers) if n not in held)
    files = layout(sink.getvalue())
    (entry,) = json.loads(files["index.json"])["manifests"]
    assert entry["annotations"] == {"io.containerd.image.name": REF}
    manifest = json.loads(files[f"blobs/sha256/{entry['digest'][7:]}"])
    assert [each["digest"] for each in manifest["layers"]] == [sha(each) for each in layers]
    assert [each["size"] for each in manifest["layers"]] == [len(each) for each in layers]
    assert manifest["config"]["digest"] == sha(files[f"blobs/sha256/{manifest['config']['digest'][7:]}"])
    for name, data in files.items():
        if name.startswith("blobs/"):
            assert name == f"blobs/sha256/{sha(data)[7:]}"
    for n, each in enumerate(layers):
        assert (f"blobs/sha256/{sha(each)[7:]}" in files) == (n not in held)


@pytest.mark.parametrize("images, named", [(2, True), (1, False)])
def test_archives_whose_layers_cannot_be_recognised_go_whole(tmp_path: Path, images: int, named: bool) -> None:
    assert thin.read(docker_archive(tmp_path / "a.tar", [b"x"], images=images, named=named)) is None


def test_an_importer_that_fails_early_is_heard(tmp_path: Path) -> None:
    file = docker_archive(tmp_path / "a.tar", [b"x" * 5_000_000])
    bundle = thin.read(file)
    assert bundle is not None
    failing = [sys.executable, "-c", "import sys; print('no room'); sys.exit(3)"]
    assert thin.send(bundle, file, (), failing, {}) == "no room"
    patient = [sys.executable, "-c", "import sys; sys.stdin.buffer.read()"]
    assert thin.send(bundle, file, (), patient, {}) == ""
