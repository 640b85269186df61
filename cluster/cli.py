"""The commands of ``python -m cluster``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cluster import down, gobuild, images, situation, status, up
from cluster.errors import ClusterError
from cluster.handle import Cluster
from cluster.parts import PARTS
from cluster.paths import DEFAULT_NAME
from cluster.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

EPILOG = """\
situations of `up`, chosen in this order:
  --context NAME   a cluster that exists; never used unless named
  an engine        docker or podman that answers: kind with its own node image
  neither          root on Debian 12: a private Docker engine in its own network
                   namespace, node image built from Go modules (10-20 minutes the
                   first time, under 2 minutes with a warm cache)

examples:
  python -m cluster up
  python -m cluster exec -- kubectl get pods --all-namespaces
  python -m cluster load-image build/operator.tar
  python -m cluster down
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        return command(arguments)
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command resumes", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m cluster",
        description="A real kind cluster, also on a bare host without an engine.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--name", default=DEFAULT_NAME, help="the cluster's name (default: %(default)s)")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, parents=[common], help=text, description=text)
        made.set_defaults(command=command)
        return made

    _up_options(add("up", _up, "bring the cluster up; a second time takes seconds"))
    add("down", _down, "take it away: no process, mount, namespace, cgroup or setting stays").add_argument(
        "--purge", action="store_true", help="also remove the private engine's images"
    )
    add("status", _status, "how it is").add_argument("--json", action="store_true", help="for programs")
    load = add("load-image", _load_image, "put docker-archive files onto the workers; loaded content is skipped")
    load.add_argument("archives", nargs="+", type=Path, metavar="FILE", help="a docker-archive (docker save)")
    load.add_argument("--all-nodes", action="store_true", help="onto the control plane as well")
    add("kubeconfig", _kubeconfig, "print the kubeconfig's path")
    run = add("exec", _exec, "run a command where the cluster can be reached, with KUBECONFIG and PATH set")
    run.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- CMD ...", help="the command")
    build = add("build", _build, "build Go parts and print their programs; cached by content")
    build.add_argument("parts", nargs="+", choices=sorted(PARTS), metavar="PART", help=", ".join(sorted(PARTS)))
    return top


def _up_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--context", help="use this existing kube context instead of making a cluster")
    command.add_argument(
        "--engine",
        choices=["auto", *situation.ENGINES, "private"],
        default="auto",
        help="what kind runs on (default: %(default)s)",
    )
    command.add_argument(
        "--no-stack", action="store_true", help="without Gateway API, Contour, Prometheus and object store"
    )


def _up(arguments: argparse.Namespace) -> int:
    chosen = situation.decide(context=arguments.context, engine=arguments.engine, runs=situation.runs)
    up.up(arguments.name, chosen, stack=not arguments.no_stack, progress=Progress())
    return 0


def _down(arguments: argparse.Namespace) -> int:
    down.down(arguments.name, purge=arguments.purge, progress=Progress())
    return 0


def _status(arguments: argparse.Namespace) -> int:
    found = status.read(arguments.name)
    print(json.dumps(found.as_dict(), indent=1) if arguments.json else found.text())
    return 0 if found.state == "up" else 3


def _load_image(arguments: argparse.Namespace) -> int:
    progress = Progress()
    cluster = Cluster.load(arguments.name)
    with progress.step(f"load {len(arguments.archives)} archive(s)"):
        sent = images.load(cluster, arguments.archives, all_nodes=arguments.all_nodes)
    skipped = [file.name for file in arguments.archives if file not in sent]
    if skipped:
        progress.say(f"already there: {', '.join(skipped)}")
    return 0


def _kubeconfig(arguments: argparse.Namespace) -> int:
    print(Cluster.load(arguments.name).state.kubeconfig)
    return 0


def _exec(arguments: argparse.Namespace) -> int:
    command = arguments.argv[1:] if arguments.argv[:1] == ["--"] else arguments.argv
    if not command:
        raise ClusterError("exec has no command to run", remedy="python -m cluster exec -- kubectl get nodes")
    cluster = Cluster.load(arguments.name)
    argv, env = cluster.exec_argv(command), cluster.env()
    # This process becomes the command: exit code and signals are its own.
    try:
        os.execvpe(argv[0], argv, env)  # noqa: S606 - the purpose of this command
    except FileNotFoundError:
        raise ClusterError(f"there is no program {argv[0]!r}", remedy="check its name and the PATH") from None


def _build(arguments: argparse.Namespace) -> int:
    progress = Progress()
    for part in arguments.parts:
        print(gobuild.build(part, progress=progress))
    return 0
