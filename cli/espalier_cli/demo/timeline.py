"""What the demo saw, and when: transitions worth a line of narration, and the series the picture is drawn from. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the rollout. `weight` is the canary's, in percent; `evidence` and `abort_at` are per SLI."""

    at: float
    phase: str
    stable: str | None
    canary: str | None
    weight: int
    evidence: Mapping[str, float]
    abort_at: Mapping[str, float]


@dataclass(slots=True)
class Timeline:
    """All samples of the demo and the lines already told (so that each transition is told once)."""

    samples: list[Sample] = field(default_factory=list)
    told: set[str] = field(default_factory=set)

    def see(self, at: float, model: Mapping[str, Any], rollout: Mapping[str, Any]) -> list[str]:
        """Record one look at both objects; return the lines that are new."""
        status = rollout.get("status") or {}
        self.samples.append(_sample(at, status))
        lines = [*_model_lines(model.get("status") or {}), *_rollout_lines(status)]
        fresh = [line for line in lines if line not in self.told]
        self.told.update(fresh)
        return fresh


def _sample(at: float, status: Mapping[str, Any]) -> Sample:
    slis = status.get("slis") or []
    step = status.get("step") or {}
    return Sample(
        at=at,
        phase=status.get("phase") or "-",
        stable=(status.get("stable") or {}).get("version"),
        canary=(status.get("canary") or {}).get("version"),
        weight=int(step.get("observedWeight", step.get("weight")) or 0),
        evidence={sli["name"]: float(sli.get("evidence") or 0) for sli in slis},
        abort_at={sli["name"]: float(sli["abortAt"]) for sli in slis if sli.get("abortAt")},
    )


def _model_lines(status: Mapping[str, Any]) -> Iterable[str]:
    training = status.get("training") or {}
    if training.get("job"):
        yield f"training   Job {training['job']} runs (attempt {training.get('attempt', 1)})"
        tenth = int(float(training.get("progress") or 0) * 4) * 25
        if 0 < tenth < 100:  # noqa: PLR2004 - percent
            yield f"training   {training['job']}: {tenth} %"
    for version in reversed(status.get("versions") or []):
        accuracy = (version.get("metrics") or {}).get("accuracy") or {}
        measured = (
            f", accuracy {accuracy['value']:.3f} on {accuracy.get('n', '?')} clean test rows"
            if "value" in accuracy
            else ""
        )
        why = f" ({version['reason']})" if version.get("reason") else ""
        if version["state"] in {"Candidate", "Rejected", "Failed"}:
            yield f"version    {version['version']} is {version['state']}{why}{measured}"
        elif version["state"] in {"Champion", "Quarantined"}:
            yield f"version    {version['version']} is {version['state']}{why}"


def _rollout_lines(status: Mapping[str, Any]) -> Iterable[str]:
    canary = (status.get("canary") or {}).get("version")
    step = status.get("step") or {}
    if canary and step:
        observed = step.get("observedWeight")
        traffic = "traffic is being counted" if observed is None else f"observed {observed} %"
        yield (
            f"canary     {canary}: {status.get('phase')}, step {int(step.get('index', 0)) + 1}/{step.get('of')}, "
            f"weight {step.get('weight')} % ({traffic})"
        )
    for sli in status.get("slis") or []:
        if canary and sli.get("blocks"):
            yield (
                f"evidence   {canary} {sli['name']}: {sli.get('state')}, {sli.get('evidence', 0):.3g} of {sli.get('abortAt', 0):.3g}, "
                f"canary {sli.get('canary')} vs stable {sli.get('stable')}"
            )
    for entry in reversed(status.get("history") or []):
        yield f"outcome    {entry['version']} {entry['outcome']}: {entry.get('reason', '')}"
