"""The operational half of a RegularizedModel's spec: how training runs, where artifacts go, how a version serves, which SLOs hold."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, WithJsonSchema

from espalier_api.base import ApiModel, Cel, exactly_one
from espalier_api.data import S3Uri
from espalier_api.durations import Duration, parse_duration
from espalier_api.kubernetes import (
    EnvVars,
    Image,
    LocalReference,
    NodeSelector,
    ObjectName,
    Resources,
    Tolerations,
)
from espalier_api.serving import OutputGuards

ProcessCount = Annotated[
    int | Literal["auto"],
    WithJsonSchema(
        {"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": True, "pattern": r"^auto$"}
    ),
]
DnsLabel = Annotated[str, StringConstraints(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", min_length=1, max_length=63)]


class Checkpoint(ApiModel):
    """State that a preempted attempt leaves for the next."""

    interval: Duration = parse_duration("5m")
    """Time between checkpoints; one more is written on SIGTERM."""


class Tensorboard(ApiModel):
    """Event files below <artifacts.uri>/<namespace>/<model>/.tracking/v<N>/tensorboard/, renewed while the fit runs."""


class Wandb(ApiModel):
    """Weights & Biases. Needs a trainer image with espalier[wandb]."""

    secret_ref: LocalReference
    """Secret with WANDB_API_KEY."""
    project: str = Field(default="espalier", min_length=1, max_length=128)
    """Project to log to."""


class Mlflow(ApiModel):
    """An MLflow tracking server. Needs a trainer image with espalier[mlflow]."""

    uri: Annotated[str, StringConstraints(pattern=r"^https?://[^/@?#\s]+(/[^?#\s]*)?$", max_length=512)]
    """Its address, without credentials: those stand in the Secret."""
    secret_ref: LocalReference | None = None
    """Secret with MLFLOW_TRACKING_USERNAME and _PASSWORD, or _TOKEN."""


class Evidently(ApiModel):
    """Drift and performance of test rows against training rows, a page in the artifact. Needs a trainer image with espalier[evidently]."""


class Tracking(ApiModel):
    """Where curves are sent besides /metrics. A tracker that fails while it trains never fails the training."""

    tensorboard: Tensorboard | None = None
    """Event files in the store."""
    wandb: Wandb | None = None
    """One run per version."""
    mlflow: Mlflow | None = None
    """One run per version, in the experiment <namespace>/<model>."""
    evidently: Evidently | None = None
    """evidently.html in the artifact."""


class Training(ApiModel):
    """How the Job runs. Nothing here makes a new version, except an image that is named."""

    image: Image | None = None
    """Trainer image; absent means the operator's default, whose upgrade never retrains."""
    resources: Resources = Resources()
    """Of the trainer's container."""
    nodes: int = Field(default=1, ge=1, le=256)
    """Pods that train together."""
    processes_per_node: ProcessCount = "auto"
    """Processes per pod; auto is one per GPU, or one."""
    retries: int = Field(default=2, ge=0, le=20)
    """Further attempts after infrastructure failures; never after a bad configuration or NaN. Preemption costs none."""
    deadline: Duration = parse_duration("6h")
    """Longest run of one attempt."""
    checkpoint: Checkpoint = Checkpoint()
    """State for the next attempt."""
    queue_name: DnsLabel | None = None
    """Kueue queue; the Job is then created suspended."""
    node_selector: NodeSelector = Field(default_factory=dict)
    """Labels that nodes must have."""
    tolerations: Tolerations = ()
    """Taints that are tolerated."""
    priority_class_name: ObjectName | None = None
    """Of the pods."""
    service_account_name: ObjectName | None = None
    """Of the pods; its token is never mounted."""
    env: EnvVars = ()
    """Further environment of the trainer."""
    tracking: Tracking | None = None
    """Where curves are sent."""

    cel = (
        Cel(
            rule="!has(self.deadline) || self.deadline.matches('[1-9]')",
            message="training: deadline must be longer than 0",
            holds=lambda training: training.deadline.total_seconds() > 0,
        ),
    )


class Signing(ApiModel):
    """Signs every version (OpenSSF Model Signing, key mode); servers refuse what is not signed by this key."""

    key_secret_ref: LocalReference
    """Secret with cosign.key (PEM of an unencrypted elliptic-curve key, for the trainer only) and cosign.pub."""


class Retention(ApiModel):
    """Which versions stay in status, and in the store with deletionPolicy Delete."""

    keep: int = Field(default=5, ge=1, le=50)
    """Newest versions; champion, previous, candidates and canaries always stay."""


class Artifacts(ApiModel):
    """Where versions live."""

    uri: S3Uri
    """Root; a version lies at <uri>/<namespace>/<model>/v<N>/."""
    secret_ref: LocalReference | None = None
    """Secret with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and optionally AWS_SESSION_TOKEN, AWS_ENDPOINT_URL, AWS_REGION."""
    signing: Signing | None = None
    """Absent means unsigned; digests are always verified."""
    retention: Retention = Retention()
    """What is kept."""
    deletion_policy: Literal["Retain", "Delete"] = "Retain"
    """What happens to artifacts beyond the retention and of a deleted object."""


class UncertaintyMcDropout(ApiModel):
    """Samples per request."""

    samples: int = Field(default=20, ge=2, le=200)
    """Forward passes."""


class Uncertainty(ApiModel):
    """A spread with each prediction."""

    mc_dropout: UncertaintyMcDropout | None = None
    """By dropout at prediction time."""


class Fallback(ApiModel):
    """Who answers when a guard refuses."""

    model_ref: LocalReference
    """A RegularizedModel in the same namespace with a champion."""


class Autoscaling(ApiModel):
    """A HorizontalPodAutoscaler per version that serves."""

    min: int = Field(default=2, ge=1, le=1000)
    """Fewest pods."""
    max: int = Field(default=10, ge=1, le=1000)
    """Most pods."""
    target_cpu: int = Field(default=70, ge=1, le=100, alias="targetCPU")
    """Percent of requested CPU."""

    cel = (
        Cel(
            rule="(has(self.min) ? self.min : 2) <= (has(self.max) ? self.max : 10)",
            message="autoscaling: min must not be larger than max",
            holds=lambda scaling: scaling.min <= scaling.max,
        ),
    )


class Serving(ApiModel):
    """How a version serves."""

    replicas: int = Field(default=1, ge=1, le=1000)
    """Pods of the champion."""
    resources: Resources = Resources()
    """Of the server's container."""
    image: Image | None = None
    """Server image; absent means the operator's default."""
    output_guards: OutputGuards = OutputGuards()
    """What the server refuses to answer."""
    uncertainty: Uncertainty | None = None
    """A spread with each prediction."""
    fallback: Fallback | None = None
    """Who answers when a guard refuses."""
    autoscaling: Autoscaling | None = None
    """Instead of fixed replicas."""


class LatencySlo(ApiModel):
    """Good: answered within the threshold."""

    threshold: Duration
    """Becomes an exact bucket edge of the server's histogram."""


class QualitySlo(ApiModel):
    """Good: the label says that the prediction was correct."""


class AvailabilitySlo(ApiModel):
    """Good: answered without a server error."""


class Slo(ApiModel):
    """One objective over 30 days: recording rules, burn-rate alerts, error budget (M11)."""

    name: DnsLabel
    """Part of the rules' names."""
    objective: float = Field(gt=0, lt=1)
    """Share of good events."""
    latency: LatencySlo | None = None
    quality: QualitySlo | None = None
    availability: AvailabilitySlo | None = None

    cel = (exactly_one("latency", "quality", "availability", what="slo"),)
