"""What a serving pod is told: serving.json in its ConfigMap."""

from __future__ import annotations

from pydantic import Field

from espalier_api.base import ApiModel
from espalier_api.durations import Duration, parse_duration
from espalier_api.hashing import DIGEST_PATTERN
from espalier_api.metrics import LATENCY_BUCKETS


class OutputRange(ApiModel):
    """Closed interval of acceptable answers of a regression."""

    min: float | None = None
    """Answers below are refused."""
    max: float | None = None
    """Answers above are refused."""


class OutputGuards(ApiModel):
    """What the server refuses to answer (outcome `rejected`)."""

    min_confidence: float | None = Field(default=None, gt=0, lt=1)
    """Abstain when the largest probability is below."""
    range: OutputRange | None = None
    """Abstain when a regression's value lies outside."""


class ServingLimits(ApiModel):
    """Bounds of one pod; beyond them 413, 400 or 429 with Retry-After."""

    max_body_bytes: int = Field(default=4 * 2**20, ge=1024, le=2**30)
    """Bytes of a request body."""
    max_batch: int = Field(default=1024, ge=1, le=100_000)
    """Rows in one request."""
    max_queue: int = Field(default=256, ge=1, le=100_000)
    """Requests waiting for a worker."""
    concurrency: int = Field(default=2, ge=1, le=256)
    """Requests computed at once."""
    request_timeout_seconds: float = Field(default=30.0, gt=0, le=3600)
    """Longest time in queue and computation."""


class FeedbackSettings(ApiModel):
    """How labels are joined to predictions without a store: the prediction id carries what is needed and an HMAC over it."""

    key: str = Field(min_length=1, max_length=128)
    """UID of the RegularizedModel: keeps ids of other models out. Integrity, not authentication."""
    ttl: Duration = parse_duration("24h")
    """Age after which a label is refused with 410."""
    capacity: int = Field(default=100_000, ge=1, le=10_000_000)
    """Ids remembered per pod, so that a label counts once."""


class ServingConfig(ApiModel):
    """serving.json."""

    namespace: str
    model: str
    version: str
    artifact_uri: str
    """`s3://<bucket>/<prefix>/<namespace>/<model>/<version>/`."""
    digest: str = Field(pattern=DIGEST_PATTERN)
    """The intended version's; the server refuses any other manifest."""
    public_key_path: str | None = None
    """PEM of the keys of which one must have signed the version (model.sig); absent means that no signature is asked for."""
    output_guards: OutputGuards = OutputGuards()
    limits: ServingLimits = ServingLimits()
    latency_buckets: tuple[float, ...] = LATENCY_BUCKETS
    """Seconds, increasing; holds every latency threshold of SLOs and SLIs as an exact edge."""
    feedback: FeedbackSettings
    drain_seconds: float = Field(default=15.0, ge=0, le=600)
    """After SIGTERM: time to finish what was accepted, while not ready."""
