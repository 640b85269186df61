"""``python -m images``: lock, build, refs, list, tidy, clean."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from typing import TYPE_CHECKING

from cluster.errors import ClusterError
from cluster.progress import Progress
from images import catalog, engines, locks, store
from images.build import Workshop
from images.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Sequence


def parser() -> argparse.ArgumentParser:
    """The command line."""
    names = ", ".join(catalog.IMAGES)
    top = argparse.ArgumentParser(prog="python -m images", description="Container images without a registry.")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    how = argparse.ArgumentParser(add_help=False)
    how.add_argument("names", nargs="*", metavar="NAME", help=f"all if none is named: {names}")
    how.add_argument("--all", action="store_true", help="all images, which is also the default")
    how.add_argument("--engine", choices=("auto", *engines.ENGINES), help="default: docker or podman if it runs")
    how.add_argument("--base", metavar="BASE", help="public, local, or an image to build on (default: by the engine)")
    verbs.add_parser("build", parents=[how], help="build what is missing; prints NAME, reference and archive")
    verbs.add_parser("refs", parents=[how], help="print {name: reference} as JSON; builds nothing")
    verbs.add_parser("list", parents=[how], help="print what is built and what it weighs")
    lock = verbs.add_parser("lock", help="compile requirements/*.txt with hashes from pyproject.toml")
    lock.add_argument("names", nargs="*", metavar="NAME", help=", ".join(each.name for each in locks.LOCKS))
    lock.add_argument("--upgrade", nargs="*", metavar="PACKAGE", help="renew these pins, or all of them")
    verbs.add_parser("tidy", parents=[how], help="free disk: older archives, layers of builds that are done")
    verbs.add_parser("clean", help="delete archives, the local base and the builder's storage")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb and return the exit status."""
    arguments = parser().parse_args(argv)
    try:
        _run(arguments)
    except (ImageError, ClusterError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _run(arguments: argparse.Namespace) -> None:
    if arguments.verb == "lock":
        for path in locks.compile_all(arguments.names, Progress(), upgrade=arguments.upgrade):
            print(path.relative_to(catalog.REPO))
        return
    if arguments.verb == "clean":
        shutil.rmtree(store.folder(), ignore_errors=True)
        return
    workshop = Workshop.open(arguments.engine, arguments.base)
    names = [] if arguments.all else arguments.names
    if arguments.verb == "build":
        for archive in workshop.build(names, Progress()):
            print(f"{archive.name}\t{archive.ref}\t{archive.path}")
    elif arguments.verb == "tidy":
        workshop.tidy(Progress())
    elif arguments.verb == "refs":
        print(json.dumps(workshop.refs(names), indent=1))
    else:
        _list(workshop, names)


def _list(workshop: Workshop, names: Sequence[str]) -> None:
    """One line for each image: its reference, and its size or that it is not built."""
    for image in catalog.chosen(names):
        archive = workshop.archive(image)
        weight = f"{archive.size / 1e6:7.0f} MB" if archive.path.exists() else " not built"
        print(f"{weight}  {archive.ref}")
