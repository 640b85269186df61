"""What builds images: buildah without a daemon, or the docker or podman that runs anyway."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cluster.paths import state_root
from cluster.situation import runs
from images import command, packages
from images.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cluster.progress import Progress

ENGINES = ("buildah", "docker", "podman")
VARIABLE = "ESPALIER_IMAGES_ENGINE"
_REFERENCE = "{{.Name}}:{{.Tag}}"
_CERTIFICATES = Path("/etc/ssl/certs")


@dataclass(frozen=True)
class Job:
    """One build.

    Attributes:
        ref: the name of the result.
        dockerfile: what to do.
        context: the folder that COPY reads.
        arguments: build arguments.
        log: where the output goes.
        target: the stage to build; the last if empty.

    """

    ref: str
    dockerfile: Path
    context: Path
    arguments: Mapping[str, str]
    log: Path
    target: str = ""

    def flags(self) -> list[str]:
        """What buildah, docker and podman take alike."""
        arguments = [f for key, value in sorted(self.arguments.items()) for f in ("--build-arg", f"{key}={value}")]
        target = ["--target", self.target] if self.target else []
        return [*arguments, *target, "--file", str(self.dockerfile), "--tag", self.ref, str(self.context)]


class Engine(Protocol):
    """What the builder needs of an engine. Every method but :meth:`has` raises ImageError."""

    @property
    def name(self) -> str:
        """One of :data:`ENGINES`."""

    def prepare(self, progress: Progress) -> None:
        """Make sure that the engine can work."""

    def has(self, ref: str) -> bool:
        """Whether it holds the image ``ref``."""

    def import_root(self, root: Path, ref: str, log: Path) -> None:
        """Make the image ``ref`` of a tar of a root filesystem."""

    def build(self, job: Job, progress: Progress) -> None:
        """Build an image; layers of earlier builds are reused."""

    def save(self, ref: str, target: Path, log: Path) -> None:
        """Write a docker-archive: not compressed, which is quicker to write and to load than to compress."""

    def tags(self, path: str) -> list[str]:
        """The references that it holds of an image's path without tag."""

    def remove(self, ref: str) -> None:
        """Forget an image; not an error if it isn't there."""

    def tidy(self) -> None:
        """Forget the layers that only a repeated build of dependencies could use again."""


@dataclass(frozen=True)
class Buildah:
    """buildah with chroot isolation: needs root, and nothing else of the machine.

    Attributes:
        folder: its storage lies here, apart from any other buildah or podman of the machine.

    """

    folder: Path
    name: str = "buildah"

    def argv(self, *args: str) -> list[str]:
        """The command with our own storage."""
        where = ["--root", str(self.folder / "storage"), "--runroot", str(self.folder / "run")]
        return ["buildah", *where, "--storage-driver", "overlay", *args]

    def prepare(self, progress: Progress) -> None:
        """Install buildah, if it is missing, and make its folders."""
        packages.need("buildah", progress)
        if os.geteuid() != 0:
            raise ImageError(
                "buildah with chroot isolation needs root", remedy="run it as root, or start docker or podman"
            )
        for name in ("storage", "run"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)

    def has(self, ref: str) -> bool:
        """Ask the storage."""
        return bool(command.output(self.argv("images", "--quiet", ref)).strip())

    def import_root(self, root: Path, ref: str, log: Path) -> None:
        """Add the tar to an empty container and commit that."""
        container = command.output(self.argv("from", "scratch")).strip()
        remedy = "see the log; `python -m images clean` starts afresh"
        try:
            for args in (("add", "--quiet", container, str(root), "/"), ("commit", "--quiet", container, ref)):
                command.run(self.argv(*args), log=log, what=f"import of {ref}", remedy=remedy)
        finally:
            command.output(self.argv("rm", container))

    def build_argv(self, job: Job) -> list[str]:
        """The build. The machine's CA folder is lent to it: pip and apt then trust what the machine trusts."""
        lent = ["--volume", f"{_CERTIFICATES}:{_CERTIFICATES}:ro"] if _CERTIFICATES.is_dir() else []
        return self.argv("bud", "--layers", "--force-rm", "--isolation", "chroot", *lent, *job.flags())

    def build(self, job: Job, progress: Progress) -> None:
        """Run the build."""
        command.run(
            self.build_argv(job), log=job.log, what=f"build of {job.ref}", progress=progress,
            remedy="see the log; a certificate error: put the CA into /etc/ssl/certs (update-ca-certificates)",
        )  # fmt: skip

    def save(self, ref: str, target: Path, log: Path) -> None:
        """Push into a docker-archive."""
        argv = self.argv("push", "--quiet", ref, f"docker-archive:{target}:{ref}")
        command.run(argv, log=log, what=f"archive of {ref}", remedy="see the log; is the disk full? (df -h)")

    def tags(self, path: str) -> list[str]:
        """Ask the storage."""
        return command.output(self.argv("images", "--format", _REFERENCE, path)).split()

    def remove(self, ref: str) -> None:
        """Delete the image and the layers that only it had."""
        command.output(self.argv("rmi", ref))

    def tidy(self) -> None:
        """The storage is ours alone, so everything without a name is ours."""
        command.output(self.argv("rmi", "--prune"))


@dataclass(frozen=True)
class Daemon:
    """docker or podman."""

    name: str

    def prepare(self, progress: Progress) -> None:
        """Ask whether it answers."""
        if not runs(self.name):
            raise ImageError(
                f"`{self.name}` finds no engine that answers",
                remedy=f"start {self.name}, or choose another by {VARIABLE}: {', '.join(ENGINES)}",
            )

    def has(self, ref: str) -> bool:
        """Ask the engine."""
        return bool(command.output([self.name, "images", "--quiet", ref]).strip())

    def import_root(self, root: Path, ref: str, log: Path) -> None:
        """Import the tar."""
        command.run([self.name, "import", str(root), ref], log=log, what=f"import of {ref}", remedy="see the log")

    def build_argv(self, job: Job) -> list[str]:
        """The build."""
        return [self.name, "build", *job.flags()]

    def build(self, job: Job, progress: Progress) -> None:
        """Run the build."""
        command.run(
            self.build_argv(job), log=job.log, what=f"build of {job.ref}", progress=progress,
            remedy=f"see the log; no registry in reach: {VARIABLE}=buildah, or --base local",
        )  # fmt: skip

    def save(self, ref: str, target: Path, log: Path) -> None:
        """Save a docker-archive, which is docker's only format and podman's default."""
        argv = [self.name, "save", "--output", str(target), ref]
        command.run(argv, log=log, what=f"archive of {ref}", remedy="see the log; is the disk full? (df -h)")

    def tags(self, path: str) -> list[str]:
        """Ask the engine."""
        return command.output(
            [self.name, "images", "--format", _REFERENCE.replace(".Name", ".Repository"), path]
        ).split()

    def remove(self, ref: str) -> None:
        """Untag; the engine's own pruning takes the layers."""
        command.output([self.name, "rmi", ref])

    def tidy(self) -> None:
        """Nothing: images without a name may be somebody else's."""


def decide(wanted: str, *, answers: Callable[[str], bool], docker_host: str = "") -> str:
    """The engine's name.

    Args:
        wanted: ``auto``, or one of :data:`ENGINES`.
        answers: whether docker or podman runs.
        docker_host: ``DOCKER_HOST``. The private engine of a test cluster has no way out to fetch anything, so it
            never builds: otherwise the same command would give other tags inside `python -m cluster exec`.

    Raises:
        ImageError: there is no such engine.

    """
    if wanted in ENGINES:
        return wanted
    if wanted != "auto":
        raise ImageError(f"there is no engine {wanted!r}", remedy=f"use auto or one of: {', '.join(ENGINES)}")
    private = str(state_root()) in docker_host
    for candidate in ("docker", "podman"):
        if not (candidate == "docker" and private) and answers(candidate):
            return candidate
    return "buildah"


def find(folder: Path, wanted: str | None = None) -> Engine:
    """The engine to use: as asked for, as the environment says, or what runs."""
    choice = wanted or os.environ.get(VARIABLE) or "auto"
    if choice == "auto" and shutil.which("docker") is None and shutil.which("podman") is None:
        choice = "buildah"
    name = decide(choice, answers=runs, docker_host=os.environ.get("DOCKER_HOST", ""))
    return Buildah(folder) if name == "buildah" else Daemon(name)
