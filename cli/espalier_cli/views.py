"""What `espalier get` shows: a table of all models, or one model with its canary, evidence, versions and history."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from espalier_api.model import RegularizedModelStatus
from espalier_api.rollout import CanaryRolloutSpec, CanaryRolloutStatus
from espalier_cli.texts import age, evidence_bar, left, number, share_bar

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from espalier_api.conditions import Condition
    from espalier_cli.objects import Object

COLOURS = {"True": "green", "False": "red", "Unknown": "yellow"}
STATE_COLOURS = {
    "Champion": "green",
    "Candidate": "cyan",
    "Canary": "cyan",
    "Rejected": "red",
    "Failed": "red",
    "Quarantined": "red",
    "Pass": "green",
    "Breach": "red",
    "NoData": "yellow",
    "SourceDown": "yellow",
    "Inconclusive": "yellow",
}
SHOWN_HISTORY = 5
SHOWN_METRICS = 4
SHOWN_SEARCHES = 2


def table(models: list[Object], rollouts: list[Object], now: datetime) -> Table:
    """One line per model, with its canary."""
    by_model = {rollout["spec"]["modelRef"]["name"]: rollout for rollout in rollouts}
    result = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("MODEL", "READY", "REASON", "NEWEST", "STATE", "CHAMPION", "CANARY", "WEIGHT", "STEP", "SLI", "AGE"):
        result.add_column(name, no_wrap=True)
    for model in models:
        name = model["metadata"]["name"]
        status = RegularizedModelStatus.model_validate(model.get("status") or {})
        rollout = by_model.get(name)
        canary = CanaryRolloutStatus.model_validate((rollout or {}).get("status") or {})
        ready = _condition(status.conditions, "Ready")
        newest = status.versions[0] if status.versions else None
        result.add_row(
            name,
            _coloured(ready.status if ready else "Unknown", COLOURS),
            ready.reason if ready else "-",
            newest.version if newest else "-",
            _coloured(newest.state if newest else "-", STATE_COLOURS),
            canary.aliases.champion or (status.champion.version if status.champion else "-"),
            canary.phase or ("-" if rollout else "no rollout"),
            canary.columns.weight or "-",
            canary.columns.step or "-",
            canary.columns.sli or "-",
            age(model["metadata"].get("creationTimestamp"), now),
        )
    return result


def detail(model: Object, rollout: Object | None, now: datetime) -> RenderableType:
    """One model, from top to bottom in the order in which a person on call asks."""
    status = RegularizedModelStatus.model_validate(model.get("status") or {})
    name = f"{model['metadata'].get('namespace', 'default')}/{model['metadata']['name']}"
    parts: list[RenderableType] = [Text(f"RegularizedModel {name}", style="bold")]
    parts += _conditions(status.conditions, now)
    parts += _training(status)
    if rollout is None:
        parts.append(Text("\nNo CanaryRollout refers to this model: candidates wait.", style="yellow"))
    else:
        parts += _rollout(rollout, now)
    parts += _versions(status, now)
    parts += _searches(status)
    return Group(*parts)


def _conditions(conditions: tuple[Condition, ...], now: datetime) -> Iterator[RenderableType]:
    grid = Table(box=None, pad_edge=False, show_header=False)
    for no_wrap in (True, True, True, True, False):
        grid.add_column(no_wrap=no_wrap, overflow="fold")
    for condition in conditions:
        since = age(condition.last_transition_time, now)
        grid.add_row(condition.type, _coloured(condition.status, COLOURS), condition.reason, since, condition.message)
    yield grid


def _training(status: RegularizedModelStatus) -> Iterator[RenderableType]:
    training = status.training
    if training is None:
        return
    line = f"\nTraining {training.version}, attempt {training.attempt}: {training.phase or 'waiting'} "
    if training.progress is not None:
        line += share_bar(training.progress)
    if training.epoch is not None and training.epochs:
        line += f"  epoch {training.epoch}/{training.epochs}"
    if training.trials is not None:
        best = "" if training.trials.best is None else f", best {number(training.trials.best)}"
        line += f"  trial {training.trials.done}/{training.trials.total}{best}"
    if training.validation_loss is not None:
        line += f"  loss {number(training.train_loss)} / {number(training.validation_loss)} (train / validation)"
    yield Text(line)
    if training.last_failure:
        yield Text(f"  last failure: {training.last_failure}", style="yellow")


def _rollout(rollout: Object, now: datetime) -> Iterator[RenderableType]:
    spec = CanaryRolloutSpec.model_validate(rollout["spec"])
    status = CanaryRolloutStatus.model_validate(rollout.get("status") or {})
    yield Text(f"\nCanaryRollout {rollout['metadata']['name']}: {status.phase or 'not seen yet'}", style="bold")
    for role, arm in (("stable", status.stable), ("canary", status.canary)):
        if arm is not None:
            yield Text(f"  {role:<7} {arm.version:<5} {arm.ready}/{arm.replicas} ready  {arm.digest or ''}")
    if status.step is not None and status.canary is not None:
        step = status.step
        way = " → ".join(f"{each.weight}%" for each in spec.strategy.steps)
        waiting = step.waiting or left(step.remaining)
        yield Text(
            f"  step    {step.index + 1}/{step.of}  {share_bar((step.observed_weight or 0) / 100)}  of {way} → 100%  {waiting}"
        )
    yield from _slis(status)
    yield from _conditions(status.conditions, now)
    yield from _history(status, now)


def _slis(status: CanaryRolloutStatus) -> Iterator[RenderableType]:
    if not status.slis:
        return
    result = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("  SLI", "STATE", "EVIDENCE", "CANARY", "STABLE", "ALLOWED", "BLOCKS"):
        result.add_column(name)
    for sli in status.slis:
        shown = evidence_bar(sli.evidence, sli.abort_at) or (
            f"value {number(sli.value)}" if sli.value is not None else ""
        )
        state = _coloured(sli.state or "-", STATE_COLOURS)
        result.add_row(
            f"  {sli.name}", state, shown, sli.canary or "-", sli.stable or "-", sli.allowed or "-", str(sli.blocks)
        )
    yield result


def _history(status: CanaryRolloutStatus, now: datetime) -> Iterator[RenderableType]:
    if status.quarantined:
        yield Text(f"  quarantined: {', '.join(item.version for item in status.quarantined)}", style="red")
    for entry in status.history[:SHOWN_HISTORY]:
        colour = "green" if entry.outcome in {"Promoted", "Initial"} else "red"
        line = f"  {age(entry.at, now):>4} ago  {entry.version} {entry.outcome}"
        yield Text.assemble((line, colour), f"  {entry.message or entry.reason or ''}")
    if status.last_request is not None:
        request = status.last_request
        yield Text(f"  last request: {request.verb} ({age(request.at, now)} ago): {request.result or 'no result yet'}")


def _versions(status: RegularizedModelStatus, now: datetime) -> Iterator[RenderableType]:
    if not status.versions:
        return
    metrics = _judged(status)
    result = Table(box=None, pad_edge=False, header_style="bold", title="\nVersions", title_justify="left")
    for name in ("VERSION", "STATE", *metrics, "GATES", "BY", "AGE"):
        result.add_column(name, no_wrap=True)
    result.add_column("WHY", overflow="fold")
    for version in status.versions:
        passed = sum(gate.passed for gate in version.gates)
        numbers = [number(version.metrics[name].value) if name in version.metrics else "-" for name in metrics]
        gates = f"{passed}/{len(version.gates)}" if version.gates else "-"
        why = version.message or version.reason or ""
        state = _coloured(version.state, STATE_COLOURS)
        result.add_row(version.version, state, *numbers, gates, version.requested_by, age(version.created_at, now), why)
    yield result
    for version in [version for version in status.versions if version.tracking][:SHOWN_HISTORY]:
        for tracker, place in version.tracking.items():
            yield Text(f"  {version.version:<5} {tracker:<11} {place}", overflow="fold")


def _searches(status: RegularizedModelStatus) -> Iterator[RenderableType]:
    """What the newest searches found, with the winners' values; two objectives have a line more."""
    found = [(version.version, version.search) for version in status.versions if version.search is not None]
    for version, search in found[:SHOWN_SEARCHES]:
        failed = f", {search.failed} failed" if search.failed else ""
        best = f"best {search.metric} {number(search.best)} in trial {search.number}"
        line = (
            f"\nSearch of {version}, {search.method}: {search.trials} trials{failed}; {best}: {_values(search.params)}"
        )
        if search.second_metric is not None:
            points = "  ".join(
                f"#{point.number} {number(point.value)}/{number(point.second)}" for point in search.pareto
            )
            line += f"\n  Pareto set, {search.metric}/{search.second_metric}: {points}"
        yield Text(line)


def _values(params: Mapping[str, float | str]) -> str:
    """`l2.strength=0.001, dropout.p=0.3`: without the words that all paths begin with."""
    told = [(path.partition(".")[2], value) for path, value in params.items()]
    return ", ".join(f"{path}={number(value) if isinstance(value, float) else value}" for path, value in told)


def _judged(status: RegularizedModelStatus) -> list[str]:
    """The metrics worth a column: those that gates judge, else the first ones recorded."""
    gated = [gate.metric for version in status.versions for gate in version.gates]
    recorded = [name for version in status.versions for name in version.metrics if "/" not in name]
    return list(dict.fromkeys(gated or recorded))[:SHOWN_METRICS]


def _condition(conditions: tuple[Condition, ...], type_: str) -> Condition | None:
    return next((condition for condition in conditions if condition.type == type_), None)


def _coloured(text: str, colours: dict[str, str]) -> Text:
    return Text(text, style=colours.get(text, ""))
