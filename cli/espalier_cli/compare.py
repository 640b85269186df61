"""`espalier diff`: two versions side by side, from status."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from espalier_api.evaluation import HIGHER_IS_BETTER
from espalier_api.model import RegularizedModelStatus, VersionStatus
from espalier_cli.errors import CliError
from espalier_cli.texts import number

if TYPE_CHECKING:
    from espalier_cli.objects import Object

FACTS = ("state", "digest", "spec_hash", "snapshot_digest", "seed", "parent", "requested_by")


def compare(model: Object, older: str, newer: str) -> Table:
    """Facts and metrics of two versions; a metric that got worse beyond both intervals is red, one that got better green."""
    status = RegularizedModelStatus.model_validate(model.get("status") or {})
    left, right = (_version(status, name) for name in (older, newer))
    result = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("", older, newer, "CHANGE"):
        result.add_column(name)
    for fact in FACTS:
        before, after = getattr(left, fact), getattr(right, fact)
        same = "" if before == after else "changed"
        result.add_row(fact.replace("_", " "), _short(before), _short(after), Text(same, style="yellow"))
    for name in sorted({*left.metrics, *right.metrics}):
        result.add_row(name, _value(left, name), _value(right, name), _change(left, right, name))
    return result


def _version(status: RegularizedModelStatus, name: str) -> VersionStatus:
    found = next((version for version in status.versions if version.version == name), None)
    if found is None:
        names = ", ".join(version.version for version in status.versions) or "none"
        raise CliError(f"version {name} is not in status; there are: {names}")
    return found


def _short(value: object) -> str:
    text = "-" if value is None else str(value)
    return f"{text[:19]}…" if text.startswith("sha256:") else text


def _value(version: VersionStatus, name: str) -> str:
    metric = version.metrics.get(name)
    if metric is None:
        return "-"
    interval = f" [{number(metric.low)}, {number(metric.high)}]" if metric.low is not None else ""
    return number(metric.value) + interval


def _change(left: VersionStatus, right: VersionStatus, name: str) -> Text:
    before, after = left.metrics.get(name), right.metrics.get(name)
    if before is None or after is None:
        return Text("")
    difference = after.value - before.value
    text = f"{difference:+.4g}"
    apart = None not in (before.low, before.high, after.low, after.high) and (
        (after.low or 0.0) > (before.high or 0.0) or (after.high or 0.0) < (before.low or 0.0)
    )
    if not apart or difference == 0:
        return Text(text)
    better = (difference > 0) == (name.split("/", 1)[0] in HIGHER_IS_BETTER)
    return Text(text, style="green" if better else "red")
