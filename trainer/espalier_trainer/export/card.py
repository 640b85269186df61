"""MODEL_CARD.md: what a person needs to decide whether to use a version (Mitchell et al. 2019), from recorded facts only."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from espalier_api.artifact import PICTURES

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from espalier_api.artifact import ManifestTask, MetricValue
    from espalier_trainer.engines import Contribution, Engine, FitReport
    from espalier_trainer.evaluation.evaluate import Evaluation
    from espalier_trainer.export.package import Provenance


def model_card(
    provenance: Provenance,
    task: ManifestTask,
    engine: Engine,
    metrics: Mapping[str, MetricValue],
    report: FitReport,
    evaluation: Evaluation,
    files: Collection[str] = (),
) -> str:
    """The card as Markdown; pictures among the `files` of the version are shown."""
    job = provenance.job
    rows = ", ".join(f"{name} {count}" for name, count in provenance.rows.items())
    classes = f" over {len(task.classes)} classes: {', '.join(task.classes[:20])}" if task.classes else ""
    diagnosis = (
        "\n".join(f"- **{d.mode}** {d.evidence}. Try: {d.suggestion}." for d in evaluation.diagnosis) or "None seen."
    )
    return f"""# {job.model.namespace}/{job.model.name} {job.version}

{task.type.capitalize()}{classes}. {len(task.features)} features.
{engine.framework}, seed {job.seed}, {report.epochs} epochs, {report.steps} steps.

## Data
{job.data.snapshot.uri}
snapshot {provenance.snapshot_digest}, content sha256:{provenance.content_sha256}
Rows: {rows}. Split: {job.data.split.strategy}, seed {job.data.split.seed}. Target: {job.data.target}.

## Results on the test split
| Metric | Value | 95 % interval | n |
|---|---|---|---|
{"".join(_metric(name, value) for name, value in metrics.items())}
## Regularizers
{_blocks(report.contributions)}
Temperature {evaluation.temperature:.4g}, folded into the graph.
{_pictures(files)}
## Diagnosis
{diagnosis}

## Limits
Judged on rows like those of the snapshot; reference.json holds their distribution, and drift against it is watched when served.
"""


def _pictures(files: Collection[str]) -> str:
    shown = "\n".join(f"![{PurePosixPath(n).stem}]({n})" for n in sorted(files) if n.startswith(PICTURES))
    return f"\n## Pictures\n{shown}\n" if shown else ""


def _metric(name: str, value: MetricValue) -> str:
    interval = "" if value.low is None or value.high is None else f"{value.low:.4g} to {value.high:.4g}"
    return f"| {name} | {value.value:.4g} | {interval} | {value.n or ''} |\n"


def _blocks(contributions: Mapping[str, Contribution]) -> str:
    if not contributions:
        return "None."
    lines = [
        f"| {name} | {c.coefficient:.4g} | {_number(c.value)} | {_number(c.share)} | {_number(c.gradient_ratio)} |"
        for name, c in contributions.items()
    ]
    return "\n".join(("| Block | Coefficient | Value | Share | Gradient ratio |", "|---|---|---|---|---|", *lines))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
