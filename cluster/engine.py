"""A Docker engine of our own, in its own network and mount namespace.

No rule, route or interface of it lands in the machine's network. Every process
of it, also after a crash, is in the cgroup ``/espalier-NAME``: that is how
:func:`stop` finds what is ours, and nothing else.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cluster import cgroups, host, packages
from cluster.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cluster.paths import State

_HERE = Path(__file__).resolve().parent
_IPTABLES = tuple(f"{tool}{way}" for tool in ("iptables", "ip6tables") for way in ("", "-save", "-restore"))
START_SECONDS = 60
STOP_SECONDS = 20


@dataclass(frozen=True)
class Engine:
    """The private engine of one cluster."""

    state: State

    @property
    def _tools(self) -> Path:
        """Programs made for this engine: the runc wrapper and the iptables links."""
        return self.state.root / "engine"

    @property
    def run_dir(self) -> Path:
        """Its folder under /run: a reboot clears it as it ends the engine."""
        return host.RUN / self.state.name

    def env(self, unpacked: Path) -> dict[str, str]:
        """The environment of the engine: its programs and libraries are where they were unpacked."""
        libraries = sorted(unpacked.glob("usr/lib/*-linux-gnu")) + sorted(unpacked.glob("lib/*-linux-gnu"))
        return {
            "PATH": os.pathsep.join(
                [
                    str(self._tools),
                    str(unpacked / "usr/sbin"),
                    str(unpacked / "usr/bin"),
                    os.environ.get("PATH", os.defpath),
                ]
            ),
            "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries)),
            "XTABLES_LIBDIR": str(next(iter(sorted(unpacked.glob("usr/lib/*/xtables"))), "")),
            # pivot_root is refused on some sandboxed root filesystems; this makes runc move the mount instead.
            "DOCKER_RAMDISK": "1",
        }

    def config(self, unpacked: Path) -> dict[str, object]:
        """The contents of daemon.json."""
        run = self.state.docker_run
        return {
            "data-root": str(self.state.docker_data),
            "exec-root": str(run / "exec"),
            "pidfile": str(run / "docker.pid"),
            "hosts": [f"unix://{self.state.docker_socket}"],
            "storage-driver": "overlay2",
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
            "cgroup-parent": self.state.cgroup_parent,
            "log-driver": "json-file",
            # There is no way out of the namespace; asking nobody makes a look-up fail at once.
            "dns": ["127.0.0.1"],
            "runtimes": {"runc-caps": {"path": str(self._tools / "runc-caps")}},
            "default-runtime": "runc-caps",
            "userland-proxy-path": str(unpacked / "usr/sbin/docker-proxy"),
        }

    def alive(self) -> bool:
        """Whether the engine answers."""
        if not (self.state.docker_socket.is_socket() and self.state.netns.exists()):
            return False
        return _quiet([str(self.state.bin / "docker"), "version"], self._client_env())

    def start(self) -> None:
        """Start the engine; one that runs is left alone.

        Raises:
            ClusterError: it did not answer in time; the message has the end of its log.

        """
        if self.alive():
            return
        self.stop()  # What a crash may have left would hold the data folder.
        host.prepare()
        unpacked = packages.unpacked("engine", packages.ENGINE_PACKAGES) / "root"
        for folder in (self.state.docker_data, self.state.docker_run, self.state.logs, self.run_dir):
            folder.mkdir(parents=True, exist_ok=True)
        self._write_tools(unpacked)
        self._make_netns()
        self._launch(unpacked)

    def stop(self) -> None:
        """End every process of the engine and take away its namespace and cgroups.

        Asks the engine first, so that it ends its containers in order; then
        ends whatever is left in its cgroups, as after a crash.
        """
        self._terminate()
        cgroups.kill(self.state.cgroup_parent)
        cgroups.remove(self.state.cgroup_parent)
        if self.state.netns.exists():
            # Twice mounted after an interrupted start; each umount takes one away.
            while _quiet(["umount", str(self.state.netns)]):
                pass
            self.state.netns.unlink(missing_ok=True)
        shutil.rmtree(self.run_dir, ignore_errors=True)
        shutil.rmtree(self.state.docker_run, ignore_errors=True)

    def _client_env(self) -> dict[str, str]:
        return {**os.environ, "DOCKER_HOST": f"unix://{self.state.docker_socket}"}

    def _write_tools(self, unpacked: Path) -> None:
        shutil.rmtree(self._tools, ignore_errors=True)
        self._tools.mkdir(parents=True)
        source = (_HERE / "runc_caps.py").read_text()
        wrapper = self._tools / "runc-caps"
        # -I and -S: no user site, no search path; it starts for every container.
        wrapper.write_text(f"#!{Path(sys.executable).resolve()} -IS\n{source}")
        wrapper.chmod(0o755)
        (self._tools / "runc.real").symlink_to(unpacked / "usr/sbin/runc")
        for name in _IPTABLES:
            (self._tools / name).symlink_to(unpacked / "usr/sbin/xtables-nft-multi")
        self.state.bin.mkdir(parents=True, exist_ok=True)
        link(self.state.bin / "docker", unpacked / "usr/bin/docker")
        (self._tools / "daemon.json").write_text(json.dumps(self.config(unpacked), indent=1))

    def _make_netns(self) -> None:
        # Not `ip netns add`: that turns /run/netns into a mount which outlives us.
        self.state.netns.touch()
        _run(["unshare", f"--net={self.state.netns}", "true"])
        _run(["nsenter", f"--net={self.state.netns}", "ip", "link", "set", "lo", "up"])

    def _launch(self, unpacked: Path) -> None:
        log = self.state.logs / "dockerd.log"
        joins = cgroups.join_files(f"{self.state.cgroup_parent}/engine")
        argv = [sys.executable, "-P", str(_HERE / "launch.py"), *map(str, joins), "--"]
        argv += ["nsenter", f"--net={self.state.netns}", "--"]
        # Slave: the machine's unmounts reach it, its own mounts don't reach the machine.
        argv += ["unshare", "--mount", "--propagation", "slave", "--"]
        argv += [str(unpacked / "usr/sbin/dockerd"), "--config-file", str(self._tools / "daemon.json")]
        with log.open("wb") as output:
            child = subprocess.Popen(
                argv,
                env={**os.environ, **self.env(unpacked)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        if not wait_for(lambda: self.alive() or child.poll() is not None, START_SECONDS) or child.poll() is not None:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-12:])
            self.stop()
            raise ClusterError(
                f"the private Docker engine of {self.state.name!r} did not start:\n{tail}",
                remedy=f"read {log}; then run `python -m cluster down --name {self.state.name}` and `up` again",
            )

    def _terminate(self) -> None:
        pid = self._pid()
        if pid is None:
            return
        os.kill(pid, 15)
        wait_for(lambda: self._pid() is None, STOP_SECONDS)

    def _pid(self) -> int | None:
        """The engine's process: in its pid file and in our cgroup, so that a reused id is never ours."""
        try:
            pid = int((self.state.docker_run / "docker.pid").read_text())
        except (OSError, ValueError):
            return None
        return pid if pid in cgroups.processes(self.state.cgroup_parent) else None


def link(name: Path, target: Path) -> None:
    """Make or replace a symbolic link."""
    name.unlink(missing_ok=True)
    name.symlink_to(target)


def wait_for(true: Callable[[], bool], seconds: float, *, pause: float = 0.2) -> bool:
    """Ask until it is so or the time is up; returns the last answer."""
    deadline = time.monotonic() + seconds
    while not (so := true()) and time.monotonic() < deadline:
        time.sleep(pause)
    return so


def _quiet(argv: list[str], env: Mapping[str, str] | None = None) -> bool:
    return (
        subprocess.run(argv, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 0
    )


def _run(argv: list[str]) -> None:
    done = subprocess.run(argv, text=True, capture_output=True, check=False)
    if done.returncode:
        raise ClusterError(
            f"`{' '.join(argv)}` ended with {done.returncode}: {done.stderr.strip()}",
            remedy="a private engine needs root and a kernel with network namespaces",
        )
