"""The handle on a cluster that the rest of the house works with.

>>> cluster = Cluster.load("espalier")          # doctest: +SKIP
>>> cluster.kubectl("get", "nodes").stdout      # doctest: +SKIP
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.errors import ClusterError
from cluster.paths import DEFAULT_NAME, State

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Cluster:
    """One cluster that is up.

    Attributes:
        name: the cluster's name; also kind's.
        situation: ``context`` (a named kube context that was there before),
            ``engine`` (docker or podman) or ``private`` (our own engine).
        engine: ``docker`` or ``podman``; empty for a named context.
        context: the kube context's name.

    """

    name: str
    situation: str
    engine: str
    context: str

    @classmethod
    def load(cls, name: str = DEFAULT_NAME) -> Cluster:
        """Read the handle of a cluster that ``python -m cluster up`` made.

        Raises:
            ClusterError: there is no such cluster.

        """
        facts = State.of(name).facts
        try:
            found = json.loads(facts.read_text())
        except FileNotFoundError:
            raise ClusterError(
                f"cluster {name!r} is not up (no {facts})",
                remedy=f"run: python -m cluster up --name {name}",
            ) from None
        return cls(**{key: str(found[key]) for key in ("name", "situation", "engine", "context")})

    def save(self) -> None:
        """Write the handle, for other processes to :meth:`load`."""
        facts = self.state.facts
        facts.parent.mkdir(parents=True, exist_ok=True)
        facts.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @property
    def state(self) -> State:
        """The cluster's files."""
        return State.of(self.name)

    @property
    def private(self) -> bool:
        """Whether it runs in its own network namespace: then only :meth:`exec_argv` reaches it."""
        return self.situation == "private"

    def env(self) -> dict[str, str]:
        """The environment for a command: KUBECONFIG, and kubectl, helm and kind on the PATH."""
        env = dict(os.environ)
        env["KUBECONFIG"] = str(self.state.kubeconfig)
        env["PATH"] = f"{self.state.bin}{os.pathsep}{env.get('PATH', os.defpath)}"
        if self.private:
            env["DOCKER_HOST"] = f"unix://{self.state.docker_socket}"
            env["KIND_EXPERIMENTAL_PROVIDER"] = "docker"
            # A proxy of the machine can't reach into the namespace.
            for key in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
                env.pop(key, None)
                env.pop(key.lower(), None)
        elif self.engine:
            env["KIND_EXPERIMENTAL_PROVIDER"] = self.engine
        return env

    def exec_argv(self, argv: Sequence[str]) -> list[str]:
        """``argv`` so that it runs where the API, the pods and the services can be reached."""
        if not self.private:
            return list(argv)
        # Not `ip netns exec`: it remounts /sys and loses the cgroup mounts.
        return ["nsenter", f"--net={self.state.netns}", "--", *argv]

    def run(self, *argv: str, stdin: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command against the cluster and capture its output as text.

        Raises:
            ClusterError: the command failed and ``check`` is set.

        """
        done = subprocess.run(
            self.exec_argv(argv),
            input="" if stdin is None else stdin,
            env=self.env(),
            text=True,
            capture_output=True,
            check=False,
        )
        if check and done.returncode:
            raise ClusterError(
                f"`{' '.join(argv)}` on cluster {self.name!r} ended with {done.returncode}: "
                f"{(done.stderr or done.stdout).strip()[-2000:]}",
                remedy=f"see the message; `python -m cluster status --name {self.name}` "
                "shows whether the cluster itself is well",
            )
        return done

    def kubectl(self, *args: str, stdin: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run ``kubectl`` with ``args``; ``stdin`` is what ``-f -`` reads.

        Raises:
            ClusterError: kubectl failed and ``check`` is set.

        """
        return self.run("kubectl", *args, stdin=stdin, check=check)

    def load_image(self, *archives: Path, all_nodes: bool = False) -> None:
        """Put docker-archive files onto the worker (or ``all_nodes``); loaded content is skipped.

        Raises:
            ClusterError: a file is not a docker-archive, or a node refused it.

        """
        from cluster import images  # noqa: PLC0415 - images needs this module

        images.load(self, [Path(archive) for archive in archives], all_nodes=all_nodes)
