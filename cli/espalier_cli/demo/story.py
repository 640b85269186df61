"""The demo's three acts. Each applies one manifest of the quickstart, tells what the cluster does, and checks the outcome.

Nothing is scripted to a result: an act ends when the CanaryRollout's own status names an outcome for the version that the act made, and
fails when that outcome, or the measured numbers, are not what the product promises.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from espalier_cli.demo.kubectl import DemoError, Kubectl
from espalier_cli.demo.timeline import Timeline

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from rich.console import Console

LOOK_EVERY = 0.5  # seconds between two looks at the objects
MINIMUM_GAIN = 0.05  # accuracy points that the regularized version must gain on clean test labels


@dataclass(slots=True)
class Story:
    """The running demo: where it talks, what it saw, and how long an act may take."""

    kube: Kubectl
    console: Console
    manifests: Path
    name: str = "digits"
    act_timeout: float = 420.0
    timeline: Timeline = field(default_factory=Timeline)
    started: float = field(default_factory=time.monotonic)

    def apply(self, manifest: str) -> None:
        """`kubectl apply` one quickstart manifest and say so."""
        path = self.manifests / manifest
        self.tell(f"[bold]$ kubectl apply -f {path}[/bold]")
        self.kube.run("apply", "-f", str(path))

    def tell(self, line: str) -> None:
        """One line, with the seconds since the demo began."""
        self.console.print(f"[dim]{self.elapsed():6.1f}s[/dim]  {line}", highlight=False)

    def elapsed(self) -> float:
        """Seconds since the demo began."""
        return time.monotonic() - self.started

    def look(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """One look at model and rollout; tells every transition that is new."""
        model = self.kube.get("regularizedmodels.espalier.dev", self.name) or {}
        rollout = self.kube.get("canaryrollouts.espalier.dev", self.name) or {}
        for line in self.timeline.see(self.elapsed(), model, rollout):
            self.tell(line)
        return model, rollout

    def watch(self, seconds: float) -> None:
        """Go on looking and telling for a while."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.look()
            time.sleep(LOOK_EVERY)

    def await_(
        self, what: str, done: Callable[[Mapping[str, Any], Mapping[str, Any]], bool]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Look until `done(model, rollout)`; raise DemoError with both statuses' conditions when the act's time is over."""
        deadline = time.monotonic() + self.act_timeout
        while time.monotonic() < deadline:
            model, rollout = self.look()
            if done(model, rollout):
                return model, rollout
            time.sleep(LOOK_EVERY)
        model, rollout = self.look()
        raise DemoError(
            f"{what} did not happen within {self.act_timeout:.0f} s.\n{_conditions('RegularizedModel', model)}\n"
            f"{_conditions('CanaryRollout', rollout)}\nLook with: kubectl --namespace {self.kube.namespace} get espalier,jobs,pods"
        )


def newest_version(model: Mapping[str, Any]) -> dict[str, Any] | None:
    """The newest version of the model's status, or None."""
    versions: list[dict[str, Any]] = (model.get("status") or {}).get("versions") or []
    return max(versions, key=lambda version: int(version["version"].removeprefix("v")), default=None)


def version_named(model: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A version by its name; raises DemoError when the status has lost it."""
    for version in (model.get("status") or {}).get("versions") or []:
        if version["version"] == name:
            found: dict[str, Any] = version
            return found
    raise DemoError(f"RegularizedModel status has no version {name}.")


def champion(rollout: Mapping[str, Any]) -> str | None:
    """The alias that production traffic follows."""
    alias: str | None = ((rollout.get("status") or {}).get("aliases") or {}).get("champion")
    return alias


def outcome_of(rollout: Mapping[str, Any], version: str) -> dict[str, Any] | None:
    """The newest history entry of a version, or None while it is undecided."""
    entries = [entry for entry in (rollout.get("status") or {}).get("history") or [] if entry["version"] == version]
    return entries[0] if entries else None


def accuracy(version: Mapping[str, Any]) -> float:
    """The offline test accuracy (0-1) that the operator recorded for a version."""
    return float(version["metrics"]["accuracy"]["value"])


def first_act(story: Story) -> str:
    """(a) No regularizers: the first candidate becomes champion; no canary is possible. Returns its version."""
    story.apply("10-rollout.yaml")
    story.apply("20-model-plain.yaml")
    _, rollout = story.await_("A first champion", lambda _model, rollout: champion(rollout) is not None)
    return champion(rollout) or ""


def second_act(story: Story, first: str) -> str:
    """(b) The regularized cocktail: trained, gated, promoted through a canary, and measurably better. Returns its version."""
    version, model, rollout = _run_act(story, "30-model-regularized.yaml", first)
    outcome = outcome_of(rollout, version) or {}
    if outcome.get("outcome") != "Promoted" or champion(rollout) != version:
        raise DemoError(f"{version} should have been promoted, but: {outcome.get('outcome')}: {outcome.get('reason')}")
    gain = accuracy(version_named(model, version)) - accuracy(version_named(model, first))
    if gain < MINIMUM_GAIN:
        raise DemoError(
            f"{version} gained {gain * 100:.1f} points over {first}; at least {MINIMUM_GAIN * 100:.0f} were promised."
        )
    return version


def third_act(story: Story, good: str) -> str:
    """(c) Good offline, bad in production: breach, weight 0, quarantine, alias restored. Returns the version."""
    version, _, rollout = _run_act(story, "40-model-rescaled.yaml", good)
    outcome = outcome_of(rollout, version) or {}
    if outcome.get("outcome") != "RolledBack":
        raise DemoError(
            f"{version} should have been rolled back, but: {outcome.get('outcome')}: {outcome.get('reason')}"
        )
    _, rollout = story.await_(
        f"Quarantine of {version}",
        lambda model, rollout: _quarantined(model, rollout, version) and champion(rollout) == good,
    )
    route = story.kube.get("httproutes.gateway.networking.k8s.io", story.name) or {}
    if (left := canary_weight(route, story.name, version)) != 0:
        raise DemoError(f"HTTPRoute {story.name} still gives {version} weight {left} after the rollback.")
    return version


def canary_weight(route: Mapping[str, Any], model: str, version: str) -> int:
    """The weight (0-100) that an HTTPRoute's rules give to one version; 0 when it is not a backend."""
    backends = [ref for rule in (route.get("spec") or {}).get("rules") or [] for ref in rule.get("backendRefs") or []]
    return max((int(ref.get("weight", 1)) for ref in backends if ref["name"] == f"{model}-{version}"), default=0)


def _run_act(story: Story, manifest: str, before: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Apply, wait for a version newer than `before` and for its outcome; a version that fails or is rejected ends the demo."""
    story.apply(manifest)

    def newer(model: Mapping[str, Any]) -> dict[str, Any] | None:
        version = newest_version(model)
        return version if version and int(version["version"][1:]) > int(before[1:]) else None

    def decided(model: Mapping[str, Any], rollout: Mapping[str, Any]) -> bool:
        version = newer(model)
        if version and version["state"] in {"Failed", "Rejected"}:
            raise DemoError(
                f"{version['version']} is {version['state']}: {version.get('reason')}. Gates: {version.get('gates')}"
            )
        return version is not None and outcome_of(rollout, version["version"]) is not None

    model, rollout = story.await_(f"An outcome for the version of {manifest}", decided)
    version = newer(model)
    return str(version["version"]) if version else "", model, rollout


def _quarantined(model: Mapping[str, Any], rollout: Mapping[str, Any], version: str) -> bool:
    listed = any(entry["version"] == version for entry in (rollout.get("status") or {}).get("quarantined") or [])
    return listed and version_named(model, version)["state"] == "Quarantined"


def _conditions(kind: str, found: Mapping[str, Any]) -> str:
    conditions = (found.get("status") or {}).get("conditions") or []
    return (
        "\n".join(
            f"  {kind} {c['type']}={c['status']} {c.get('reason', '')}: {c.get('message', '')}" for c in conditions
        )
        or f"  {kind}: no status"
    )
