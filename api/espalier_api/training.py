"""The seam between operator and trainer: what a Job is told, what it reports while it runs, what it leaves when it ends."""

from __future__ import annotations

import json
from typing import Literal

from pydantic import Field

from espalier_api.artifact import MetricValue
from espalier_api.base import ApiModel, StatusModel
from espalier_api.data import Data, Task
from espalier_api.durations import Duration, parse_duration
from espalier_api.engines import Engine
from espalier_api.evaluation import Robustness
from espalier_api.exit_codes import ExitCode
from espalier_api.hashing import DIGEST_PATTERN
from espalier_api.model import Diagnosis, TrialsStatus
from espalier_api.model_spec import ProcessCount, Tracking
from espalier_api.names import API_VERSION, SIGNING_FOLDER, SIGNING_KEY, SIGNING_PUBLIC_KEY
from espalier_api.regularizers import Regularizers
from espalier_api.search import Search
from espalier_api.search_result import SearchSummary

TERMINATION_MESSAGE_BYTES = 4096
"""What the kubelet keeps of /dev/termination-log."""
SHORT_DIAGNOSIS = 160
"""Characters of evidence and of suggestion that always fit for all eight failure modes."""


class JobModel(ApiModel):
    """The RegularizedModel that is trained."""

    namespace: str
    name: str
    uid: str = ""
    generation: int = 0


class JobArtifact(ApiModel):
    """Where the version goes."""

    uri: str = Field(pattern=r"^s3://")
    """`s3://<bucket>/<prefix>/<namespace>/<model>/<version>/`."""


class JobReference(ApiModel):
    """Another fitted model that blocks refer to, resolved: one version, its place and its digest."""

    model: str
    """Name of the RegularizedModel, in this namespace."""
    version: str = Field(pattern=r"^v[1-9][0-9]*$")
    uri: str = Field(pattern=r"^s3://")
    """Prefix of the version's artifact, with a slash at its end."""
    digest: str = Field(pattern=DIGEST_PATTERN)
    """Of its manifest.json, which holds the digests of all its files."""


class JobCheckpoint(ApiModel):
    """Where state for the next attempt goes."""

    uri: str = Field(pattern=r"^s3://")
    """`s3://<bucket>/<prefix>/<namespace>/<model>/.checkpoints/<version>/`."""
    interval: Duration = parse_duration("5m")
    """Time between checkpoints."""


class JobSigning(ApiModel):
    """Where the keys lie that sign the version; the document itself holds none."""

    secret: str
    """Name of the Secret, for messages."""
    key_path: str = f"{SIGNING_FOLDER}/{SIGNING_KEY}"
    """PEM of the private key."""
    public_key_path: str = f"{SIGNING_FOLDER}/{SIGNING_PUBLIC_KEY}"
    """PEM of its public half, as servers will have it."""


class JobTracking(Tracking):
    """Who else is told; the names of Secrets are for messages, their keys are in the environment."""

    uri: str = Field(pattern=r"^s3://")
    """`s3://<bucket>/<prefix>/<namespace>/<model>/.tracking/<version>/`."""


class TrainingJob(ApiModel):
    """job.json: everything that decides the fit. Its sha256 stands in the Job's annotation."""

    api_version: Literal["espalier.dev/v1alpha1"] = API_VERSION
    model: JobModel
    version: str = Field(pattern=r"^v[1-9][0-9]*$")
    attempt: int = Field(ge=1)
    spec_hash: str
    parent: str | None = None
    """The champion when training began."""
    parent_artifact: JobArtifact | None = None
    """Where the parent's artifact lies, for comparisons with it."""
    references: dict[str, JobReference] = Field(default_factory=dict)
    """Other models by the name that blocks use (`previousModel`, `name`, `name@v3`). `previousModel` is absent for the first version
    of a model: there is nothing to hold on to yet, and the blocks that name it rest.
    """
    requested_by: str = "spec"
    task: Task
    data: Data
    """spec.data with the resolved digest in `snapshot.digest`."""
    engine: Engine
    regularizers: Regularizers = Regularizers()
    search: Search | None = None
    seeds: int = Field(default=1, ge=1)
    """Fits; seed, seed+1, ..."""
    seed: int = Field(default=0, ge=0)
    """Base seed: data.split.seed."""
    artifact: JobArtifact
    checkpoint: JobCheckpoint
    image: str = ""
    """For the lineage."""
    signing: JobSigning | None = None
    """Sign the version with this pair; absent means unsigned."""
    tracking: JobTracking | None = None
    """Where curves go besides /metrics; decides nothing about the fit."""
    latency_gate: bool = False
    """A gate asks for latency: measure it longer."""
    group_metrics: tuple[str, ...] = ()
    """Columns that gates compare groups of."""
    robustness: Robustness | None = None
    """The attack on the test part, when one is asked for."""
    budgets: dict[str, float] = Field(default_factory=dict)
    """Largest accepted value of resource metrics, from gates."""
    nodes: int = Field(default=1, ge=1)
    """Pods that train together; each knows its own number from JOB_COMPLETION_INDEX. How many train changes no version."""
    processes_per_node: ProcessCount = "auto"
    """Processes of each pod; auto is one per GPU that it sees, or one."""
    rendezvous: str = ""
    """`host:port` of the first pod, where the pods meet; empty for one pod."""


Outcome = Literal["Succeeded", "InvalidConfig", "Diverged", "DataProblem", "Preempted", "Failed"]

OUTCOME_OF_EXIT: dict[int, Outcome] = {
    ExitCode.OK: "Succeeded",
    ExitCode.INVALID_CONFIG: "InvalidConfig",
    ExitCode.DIVERGED: "Diverged",
    ExitCode.DATA_PROBLEM: "DataProblem",
    ExitCode.PREEMPTED: "Preempted",
}
"""Every other exit code is `Failed`."""


class TrainingResult(StatusModel):
    """The termination message: a summary of at most 4096 bytes. metrics.json in the artifact holds everything."""

    outcome: Outcome
    exit_code: int = Field(ge=0, le=255)
    reason: str = ""
    """One word of espalier_api.conditions."""
    message: str = ""
    digest: str | None = None
    """The version's, when it succeeded."""
    metrics: dict[str, MetricValue] = Field(default_factory=dict)
    """Keys are metric names, or `<metric>/<column>=<group>` for groups."""
    diagnosis: tuple[Diagnosis, ...] = ()
    content_sha256: str | None = None
    classes: tuple[str, ...] = ()
    """Inferred classes, when there are at most 20."""
    duration_seconds: float = 0.0
    search: SearchSummary | None = None
    """When there was one."""

    def to_termination_message(self) -> str:
        """JSON of at most 4096 bytes. Metrics give way first (the manifest has them), diagnoses last: they travel here only.

        In turn: a search's values and Pareto set, group metrics, intervals, a long message, long diagnoses, classes, all metrics,
        diagnoses.
        """
        for shorter in (
            self,
            kept := self.model_copy(update={"search": self.search.short() if self.search else None}),
            kept := kept.model_copy(update={"metrics": {k: v for k, v in kept.metrics.items() if "/" not in k}}),
            kept := kept.model_copy(
                update={"metrics": {k: MetricValue(value=v.value) for k, v in kept.metrics.items()}}
            ),
            kept := kept.model_copy(update={"message": kept.message[:256]}),
            kept := kept.model_copy(update={"diagnosis": tuple(d.shortened(SHORT_DIAGNOSIS) for d in kept.diagnosis)}),
            kept := kept.model_copy(update={"classes": ()}),
            kept := kept.model_copy(update={"metrics": {}}),
            kept.model_copy(update={"diagnosis": ()}),
        ):
            if len(text := shorter.to_json().encode()) <= TERMINATION_MESSAGE_BYTES:
                return text.decode()
        raise ValueError(f"a training result of nothing but names still has {len(text)} bytes; shorten its digests")

    @classmethod
    def from_termination_message(cls, text: str) -> TrainingResult:
        """Parse; raises ValueError when the message is cut, empty or not ours."""
        return cls.model_validate(json.loads(text))


class Losses(StatusModel):
    """Last known losses, eval mode, without penalties."""

    train: float | None = None
    validation: float | None = None


class Contribution(StatusModel):
    """What one regularizer does to the objective right now."""

    coefficient: float = 0.0
    """Strength in force."""
    value: float = 0.0
    """The term before its coefficient."""
    share: float = 0.0
    """Of the whole objective, 0-1."""
    gradient_ratio: float | None = None
    """Norm of its gradient over the data gradient's."""


class TrainingProgress(StatusModel):
    """`GET :8081/progress`."""

    phase: str = "Starting"
    """Starting, LoadingData, Searching, CrossValidating, Training, Evaluating, Exporting or Publishing."""
    progress: float = Field(default=0.0, ge=0, le=1)
    epoch: int = 0
    epochs: int = 0
    step: int = 0
    eta_seconds: float | None = None
    loss: Losses = Losses()
    regularizers: dict[str, Contribution] = Field(default_factory=dict)
    trials: TrialsStatus | None = None
    """Of a search."""
