"""`espalier demo`: the product's whole loop on the cluster that kubectl points at, told as it happens."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from espalier_cli.demo.digits import NOISE_SHARE, Digits, load_digits
from espalier_cli.demo.kubectl import DemoError, Kubectl
from espalier_cli.demo.picture import REQUESTS, WRONG, draw, rates
from espalier_cli.demo.story import Story, accuracy, first_act, second_act, third_act, version_named
from espalier_cli.demo.world import (
    STACK,
    Traffic,
    forget_versions,
    prepare,
    require_installed,
    start_traffic,
    stop_traffic,
    traffic_report,
)

Namespace = Annotated[
    str, typer.Option("--namespace", "-n", help="Namespace of the demo; made when missing, emptied first.")
]
Context = Annotated[
    str | None, typer.Option(help="Kube context. Never guessed: without it, kubectl's own default is used.")
]
Manifests = Annotated[Path, typer.Option(help="Folder of the quickstart's manifests.")]
Image = Annotated[str, typer.Option("--loadgen-image", help="Image of the load generator (python -m images refs).")]
Picture = Annotated[Path, typer.Option(help="Where the picture of the run goes.")]
Rps = Annotated[int, typer.Option(min=5, max=500, help="Requests per second of the live traffic.")]


def demo(
    image: Image,
    namespace: Namespace = "vision",
    context: Context = None,
    manifests: Manifests = Path("examples/quickstart"),
    picture: Picture = Path("espalier-demo.png"),
    rps: Rps = 60,
) -> None:
    """Train without regularizers, train along a cocktail, canary it, then ship a bad version and watch it be undone.

    Fails (exit 1) when the cluster does anything else than the product promises. Nothing is scripted to a result.
    """
    console = Console(width=150, soft_wrap=True)
    kube = Kubectl(namespace, context)
    story = Story(kube, console, manifests)
    digits = load_digits()
    started = time.time()
    try:
        require_installed(kube)
        versions = _play(story, digits, image, Traffic(rps=rps))
        console.print(_table(story, versions))
        _draw(story, picture, started)
        console.print(_farewell(namespace, picture))
    except DemoError as error:
        console.print(f"[red]The demo failed after {story.elapsed():.0f} s:[/red] {error}", highlight=False)
        raise typer.Exit(1) from error
    finally:
        stop_traffic(kube)


def _play(story: Story, digits: Digits, image: str, traffic: Traffic) -> tuple[str, str, str]:
    """The three acts, under live traffic from the first champion on. Returns the three versions."""
    _empty(story)
    story.tell(
        f"Data: {len(digits.labels)} handwritten digits in a snapshot ({digits.randomised} training labels randomised, "
        f"{NOISE_SHARE:.0%}), {len(digits.live_labels)} others for live traffic"
    )
    prepare(story.kube, digits)
    _title(story, "(a) a model without regularizers becomes champion")
    plain = first_act(story)
    start_traffic(story.kube, digits, image, traffic)
    story.tell(
        f"traffic    {traffic.rps} requests/s through the gateway; feedback {traffic.feedback_delay:.0f} s later"
    )
    _title(story, "(b) the same model along regularizers: trained, gated, promoted through a canary")
    good = second_act(story, plain)
    _title(story, "(c) a version that passes its offline gates and is bad in production")
    bad = third_act(story, good)
    story.tell(f"served     {_served(traffic_report(story.kube))}")
    return plain, good, bad


def _empty(story: Story) -> None:
    """Remove what an earlier demo left, so that a second run tells the same story from the start."""
    kube = story.kube
    stop_traffic(kube)
    for kind in ("canaryrollouts.espalier.dev", "regularizedmodels.espalier.dev"):
        kube.run("delete", kind, "--all", "--ignore-not-found", "--wait=true", "--timeout=60s", check=False)
    kube.run(
        "delete",
        "deployments,services,configmaps,httproutes",
        "--selector",
        "app.kubernetes.io/managed-by=espalier",
        "--ignore-not-found",
        check=False,
    )
    forget_versions(kube, story.name)


def _title(story: Story, text: str) -> None:
    story.console.print()
    story.console.rule(text, align="left")


def _served(report: dict[str, object]) -> str:
    """The load generator's own count, per version: it is the client's view, not Espalier's."""
    versions = report.get("versions")
    if not isinstance(versions, dict):
        return "no report of the load generator"
    parts = [
        f"{name}: {seen.get('requests', 0)} requests, {seen.get('errors', 0)} errors, accuracy {seen.get('accuracy', float('nan')):.3f}"
        for name, seen in sorted(versions.items())
    ]
    return "; ".join(parts)


def _table(story: Story, versions: tuple[str, str, str]) -> Table:
    model, rollout = story.look()
    seen = traffic_report(story.kube).get("versions", {})
    history = {entry["version"]: entry for entry in reversed((rollout.get("status") or {}).get("history") or [])}
    table = Table(
        "version", "what", "offline accuracy", "live accuracy", "requests", "state", "why", title="What happened"
    )
    for name, what in zip(
        versions, ("no regularizers", "regularized", "regularized, pixels in another scale"), strict=True
    ):
        version = version_named(model, name)
        live = seen.get(name, {})
        why = history.get(name, {})
        table.add_row(
            name,
            what,
            f"{accuracy(version):.3f}",
            f"{live['accuracy']:.3f}" if "accuracy" in live else "-",
            str(live.get("requests", "-")),
            version["state"],
            f"{why.get('outcome', '')} {why.get('reason', '')}".strip(),
        )
    return table


def _draw(story: Story, picture: Path, started: float) -> None:
    """Ask Prometheus for the per-arm rates of the run and save the picture."""
    with Kubectl(STACK, story.kube.context).forward("svc/prometheus", 9090) as url:
        now = time.time()
        requests = rates(url, REQUESTS, story.kube.namespace, started, now)
        wrong = rates(url, WRONG, story.kube.namespace, started, now)
    draw(picture, story.timeline.samples, requests, wrong)


def _farewell(namespace: str, picture: Path) -> str:
    return (
        f"\n[bold]The picture is in {picture}.[/bold] Look around (in the demo's own cluster, prefix with `python -m cluster exec --`):\n"
        f"  kubectl -n {namespace} get regularizedmodels,canaryrollouts\n"
        f"  kubectl -n {namespace} describe canaryrollout digits\n"
        f"  kubectl -n {namespace} get events --sort-by=.lastTimestamp\n"
        f"Tear down: `make cluster-down` (or: kubectl delete namespace {namespace})"
    )
