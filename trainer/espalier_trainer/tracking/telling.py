"""What trackers are told, and what a tracker is."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from espalier_api.artifact import PICTURES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from espalier_api.artifact import Manifest
    from espalier_api.training import TrainingJob
    from espalier_trainer.storage import ObjectStore
    from espalier_trainer.tracking.runs import Remembered

Ending = Literal["succeeded", "failed", "preempted"]
"""A preempted run is open: the next attempt goes on with it."""
SECTIONS = ("task", "data", "engine", "regularizers", "search", "seeds", "seed")
"""Of job.json: what a person filters runs by."""
MOST_PARAMETERS = 200
LONGEST_PARAMETER = 250


@dataclass(frozen=True, slots=True)
class Point:
    """Numbers by name at one epoch; `prefix` (of further seeds, or of a search) is part of the names already."""

    epoch: int
    values: Mapping[str, float]
    prefix: str = ""
    at: float = field(default_factory=time.time)
    """Seconds since 1970."""


@dataclass(frozen=True, slots=True)
class End:
    """What a published version came to."""

    metrics: Mapping[str, float]
    pictures: Mapping[str, bytes]
    """PNG files by name, `pictures/curves.png`."""
    address: str
    """Prefix of the artifact."""
    digest: str

    @classmethod
    def of(cls, manifest: Manifest, digest: str, files: Mapping[str, bytes], address: str) -> End:
        """Of what was published; metrics of single groups stay in the artifact."""
        metrics = {name: each.value for name, each in manifest.metrics.items() if "/" not in name}
        pictures = {name: content for name, content in files.items() if name.startswith(PICTURES)}
        return cls(metrics, pictures, address, digest)


@dataclass(frozen=True, slots=True)
class Opening:
    """What a tracker may know when it starts."""

    job: TrainingJob
    store: ObjectStore
    """At `.tracking/<version>/`."""
    folder: Path
    """An empty one on this machine, gone after the end."""
    remembered: Remembered
    """Its run of an earlier attempt."""

    @property
    def name(self) -> str:
        """`vision/digits/v3`."""
        return f"{self.job.model.namespace}/{self.job.model.name}/{self.job.version}"

    def parameters(self) -> dict[str, str]:
        """What decides the fit, flat: `engine.torch.epochs` -> `60`. At most MOST_PARAMETERS, of at most LONGEST_PARAMETER characters."""
        dumped = self.job.dump()
        flat = [pair for name in SECTIONS if name in dumped for pair in _flat(name, dumped[name])]
        return {name: value[:LONGEST_PARAMETER] for name, value in flat[:MOST_PARAMETERS]}

    def tags(self) -> dict[str, str]:
        """Who made the run."""
        job = self.job
        found = {
            "namespace": job.model.namespace,
            "model": job.model.name,
            "version": job.version,
            "uid": job.model.uid,
            "specHash": job.spec_hash,
            "snapshot": job.data.snapshot.digest or job.data.snapshot.uri,
            "requestedBy": job.requested_by,
            "image": job.image,
        }
        return {f"espalier.{name}": value for name, value in found.items() if value}


class Tracker(Protocol):
    """One open run. Its module has `start(Opening) -> Tracker`, which raises InvalidConfigError for what trying again cannot mend and
    anything else for what it can. All calls come from one thread and may fail or take their time.
    """

    link: str
    """Where a person reads it."""

    def log(self, points: Sequence[Point]) -> None:
        """Newer points, oldest first; when it fails, the same ones come again."""
        ...

    def close(self, how: Ending, end: End | None) -> None:
        """The last call: metrics, pictures and address of a published version, and how it ended."""
        ...


def _flat(name: str, value: Any) -> list[tuple[str, str]]:  # noqa: ANN401 - any JSON value
    if isinstance(value, dict):
        return [pair for key, item in value.items() for pair in _flat(f"{name}.{key}", item)]
    return [(name, str(value))]
