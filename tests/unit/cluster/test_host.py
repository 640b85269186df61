"""The machine is left as it was found."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from cluster import host
from cluster.errors import ClusterError


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A made-up /proc/sys, /run/espalier and /lib/modules."""
    proc = tmp_path / "sys"
    for name, value in (("kernel.panic", "1"), ("vm.overcommit_memory", "0"), ("fs.inotify.max_user_instances", "128")):
        file = proc / name.replace(".", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{value}\n")
    monkeypatch.setattr(host, "_PROC_SYS", proc)
    monkeypatch.setattr(host, "RUN", tmp_path / "run")
    monkeypatch.setattr(host, "_RECORD", tmp_path / "run/machine.json")
    monkeypatch.setattr(host, "_MODULES", tmp_path / "modules")
    monkeypatch.setattr(host, "_MADE", (tmp_path / "modules",))
    return tmp_path


def test_recorded_before_it_is_changed_and_written_back(machine: Path) -> None:
    host.prepare()
    assert (machine / "modules").is_dir()
    assert host.sysctl_file("fs.inotify.max_user_instances").read_text() == "1024"
    host.sysctl_file("kernel.panic").write_text("10")  # as kubelet does
    assert host.restore() == ["fs.inotify.max_user_instances", "kernel.panic"]
    assert host.sysctl_file("kernel.panic").read_text() == "1"
    assert not (machine / "modules").exists()
    assert not (machine / "run").exists()


def test_the_first_record_wins(machine: Path) -> None:
    host.prepare()
    host.sysctl_file("kernel.panic").write_text("10")
    host.prepare()  # a second cluster, or an `up` after a crash
    assert json.loads((machine / "run/machine.json").read_text())["sysctls"]["kernel.panic"] == "1"


def test_not_restored_while_another_cluster_runs(machine: Path) -> None:
    host.prepare()
    (machine / "run/other").mkdir()
    host.sysctl_file("kernel.panic").write_text("10")
    assert host.restore() == []
    assert host.sysctl_file("kernel.panic").read_text() == "10"
    (machine / "run/other").rmdir()
    assert "kernel.panic" in host.restore()


def test_restoring_without_a_record_does_nothing(machine: Path) -> None:
    assert host.restore() == []


def test_only_differing_settings_are_written() -> None:
    assert host.changed({"a": "1", "b": "2", "c": "3"}, {"a": "1", "b": "9"}) == {"b": "2"}


def test_a_folder_that_was_there_stays(machine: Path) -> None:
    (machine / "modules").mkdir()
    host.prepare()
    host.restore()
    assert (machine / "modules").is_dir()


def test_dead_sockets_go_and_files_stay(tmp_path: Path) -> None:
    top = tmp_path / "t"
    (top / "s").mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(top / "s/x.sock"))
    (top / "kept").mkdir()
    (top / "kept/file").touch()
    host.remove_hollow(top)
    assert [path.relative_to(top) for path in sorted(top.rglob("*"))] == [Path("kept"), Path("kept/file")]


def test_all_lacks_are_named_at_once_with_their_remedies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("shutil.which", lambda tool: None if tool in {"go", "ip"} else f"/usr/bin/{tool}")
    monkeypatch.setattr(host, "memory_available", lambda: 1)
    with pytest.raises(ClusterError) as caught:
        host.require(host.DISK_COLD)
    for text in ("not root", "`go`", "`ip`", "GB of memory", "iproute2"):
        assert text in str(caught.value)
