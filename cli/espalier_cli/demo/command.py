"""`espalier demo`: the product's whole loop on the cluster that kubectl points at, told as it happens."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Namespace = Annotated[
    str, typer.Option("--namespace", "-n", help="Namespace of the demo; made when missing, emptied first.")
]
Context = Annotated[str | None, typer.Option(help="Kube context; without it, kubectl's own default is used.")]
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
    from rich.console import Console

    from espalier_cli.demo.kubectl import DemoError, Kubectl
    from espalier_cli.demo.play import play
    from espalier_cli.demo.story import Story
    from espalier_cli.demo.world import Traffic

    console = Console(width=150, soft_wrap=True)
    story = Story(Kubectl(namespace, context), console, manifests)
    try:
        play(story, image, Traffic(rps=rps), picture)
    except DemoError as error:
        console.print(f"[red]The demo failed after {story.elapsed():.0f} s:[/red] {error}", highlight=False)
        raise typer.Exit(1) from error
