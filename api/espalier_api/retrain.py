"""RetrainPolicy: when a new version is trained without anyone asking, within which limits, and how far regularizers may be adjusted."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from espalier_api.analysis import PromQL
from espalier_api.base import ApiModel, Cel, ListMap, Resource, StatusModel, exactly_one
from espalier_api.conditions import Condition
from espalier_api.data import Digest, S3Uri
from espalier_api.durations import Duration, Timestamp, parse_duration
from espalier_api.engines import Scalar
from espalier_api.kubernetes import LocalReference, ObjectMeta
from espalier_api.model_spec import DnsLabel
from espalier_api.names import API_VERSION
from espalier_api.search import FieldPath

Cron = Annotated[str, StringConstraints(pattern=r"^\S+( +\S+){4}$", max_length=128)]
"""Five fields: minute, hour, day of month, month, day of week."""
TimeZone = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_+/-]+$", max_length=64)]
"""Name in the IANA database."""


class ScheduleTrigger(ApiModel):
    """At fixed times."""

    cron: Cron
    """When."""
    time_zone: TimeZone = "Etc/UTC"
    """Where."""
    starting_deadline: Duration = parse_duration("1h")
    """How late a missed time may still fire."""


class DriftFeatures(ApiModel):
    """How widespread drift must be."""

    at_least: int = Field(default=1, ge=1, le=1000)
    """Features over the threshold."""


class DriftTrigger(ApiModel):
    """The champion's inputs no longer look like its training data."""

    metric: Literal["psi", "ks"] = "psi"
    """Distance of distributions."""
    threshold: float = Field(default=0.2, gt=0, le=10)
    """Fires above."""
    features: DriftFeatures = DriftFeatures()
    """How widespread."""
    for_: Duration = Field(default=parse_duration("1h"), alias="for")
    """Without a break."""
    min_observations: int = Field(default=1000, ge=1, le=1_000_000_000)
    """Fewest inputs in the window; fewer are silence."""


class SloBurnTrigger(ApiModel):
    """An SLO of the model burns its error budget."""

    slo: DnsLabel
    """Name in the model's spec.slos."""
    rate: float = Field(default=1.0, gt=0, le=1000)
    """Times the sustainable rate."""
    windows: tuple[Duration, ...] = Field(
        default=(parse_duration("3d"), parse_duration("6h")), min_length=1, max_length=4
    )
    """All must burn."""


class NewSnapshotTrigger(ApiModel):
    """A new folder appeared."""

    prefix: S3Uri
    """Where folders appear."""
    pattern: str = Field(default="YYYY-MM-DD", min_length=1, max_length=64, pattern=r"^[YMDhms0-9._-]+$")
    """How folders are named: YYYY, MM, DD, hh, mm, ss and literal digits, dots, dashes."""
    poll: Duration = parse_duration("10m")
    """How often to look."""


class RollbackTrigger(ApiModel):
    """The model's canary was rolled back."""


class QueryTrigger(ApiModel):
    """Your own number."""

    expr: PromQL
    """One number."""
    above: float | None = None
    """Fires above."""
    below: float | None = None
    """Fires below."""
    for_: Duration = Field(default=parse_duration("30m"), alias="for")
    """Without a break."""
    source: DnsLabel = "default"
    """A Prometheus in the operator's settings."""

    cel = (exactly_one("above", "below", what="query"),)


class Trigger(ApiModel):
    """One reason to train."""

    name: DnsLabel
    """Unique in the policy."""
    schedule: ScheduleTrigger | None = None
    drift: DriftTrigger | None = None
    slo_burn: SloBurnTrigger | None = None
    new_snapshot: NewSnapshotTrigger | None = None
    rollback: RollbackTrigger | None = None
    query: QueryTrigger | None = None

    cel = (exactly_one("schedule", "drift", "slo_burn", "new_snapshot", "rollback", "query", what="trigger"),)


class SnapshotSource(ApiModel):
    """Which data a request trains on."""

    from_: Literal["latest", "model"] = Field(default="model", alias="from")
    """The newest folder below prefix, or the model's own snapshot."""
    prefix: S3Uri | None = None
    """Where folders lie."""

    cel = (
        Cel(
            rule="(has(self.from) && self.from == 'latest') == has(self.prefix)",
            message="snapshot: from latest needs prefix, and only it has one",
            holds=lambda source: (source.from_ == "latest") == (source.prefix is not None),
        ),
    )


class Adjustment(ApiModel):
    """One bounded change of one field, for one failure mode."""

    when: Literal["F1", "F2", "F3", "F4", "F5", "F6", "F7", "F8"]
    """Diagnosis of the last version."""
    field: FieldPath
    """Which number below spec."""
    multiply: float | None = Field(default=None, gt=0, le=1000)
    """Factor."""
    add: float | None = None
    """Summand."""
    min: float
    """Never below."""
    max: float
    """Never above."""

    cel = (
        exactly_one("multiply", "add", what="adjust"),
        Cel(
            rule="self.min < self.max",
            message="adjust: min must be smaller than max",
            holds=lambda adjustment: adjustment.min < adjustment.max,
        ),
        Cel(
            rule="self.field.startsWith('regularizers.')",
            message="adjust: only fields of regularizers can be adjusted",
            holds=lambda adjustment: adjustment.field.startswith("regularizers."),
        ),
    )


class Limits(ApiModel):
    """How much retraining is allowed."""

    cooldown: Duration = parse_duration("6h")
    """Between requests."""
    max_per_day: int = Field(default=2, ge=1, le=100)
    """Requests in 24 hours."""
    stop_after_failures: int = Field(default=3, ge=1, le=100)
    """Failed requests in a row before a person has to look."""
    while_canary: Literal["Wait", "Proceed"] = "Wait"
    """Whether to train while a canary is in flight."""


class Suppression(ApiModel):
    """A window without requests."""

    cron: Cron
    """When it begins."""
    duration: Duration
    """How long it lasts."""
    time_zone: TimeZone = "Etc/UTC"
    """Where."""
    reason: str = Field(default="", max_length=256)
    """Told to people."""


class RetrainPolicySpec(ApiModel):
    """When, on what, how far, how often."""

    model_ref: LocalReference
    """The RegularizedModel."""
    triggers: Annotated[tuple[Trigger, ...], Field(min_length=1, max_length=16), ListMap("name")]
    """Any of them fires a request."""
    snapshot: SnapshotSource = SnapshotSource()
    """Which data."""
    adjust: tuple[Adjustment, ...] = Field(default=(), max_length=16)
    """Bounded changes; recorded, reversible, never outside their bounds."""
    limits: Limits = Limits()
    """How often."""
    suppress: tuple[Suppression, ...] = Field(default=(), max_length=16)
    """Windows without requests."""
    frozen: bool = False
    """Hold all requests."""

    cel = (
        Cel(
            rule="self.modelRef.name == oldSelf.modelRef.name",
            message="modelRef cannot change, because the history in status belongs to its model; create another policy",
            holds=lambda _: True,
            judged_by="server",
        ),
    )


class TriggerStatus(StatusModel):
    """What one trigger saw."""

    name: str = Field(max_length=63)
    state: Literal["Quiet", "Firing", "NoData", "SourceDown"] = "Quiet"
    value: float | None = None
    since: Timestamp | None = None
    last_fired: Timestamp | None = None
    next: Timestamp | None = None
    message: str | None = Field(default=None, max_length=1024)


class RequestSnapshot(StatusModel):
    """The data that a request names."""

    uri: S3Uri
    digest: Digest | None = None


class Override(StatusModel):
    """One field of the effective spec that differs from the model's."""

    field: str = Field(max_length=128)
    from_: Scalar | None = Field(default=None, alias="from")
    to: Scalar


class RetrainRequest(StatusModel):
    """What the model controller acts on, exactly once per id. Never edits a spec: effective spec = spec + request."""

    id: str = Field(max_length=128)
    trigger: str = Field(max_length=63)
    reason: str = Field(default="", max_length=1024)
    snapshot: RequestSnapshot | None = None
    overrides: Annotated[tuple[Override, ...], Field(max_length=16), ListMap("field")] = ()
    at: Timestamp


class RetrainHistoryEntry(StatusModel):
    """How one request ended."""

    id: str = Field(max_length=128)
    trigger: str = Field(max_length=63)
    at: Timestamp
    version: str | None = Field(default=None, max_length=16)
    outcome: str | None = Field(default=None, max_length=64)
    reason: str | None = Field(default=None, max_length=1024)


class RetrainPolicyStatus(StatusModel):
    """What was observed."""

    observed_generation: int = 0
    conditions: Annotated[tuple[Condition, ...], Field(max_length=16), ListMap("type")] = ()
    triggers: Annotated[tuple[TriggerStatus, ...], Field(max_length=16), ListMap("name")] = ()
    request: RetrainRequest | None = None
    history: tuple[RetrainHistoryEntry, ...] = Field(default=(), max_length=20)
    """Newest first."""


class RetrainPolicy(Resource):
    """The whole object."""

    api_version: Literal["espalier.dev/v1alpha1"] = API_VERSION
    kind: Literal["RetrainPolicy"] = "RetrainPolicy"
    metadata: ObjectMeta
    spec: RetrainPolicySpec
    status: RetrainPolicyStatus = RetrainPolicyStatus()
