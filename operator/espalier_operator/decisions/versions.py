"""Versions: numbers that are never used twice, the state each one is in, and how long it is kept.

Who says what: training makes a version (Training -> Candidate | Rejected | Failed), the model's gates move it between
Candidate and Rejected, and the rollout's aliases and quarantine decide the rest. States are computed anew from those
three on every pass, so no transition can be missed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from espalier_api import conditions as c
from espalier_api.artifact import PICTURES
from espalier_api.gates import judge_gates, wanted_metrics
from espalier_api.model import GateResult, VersionState, VersionStatus
from espalier_api.names import version_number
from espalier_operator.decisions.plan import shorten

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from espalier_api.artifact import Manifest, MetricValue
    from espalier_api.evaluation import Gate

MAX_VERSIONS: Final = 64
"""The CRD's bound on status.versions."""
MAX_METRICS: Final = 64
MAX_PICTURES: Final = 16
MAX_TRACKERS: Final = 8
"""The CRD's bound on the metrics of one version."""
UNFINISHED: Final = frozenset({"Training", "Failed"})
"""States that only training decides; neither gates nor aliases touch them."""
IN_USE: Final = frozenset({"Training", "Canary", "Champion", "Previous"})
"""States that retention never removes, however old."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """What the model's CanaryRollout says about versions; all empty when there is none."""

    champion: str | None = None
    previous: str | None = None
    canary: str | None = None
    quarantined: Mapping[str, str] = field(default_factory=dict)
    """Version -> reason."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A complete version as the store holds it: its manifest and the digest of the manifest's bytes."""

    manifest: Manifest
    digest: str


def next_number(recorded: int, versions: Iterable[VersionStatus], stored: Iterable[int] = ()) -> int:
    """The number of the next version: beyond everything ever recorded or stored, a half-written one included."""
    used = [version_number(version.version) for version in versions]
    return max([recorded, *(number + 1 for number in (*used, *stored))], default=1)


def newest_first(versions: Iterable[VersionStatus]) -> tuple[VersionStatus, ...]:
    """By number, descending."""
    return tuple(sorted(versions, key=lambda version: version_number(version.version), reverse=True))


def find(versions: Iterable[VersionStatus], name: str | None) -> VersionStatus | None:
    """The version of that name."""
    return next((version for version in versions if version.version == name), None)


def of_spec(versions: Iterable[VersionStatus], spec_hash: str) -> VersionStatus | None:
    """The newest version that was trained for that spec. One that a spec change stopped was never trained for
    anything.
    """
    return next(
        (v for v in newest_first(versions) if v.spec_hash == spec_hash and v.reason != c.SPEC_CHANGED),
        None,
    )


def replace(versions: Iterable[VersionStatus], new: VersionStatus) -> tuple[VersionStatus, ...]:
    """`versions` with `new` in place of the one of its name, or added; newest first."""
    return newest_first([*(version for version in versions if version.version != new.version), new])


def published(stored: Stored, gates: Iterable[Gate], base: VersionStatus | None = None) -> VersionStatus:
    """The status of a version whose artifact is complete: facts from its manifest. Gates are judged later, like
    everybody's.
    """
    manifest = stored.manifest
    base = base or VersionStatus(version=manifest.version, state="Candidate")
    return base.model_copy(
        update={
            "state": "Candidate",
            "reason": str(c.ARTIFACT_PUBLISHED),
            "message": None,
            "digest": stored.digest,
            "spec_hash": manifest.spec_hash,
            "snapshot_digest": manifest.snapshot_digest,
            "seed": manifest.seed,
            "created_at": manifest.created_at.replace(microsecond=0),
            "parent": manifest.parent,
            "requested_by": manifest.requested_by,
            "metrics": bounded(manifest.metrics, gates),
            "search": manifest.search,
            "pictures": tuple(sorted(n for n in manifest.files if n.startswith(PICTURES)))[:MAX_PICTURES],
            "tracking": dict(sorted(manifest.tracking.items())[:MAX_TRACKERS]),
        }
    )


def bounded(metrics: Mapping[str, MetricValue], gates: Iterable[Gate]) -> dict[str, MetricValue]:
    """At most `MAX_METRICS` metrics, those that gates ask for first; the manifest in the store holds all."""
    wanted = tuple(gates)
    order = sorted(metrics, key=lambda name: (not wanted_metrics(name, wanted), "/" in name, name))
    return {name: metrics[name] for name in sorted(order[:MAX_METRICS])}


def settle(versions: Iterable[VersionStatus], rollout: Rollout, gates: tuple[Gate, ...]) -> tuple[VersionStatus, ...]:
    """Every version in the state that gates and rollout give it now; newest first."""
    versions = newest_first(versions)
    champion = find(versions, rollout.champion)
    return tuple(_settled(version, champion, rollout, gates) for version in versions)


def _settled(
    version: VersionStatus, champion: VersionStatus | None, rollout: Rollout, gates: tuple[Gate, ...]
) -> VersionStatus:
    if version.state in UNFINISHED:
        return version
    if version.version in rollout.quarantined:
        reason = shorten(rollout.quarantined[version.version], 4096)
        return _moved(version, "Quarantined", c.VERSION_QUARANTINED, reason)
    if (role := _role(version, rollout)) is not None:
        return _moved(version, role, c.SERVING, None)
    results = judge_gates(gates, version.metrics, champion.metrics if champion is not None else None)
    judged = version.model_copy(update={"gates": results})
    failed = [result for result in results if not result.passed]
    if failed:
        return _moved(judged, "Rejected", _why_rejected(failed), "; ".join(map(sentence, failed)))
    older = champion is not None and version_number(version.version) < version_number(champion.version)
    return _moved(judged, "Retired" if older else "Candidate", c.GATES_MET, None)


def _role(version: VersionStatus, rollout: Rollout) -> VersionState | None:
    """The alias that points to the version; champion outranks the others, so that a promotion shows at once."""
    if version.version == rollout.champion:
        return "Champion"
    if version.version == rollout.canary:
        return "Canary"
    return "Previous" if version.version == rollout.previous else None


def _moved(version: VersionStatus, state: VersionState, reason: str, message: str | None) -> VersionStatus:
    return version.model_copy(update={"state": state, "reason": str(reason), "message": message})


def _why_rejected(failed: list[GateResult]) -> str:
    return c.GATE_UNKNOWN if any(result.value is None for result in failed) else c.GATES_FAILED


def sentence(result: GateResult) -> str:
    """`accuracy is 0.87, not >= 0.9`, for conditions and events."""
    name = result.metric + (f" by {result.group}" if result.group else "")
    if result.value is None:
        return f"{name} was not recorded, so {result.bound} cannot be judged; remove the gate or train again with it"
    return f"{name} is {result.value:.6g}, not {result.bound}"


def retain(versions: Iterable[VersionStatus], keep: int) -> tuple[tuple[VersionStatus, ...], tuple[VersionStatus, ...]]:
    """(kept, dropped): the newest `keep` finished ones, everything in use, and the newest candidate always stay.

    The CRD's bound wins over everything but what is in use.
    """
    kept: list[VersionStatus] = []
    dropped: list[VersionStatus] = []
    finished = 0
    offered = False
    for version in newest_first(versions):
        newest_candidate = version.state == "Candidate" and not offered
        offered = offered or version.state == "Candidate"
        if version.state in IN_USE or newest_candidate:
            kept.append(version)
            finished += version.state != "Training"
        elif finished < keep and len(kept) < MAX_VERSIONS:
            kept.append(version)
            finished += 1
        else:
            dropped.append(version)
    return tuple(kept), tuple(dropped)
