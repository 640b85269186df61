"""Where things lie: what can be rebuilt (cache) and what one cluster owns (state)."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import ClusterError

REPO = Path(__file__).resolve().parent.parent
GO_PARTS = Path(__file__).resolve().parent / "go"
NODE_FILES = Path(__file__).resolve().parent / "node"
KIND_CONFIG = REPO / "kind-config.yaml"
DEFAULT_NAME = "espalier"

# A network namespace, a cgroup and container host names are made from it; with
# "-control-plane" appended it must stay a valid host name.
_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}[a-z0-9]")


def cache_root() -> Path:
    """The cache: ``$ESPALIER_CACHE``, else the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "espalier"
    return Path(os.environ.get("ESPALIER_CACHE") or default).absolute()


def state_root() -> Path:
    """The folder of all clusters' states: ``$ESPALIER_STATE``, else the user's state folder."""
    default = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "espalier"
    return Path(os.environ.get("ESPALIER_STATE") or default).absolute()


@dataclass(frozen=True)
class State:
    """The files of one cluster. Everything of it is under ``root`` and named after it."""

    name: str
    root: Path

    @classmethod
    def of(cls, name: str) -> State:
        """The state of the cluster ``name``.

        Raises:
            ClusterError: the name can't be a host name.

        """
        if not _NAME.fullmatch(name):
            raise ClusterError(
                f"cluster name {name!r} is not usable",
                remedy="use 2 to 32 lower-case letters, digits and dashes, a letter first",
            )
        return cls(name, state_root() / name)

    @property
    def kubeconfig(self) -> Path:
        """The admin kubeconfig."""
        return self.root / "kubeconfig"

    @property
    def bin(self) -> Path:
        """Links to kubectl, helm, kind and, on a private engine, docker."""
        return self.root / "bin"

    @property
    def lock(self) -> Path:
        """Held while a command changes the cluster."""
        return self.root.with_suffix(".lock")

    @property
    def facts(self) -> Path:
        """What ``up`` decided, as JSON; ``down`` and ``exec`` go by it."""
        return self.root / "cluster.json"

    @property
    def sysctls(self) -> Path:
        """The machine's kernel settings as they were before the cluster."""
        return self.root / "sysctls.json"

    @property
    def logs(self) -> Path:
        """Logs of the engine and of the builds."""
        return self.root / "logs"

    @property
    def docker_data(self) -> Path:
        """The private engine's images and containers."""
        return self.root / "docker-data"

    @property
    def docker_run(self) -> Path:
        """The private engine's sockets and pid files."""
        return self.root / "docker-run"

    @property
    def docker_socket(self) -> Path:
        """The private engine's API."""
        return self.docker_run / "docker.sock"

    @property
    def netns(self) -> Path:
        """The network namespace of the private engine, for nsenter."""
        return Path("/run/espalier") / self.name / "netns"

    @property
    def cgroup_parent(self) -> str:
        """The cgroup under which every container of the private engine lives."""
        return f"/espalier-{self.name}"
