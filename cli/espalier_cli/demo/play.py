"""How the demo runs: the three acts under live traffic, then the table and the picture."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.table import Table

from espalier_cli.demo.digits import NOISE_SHARE, Digits, load_digits
from espalier_cli.demo.kubectl import Kubectl
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

if TYPE_CHECKING:
    from pathlib import Path

AFTERMATH = 8.0  # seconds of traffic after the rollback: the picture shows that the champion has it


def play(story: Story, image: str, traffic: Traffic, picture: Path) -> None:
    """The whole demo. Raises DemoError when the cluster does anything else than the product promises."""
    started = time.time()
    require_installed(story.kube)
    try:
        versions = _acts(story, load_digits(), image, traffic)
        story.console.print(_table(story, versions))
        _draw(story, picture, started)
        story.console.print(_farewell(story.kube.namespace, picture))
    finally:
        stop_traffic(story.kube)


def _acts(story: Story, digits: Digits, image: str, traffic: Traffic) -> tuple[str, str, str]:
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
    story.watch(AFTERMATH)
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
