"""Build the Go parts, once per content.

``build("contour")`` answers the path of a static binary; the second call with
the same go.mod, go.sum, flags and toolchain answers at once from
``$ESPALIER_CACHE/bin/<part>-<hash>/``, where the two last used of each part
are kept. Go's own module and build caches are
used as they are, so that a changed flag costs a relink and no download.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from cluster import lock, prune
from cluster.errors import ClusterError
from cluster.parts import PARTS, Part
from cluster.paths import GO_PARTS, cache_root
from cluster.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Sequence

GO_REMEDY = "install Go 1.26 or newer and put it on the PATH"


def build(part: str, *, progress: Progress | None = None) -> Path:
    """Build a part if its binaries aren't cached, and return its main program.

    Args:
        part: a folder of ``cluster/go``, such as ``contour``, ``helm`` or ``kube``.
        progress: where to print; standard error by default.

    Raises:
        ClusterError: there is no such part, no Go, or the build failed.

    """
    known = _part(part)
    return build_all(part, progress=progress) / known.main


def build_all(part: str, *, progress: Progress | None = None) -> Path:
    """Like :func:`build`, but return the folder with all programs of the part."""
    known = _part(part)
    target = cache_root() / "bin" / f"{part}-{known.key(toolchain())}"
    if _complete(target, known):
        os.utime(target)  # what is used is not old
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    # Another process may be building the same: wait for it and use its result.
    with lock.held(target.with_suffix(".lock"), what=f"build of {part}", wait=True):
        if not _complete(target, known):
            with (progress or Progress()).step(f"build {part} {_label(known)}"):
                _compile(known, target)
                prune.older(target)
    return target


def module_dir(part: str, module: str) -> Path:
    """The source folder of a module that ``part``'s go.mod requires, downloaded if need be.

    The Gateway API's CRDs are ``module_dir("gatewayapi", "sigs.k8s.io/gateway-api")
    / "config/crd/standard"``; Contour's own are under ``examples/contour`` of
    ``module_dir("contour", "github.com/projectcontour/contour")``.
    """
    folder = GO_PARTS / part
    if not (folder / "go.mod").is_file():
        raise ClusterError(
            f"there is no Go part {part!r}",
            remedy=f"use one of: {', '.join(sorted(p.parent.name for p in GO_PARTS.glob('*/go.mod')))}",
        )
    _go(["mod", "download", module], folder)
    found = _go(["list", "-m", "-f", "{{.Dir}}", module], folder).strip()
    if not found:
        raise ClusterError(
            f"module {module} of cluster/go/{part} has no source folder",
            remedy=f"cd cluster/go/{part} && go mod download {module}",
        )
    return Path(found)


@functools.cache
def toolchain() -> str:
    """What ``go version`` answers.

    Raises:
        ClusterError: Go is missing.

    """
    return _go(["version"], GO_PARTS).strip()


def _part(name: str) -> Part:
    try:
        return PARTS[name]
    except KeyError:
        raise ClusterError(
            f"there is no Go part {name!r} to build", remedy=f"use one of: {', '.join(sorted(PARTS))}"
        ) from None


def _label(part: Part) -> str:
    return part.version() if part.module else ""


def _complete(target: Path, part: Part) -> bool:
    return all((target / program).is_file() for program in part.programs)


def _compile(part: Part, target: Path) -> None:
    """Build into a sibling folder and rename, so that a killed build leaves no half result."""
    fresh = target.with_name(f".{target.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    if len(part.programs) == 1:
        (name, package), *_ = part.programs.items()
        output, packages = fresh / name, [package]
    else:
        # With a folder as output, each program is named after its package's last element.
        output, packages = fresh, list(part.programs.values())
    _go(
        [
            "build",
            "-trimpath",
            "-buildvcs=false",
            *(["-tags", ",".join(part.tags)] if part.tags else []),
            "-ldflags",
            part.ldflags(),
            "-o",
            str(output),
            *packages,
        ],
        part.folder,
    )
    if not _complete(fresh, part):
        raise ClusterError(
            f"the build of {part.name} left {sorted(f.name for f in fresh.iterdir())}, "
            f"expected {sorted(part.programs)}",
            remedy="compare the programs in cluster/parts.py with the tool lines in its go.mod",
        )
    fresh.rename(target)


def go_env() -> dict[str, str]:
    """The environment for Go: static binaries, our pinned sums, no toolchain download."""
    return {
        **os.environ,
        "GOTOOLCHAIN": "local",
        "CGO_ENABLED": "0",
        "GOFLAGS": "-mod=readonly",
        "GOWORK": "off",
    }


def _go(args: Sequence[str], folder: Path) -> str:
    if not shutil.which("go"):
        raise ClusterError("`go` is not on the PATH", remedy=GO_REMEDY)
    done = subprocess.run(
        ["nice", "-n", "10", "go", *args],
        cwd=folder,
        env=go_env(),
        text=True,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise ClusterError(
            f"`go {args[0]}` in {folder.name} ended with {done.returncode}: {done.stderr[-3000:]}",
            remedy="a network error: run it again, it resumes; a compile error: check that "
            "`go version` is at least the go line of its go.mod",
        )
    return done.stdout
