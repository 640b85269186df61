"""Which of the three situations this is: a named context, an engine that runs, or neither."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cluster.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Callable

ENGINES = ("docker", "podman")


@dataclass(frozen=True)
class Situation:
    """What the cluster will run on.

    Attributes:
        kind: ``context``, ``engine`` or ``private``.
        engine: ``docker`` or ``podman``; on a private engine ``docker``.
        context: the kube context that was named, for ``context``.

    """

    kind: str
    engine: str = ""
    context: str = ""

    def __str__(self) -> str:
        """For people."""
        if self.kind == "context":
            return f"existing kube context {self.context!r}"
        if self.kind == "engine":
            return f"kind on {self.engine}"
        return "kind on a private Docker engine in its own network namespace"


def decide(*, context: str | None, engine: str, runs: Callable[[str], bool]) -> Situation:
    """Choose the situation.

    A context is used only when it is named: nothing is ever installed into
    whatever context happens to be current.

    Args:
        context: the kube context that was named, if any.
        engine: ``auto``, ``docker``, ``podman`` or ``private``.
        runs: whether an engine answers.

    Raises:
        ClusterError: an engine was asked for and does not answer, or both a context and an engine were named.

    """
    if context:
        if engine != "auto":
            raise ClusterError(
                f"both a context ({context!r}) and an engine ({engine!r}) are named",
                remedy="give --context for a cluster that exists, or --engine for one to make",
            )
        return Situation("context", context=context)
    if engine == "private":
        return Situation("private", engine="docker")
    if engine in ENGINES:
        if not runs(engine):
            raise ClusterError(
                f"`{engine} version` finds no engine that answers",
                remedy=f"start {engine}, or use --engine private (root on Debian 12) or --engine auto",
            )
        return Situation("engine", engine=engine)
    for candidate in ENGINES:
        if runs(candidate):
            return Situation("engine", engine=candidate)
    return Situation("private", engine="docker")


def runs(engine: str) -> bool:
    """Whether an engine answers; a client without a server does not count."""
    if not shutil.which(engine):
        return False
    # `docker version` fails without a server; podman has none, `info` proves that it can work.
    argv = [engine, "version"] if engine == "docker" else [engine, "info"]
    try:
        done = subprocess.run(
            argv, env=dict(os.environ), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=20, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0
