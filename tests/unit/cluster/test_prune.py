"""What goes from the cache, and what never does."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from cluster import gobuild, lock, prune

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from cluster.parts import Part


def made(folder: Path, name: str, used: int) -> Path:
    """A cached result that was last used at second `used`."""
    path = folder / name
    path.mkdir()
    (path / "program").touch()
    os.utime(path, (used, used))
    return path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_dir()}


def test_the_newest_of_the_same_thing_stay(tmp_path: Path) -> None:
    for name, used in (("helm-0a", 3), ("helm-0b", 2), ("helm-0c", 1), ("helm4-0a", 0), (".helm-0d.new", 0)):
        made(tmp_path, name, used)
    current = made(tmp_path, "helm-0e", 0)
    assert [path.name for path in prune.older(current)] == ["helm-0b", "helm-0c"]
    assert names(tmp_path) == {"helm-0e", "helm-0a", "helm4-0a", ".helm-0d.new"}
    assert prune.older(current) == []
    assert [path.name for path in prune.older(current, kept=1)] == ["helm-0a"]
    assert current.is_dir()


def test_what_another_process_builds_stays(tmp_path: Path) -> None:
    current, busy = made(tmp_path, "kube-0a", 2), made(tmp_path, "kube-0b", 1)
    with lock.held(busy.with_suffix(".lock"), what="a build"):
        assert prune.older(current, kept=1) == []
    assert (busy / "program").exists()
    assert prune.older(current, kept=1) == [busy]


def test_a_build_leaves_two_of_its_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESPALIER_CACHE", str(tmp_path))

    def compiled(part: Part, target: Path) -> None:
        target.mkdir(parents=True)
        for program in part.programs:
            (target / program).touch()

    monkeypatch.setattr(gobuild, "_compile", compiled)
    folders = []
    for used, version in enumerate(("go1", "go2", "go1", "go3")):
        monkeypatch.setattr(gobuild, "toolchain", lambda version=version: version)
        folders.append(gobuild.build_all("pause"))
        os.utime(folders[-1], (used, used))
    first, second, again, third = folders
    assert first == again
    assert names(tmp_path / "bin") == {first.name, third.name}, "the one used in between is not the old one"
    assert not second.exists()
