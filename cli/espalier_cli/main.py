"""The command line: `espalier`, and `kubectl espalier` when kubectl finds kubectl-espalier on PATH."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from espalier_cli.completion import names, rules
from espalier_cli.errors import CliError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from espalier_api.training import TrainingProgress
    from espalier_cli.objects import Objects

app = typer.Typer(
    help="Espalier: models trained along declared regularizers, shipped through canaries, undone when they breach.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
REFRESH_SECONDS = 1.0
PIPED_WIDTH = 180
COLOURS = {"error": "red", "warning": "yellow", "automatic": "cyan"}
"""Of a remark's level."""


Name = Annotated[str, typer.Argument(help="Name of a CanaryRollout, or of its model.", autocompletion=names)]
ModelName = Annotated[str, typer.Argument(help="Name of a RegularizedModel.", autocompletion=names)]
OptionalName = Annotated[str | None, typer.Argument(help="A model; without it, all of them.", autocompletion=names)]
Namespace = Annotated[str | None, typer.Option("--namespace", "-n", help="Namespace; default is the context's.")]
Context = Annotated[str | None, typer.Option(help="Context of the kubeconfig; default is the current one.")]
Timeout = Annotated[float, typer.Option(min=1, help="Seconds to wait for the controller's answer.")]


@app.command()
def get(
    name: OptionalName = None,
    namespace: Namespace = None,
    context: Context = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Keep looking, until Ctrl-C.")] = False,
) -> None:
    """Show all models with their canaries, or one: steps, evidence, counts, time left, versions, history."""
    objects = _objects(namespace, context)
    console = _console()
    if not watch:
        console.print(_look(objects, name))
        return
    from rich.live import Live

    with Live(_look(objects, name), console=console, auto_refresh=False, screen=False) as live:
        try:
            while True:
                time.sleep(REFRESH_SECONDS)
                live.update(_look(objects, name), refresh=True)
        except KeyboardInterrupt:
            return


@app.command()
def promote(
    name: Name,
    namespace: Namespace = None,
    context: Context = None,
    timeout: Timeout = 30,
    full: Annotated[bool, typer.Option("--full", help="Skip all remaining steps and go to 100 % at once.")] = False,
) -> None:
    """Go on to the next step now: ends a pause, a hold or a step's time."""
    _ask(namespace, context, name, "promote-full" if full else "promote", timeout)


@app.command()
def abort(name: Name, namespace: Namespace = None, context: Context = None, timeout: Timeout = 30) -> None:
    """End the canary: stable takes all traffic back."""
    _ask(namespace, context, name, "abort", timeout)


@app.command()
def retry(
    name: Name,
    namespace: Namespace = None,
    context: Context = None,
    timeout: Timeout = 30,
    training: Annotated[
        bool, typer.Option("--training", help="Retry the model's failed training instead of a canary.")
    ] = False,
) -> None:
    """Give a rolled-back or aborted version another canary; it is recorded who asked."""
    if training:
        from espalier_cli.requests import retry_training

        Console().print(retry_training(_objects(namespace, context), name))
        return
    _ask(namespace, context, name, "retry", timeout)


@app.command()
def pause(name: Name, namespace: Namespace = None, context: Context = None, timeout: Timeout = 30) -> None:
    """Stand still at the current weight; a Fail still rolls back."""
    _ask(namespace, context, name, "pause", timeout)


@app.command()
def resume(name: Name, namespace: Namespace = None, context: Context = None, timeout: Timeout = 30) -> None:
    """Go on after a pause."""
    _ask(namespace, context, name, "resume", timeout)


@app.command("skip-step")
def skip_step(name: Name, namespace: Namespace = None, context: Context = None, timeout: Timeout = 30) -> None:
    """Leave the rest of this step out."""
    _ask(namespace, context, name, "skip-step", timeout)


@app.command()
def lint(
    files: Annotated[
        list[Path] | None,
        typer.Option(
            "--filename", "-f", help="Manifest, folder of manifests, or - for standard input.", allow_dash=True
        ),
    ] = None,
    explain: Annotated[
        str | None,
        typer.Option(help="Explain a rule instead, e.g. R11.", metavar="RULE", autocompletion=rules),
    ] = None,
) -> None:
    """Check manifests without a cluster: schema, cross-field rules and every validator rule, each with its fix. Exit 1 on errors."""
    from espalier_cli.linting import lint as look

    console = Console(soft_wrap=True, highlight=False)
    if explain is not None:
        from espalier_cli.explain import explain as explained

        console.print(explained(explain), markup=False)
        return
    if not files:
        raise typer.BadParameter("give manifests with -f FILE, or a rule with --explain RULE")
    report = look(files)
    for remark in report.remarks:
        colour = COLOURS[remark.level]
        console.print(f"[{colour}]{remark.level}[/{colour}] {remark.source}: ", end="")
        console.print(str(remark), markup=False)
    if report.objects == 0:
        raise CliError(f"no object of espalier.dev in {', '.join(map(str, files))}")
    errors = sorted({remark.rule for remark in report.remarks if remark.level == "error"})
    console.print(
        f"{report.objects} object{'s' if report.objects > 1 else ''}: {'refused by ' + ', '.join(errors) if errors else 'accepted'}"
    )
    if report.failed:
        raise typer.Exit(1)


@app.command()
def train(
    file: Annotated[
        Path, typer.Option("--filename", "-f", help="Manifest with one RegularizedModel.", exists=True, dir_okay=False)
    ],
    data: Annotated[Path, typer.Option(help="Folder or file with the snapshot, instead of spec.data.snapshot.uri.")],
    out: Annotated[Path, typer.Option(help="Folder for versions: <out>/<namespace>/<name>/v<N>/.")] = Path("artifacts"),
) -> None:
    """Train on this machine, without a cluster: the same trainer, rules, search, artifact and gates. Exit 1 when one fails."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from espalier_cli import train as local_training

    console = Console(highlight=False)
    model = local_training.model_of(file)
    local_training.check_installed(next(iter(model.spec.engine.chosen())))
    local = local_training.Local(data, out)
    job = local_training.job_of(model, local)
    if model.spec.artifacts.signing is not None:
        console.print("artifacts.signing: local versions are not signed", markup=False)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("Starting", total=1.0)

        def tell(now: TrainingProgress) -> None:
            trials = (
                f" trial {now.trials.done + 1} of {now.trials.total}" if now.phase == "Searching" and now.trials else ""
            )
            bar.update(task, completed=now.progress, description=f"{now.phase}{trials}")

        result = local_training.train(job, local, tell, lambda words: console.print(words, markup=False))
    if result.exit_code:
        raise CliError(f"{result.reason} (exit {result.exit_code}): {result.message}")
    numbers, gates, met = local_training.report(model, local, job.version)
    console.print(numbers)
    if gates is not None:
        console.print(gates)
    for found in result.diagnosis:
        console.print(f"{found.mode}: {found.evidence}; {found.suggestion}", markup=False)
    console.print(f"{local.place(model) / job.version}  {result.digest}", markup=False, soft_wrap=True)
    if not met:
        raise typer.Exit(1)


@app.command()
def diff(
    name: ModelName,
    older: Annotated[str, typer.Argument(help="A version, e.g. v3.")],
    newer: Annotated[str, typer.Argument(help="Another one, e.g. v4.")],
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """Compare two versions: digests, data, seed and every metric with its interval."""
    from espalier_cli.compare import compare

    _console().print(compare(_objects(namespace, context).get("RegularizedModel", name), older, newer))


def _ask(namespace: str | None, context: str | None, name: str, verb: str, timeout: float) -> None:
    from espalier_cli.requests import ask

    Console(highlight=False).print(f"{verb} {name}: {ask(_objects(namespace, context), name, verb, timeout=timeout)}")


def _look(objects: Objects, name: str | None) -> RenderableType:
    from espalier_cli.views import detail, table

    now = datetime.now(UTC)
    if name is None:
        if not (models := objects.list("RegularizedModel")):
            return f"No RegularizedModel in namespace {objects.namespace}."
        return table(models, objects.list("CanaryRollout"), now)
    model = objects.find("RegularizedModel", name)
    if model is None and (rollout := objects.find("CanaryRollout", name)) is not None:
        model = objects.get("RegularizedModel", rollout["spec"]["modelRef"]["name"])
    if model is None:
        model = objects.get("RegularizedModel", name)
    return detail(model, objects.rollout_of(model["metadata"]["name"]), now)


def _console() -> Console:
    """As wide as the terminal; wide enough for every column where there is none."""
    return Console() if sys.stdout.isatty() else Console(width=PIPED_WIDTH)


def _objects(namespace: str | None, context: str | None) -> Objects:
    from espalier_cli.objects import Objects

    return Objects.connect(namespace, context)


def _register_demo() -> None:
    """The demo brings libraries for data and pictures; only its own call pays for them."""
    if "demo" in sys.argv[1:2]:
        from espalier_cli.demo.command import demo

        app.command()(demo)
    else:
        text = "Play the whole story on a cluster: train, canary, breach, rollback. See `espalier demo --help`."
        app.command("demo", help=text)(_demo_stub)


def _demo_stub() -> None:
    """Only its name and help are ever used."""


def run() -> None:
    """Entry point. A CliError is one line on stderr and exit status 1."""
    _register_demo()
    program = "kubectl espalier" if Path(sys.argv[0]).name.startswith("kubectl-") else "espalier"
    try:
        app(prog_name=program)
    except CliError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"[red]error:[/red] {error}")
        raise SystemExit(1) from error
