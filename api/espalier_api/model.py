"""RegularizedModel: what to train and what a version must prove. Every success is an immutable version with a digest."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field

from espalier_api.artifact import MetricValue
from espalier_api.base import ApiModel, Cel, ListMap, Resource, StatusModel
from espalier_api.conditions import Condition
from espalier_api.data import Data, Task
from espalier_api.durations import Timestamp
from espalier_api.engines import Engine
from espalier_api.evaluation import Evaluation
from espalier_api.kubernetes import ObjectMeta
from espalier_api.model_spec import Artifacts, Serving, Slo, Training
from espalier_api.names import API_VERSION, MODEL_NAME_MAX
from espalier_api.regularizers import Regularizers
from espalier_api.search import Search
from espalier_api.search_result import SearchSummary

DNS_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")

VersionState = Literal[
    "Training", "Candidate", "Rejected", "Failed", "Canary", "Champion", "Previous", "Retired", "Quarantined"
]
"""Training -> Candidate | Rejected | Failed; Candidate -> Canary -> Champion -> Previous -> Retired, or Canary -> Quarantined.
New gates move Rejected <-> Candidate. Rejected and Quarantined versions are never offered."""


class RegularizedModelSpec(ApiModel):
    """What to train, along which regularizers, and what a version must prove."""

    task: Task
    """What the model answers."""
    data: Data
    """What it learns from."""
    engine: Engine
    """What learns."""
    regularizers: Regularizers = Regularizers()
    """Along which frame."""
    search: Search | None = None
    """Which fields are searched, if any."""
    evaluation: Evaluation = Evaluation()
    """Repeats and gates."""
    training: Training = Training()
    """How the Job runs."""
    artifacts: Artifacts
    """Where versions live."""
    serving: Serving = Serving()
    """How a version serves."""
    slos: Annotated[tuple[Slo, ...], Field(max_length=8), ListMap("name")] = ()
    """Objectives with recording rules and burn-rate alerts."""

    cel = (
        Cel(
            rule="self.task.type == 'classification' || !has(self.serving) || !has(self.serving.outputGuards)"
            " || !has(self.serving.outputGuards.minConfidence)",
            message="serving.outputGuards.minConfidence needs probabilities; a regression has a range instead",
            holds=lambda spec: spec.task.type == "classification" or spec.serving.output_guards.min_confidence is None,
        ),
        Cel(
            rule="self.task.type == 'regression' || !has(self.serving) || !has(self.serving.outputGuards)"
            " || !has(self.serving.outputGuards.range)",
            message="serving.outputGuards.range needs a number as answer; a classification has minConfidence instead",
            holds=lambda spec: spec.task.type == "regression" or spec.serving.output_guards.range is None,
        ),
    )


class ChampionRef(StatusModel):
    """The version that serves, copied from the rollout for people."""

    version: str = Field(max_length=16)
    digest: str | None = Field(default=None, max_length=71)


class GateResult(StatusModel):
    """One gate, judged."""

    metric: str = Field(max_length=64)
    passed: bool
    value: float | None = None
    """The number judged; absent when it was not recorded."""
    bound: str = Field(max_length=256)
    """In words, e.g. `>= 0.9` or `>= champion - 0.01 (0.92)`."""
    group: str | None = Field(default=None, max_length=253)


class Diagnosis(StatusModel):
    """A failure mode seen in the logged signals."""

    mode: Literal["F1", "F2", "F3", "F4", "F5", "F6", "F7", "F8"]
    evidence: str = Field(max_length=1024)
    suggestion: str = Field(max_length=1024)

    def shortened(self, length: int) -> Diagnosis:
        """With texts of at most `length` characters."""
        return Diagnosis(mode=self.mode, evidence=self.evidence[:length], suggestion=self.suggestion[:length])


class VersionStatus(StatusModel):
    """What is known of one version; the manifest in the store holds everything."""

    version: str = Field(pattern=r"^v[1-9][0-9]*$", max_length=16)
    state: VersionState
    reason: str | None = Field(default=None, max_length=256)
    message: str | None = Field(default=None, max_length=4096)
    digest: str | None = Field(default=None, max_length=71)
    spec_hash: str | None = Field(default=None, max_length=71)
    snapshot_digest: str | None = Field(default=None, max_length=71)
    seed: int | None = None
    created_at: Timestamp | None = None
    parent: str | None = Field(default=None, max_length=16)
    requested_by: str = Field(default="spec", max_length=320)
    metrics: dict[str, MetricValue] = Field(default_factory=dict, max_length=64)
    gates: tuple[GateResult, ...] = Field(default=(), max_length=32)
    diagnosis: tuple[Diagnosis, ...] = Field(default=(), max_length=8)
    pictures: tuple[Annotated[str, Field(max_length=128)], ...] = Field(default=(), max_length=16)
    """Names below the version's prefix in the store, e.g. `pictures/reliability.png`."""
    tracking: dict[str, Annotated[str, Field(max_length=1024)]] = Field(default_factory=dict, max_length=8)
    """Tracker -> where to read it: a run's page, event files in the store, or a name below the version's prefix (`evidently.html`)."""
    search: SearchSummary | None = None
    """What its search came to, when there was one; search.json below the prefix holds every trial."""


class TrialsStatus(StatusModel):
    """Progress of a search."""

    done: int = 0
    total: int = 0
    best: float | None = None


class ReferenceStatus(StatusModel):
    """Another model that a version is trained with, resolved when its training began."""

    name: str = Field(max_length=80)
    """As the spec writes it: `previousModel`, `big` or `big@v3`."""
    model: str = Field(max_length=63)
    version: str = Field(max_length=16)
    uri: str = Field(max_length=1024)
    digest: str = Field(max_length=71)


class TrainingStatus(StatusModel):
    """The attempt that runs or waits; written only when it moved."""

    version: str = Field(max_length=16)
    job: str | None = Field(default=None, max_length=63)
    attempt: int = Field(ge=1)
    failures: int = Field(default=0, ge=0)
    """Attempts that were charged to `retries`."""
    preemptions: int = Field(default=0, ge=0)
    """Attempts that were not."""
    spec_hash: str | None = Field(default=None, max_length=71)
    started_at: Timestamp | None = None
    retry_at: Timestamp | None = None
    """When the next attempt starts, while waiting."""
    phase: str | None = Field(default=None, max_length=64)
    progress: float | None = Field(default=None, ge=0, le=1)
    epoch: int | None = None
    epochs: int | None = None
    eta: Timestamp | None = None
    train_loss: float | None = None
    validation_loss: float | None = None
    trials: TrialsStatus | None = None
    last_failure: str | None = Field(default=None, max_length=1024)
    references: Annotated[tuple[ReferenceStatus, ...], Field(max_length=32), ListMap("name")] = ()
    """The same for every attempt of the version."""


class SnapshotStatus(StatusModel):
    """The data that the spec's snapshot resolved to."""

    uri: str = Field(max_length=1024)
    digest: str = Field(max_length=71)
    objects: int | None = None
    bytes: int | None = None
    resolved_at: Timestamp | None = None


class RegularizedModelStatus(StatusModel):
    """What was observed. `phase` is for people only."""

    observed_generation: int = 0
    conditions: Annotated[tuple[Condition, ...], Field(max_length=16), ListMap("type")] = ()
    phase: str | None = Field(default=None, max_length=64)
    champion: ChampionRef | None = None
    snapshot: SnapshotStatus | None = None
    versions: Annotated[tuple[VersionStatus, ...], Field(max_length=64), ListMap("version")] = ()
    """Newest first."""
    training: TrainingStatus | None = None
    next_version: int = Field(default=1, ge=1)
    handled_request: str | None = Field(default=None, max_length=128)
    """Id of the last RetrainPolicy request that was acted on."""


class RegularizedModel(Resource):
    """The whole object."""

    api_version: Literal["espalier.dev/v1alpha1"] = API_VERSION
    kind: Literal["RegularizedModel"] = "RegularizedModel"
    metadata: ObjectMeta
    spec: RegularizedModelSpec
    status: RegularizedModelStatus = RegularizedModelStatus()

    cel = (
        Cel(
            rule=f"self.metadata.name.size() <= {MODEL_NAME_MAX}",
            message=f"metadata.name: at most {MODEL_NAME_MAX} characters, so that names of Jobs and Services fit; choose a shorter one",
            holds=lambda model: len(model.metadata.name) <= MODEL_NAME_MAX,
        ),
        Cel(
            rule="self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            message="metadata.name: lower-case letters, digits and dashes, beginning with a letter, because Services are named after it",
            holds=lambda model: DNS_LABEL.fullmatch(model.metadata.name) is not None,
        ),
    )
