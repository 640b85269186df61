"""Which SLIs judge a canary, with how much evidence, and what silence means. Units: ratios 0-1, thresholds are durations."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from espalier_api.base import ApiModel, Cel, ListMap, exactly_one
from espalier_api.durations import Duration, parse_duration
from espalier_api.model_spec import DnsLabel

PromQL = Annotated[str, StringConstraints(min_length=1, max_length=4096)]
"""One expression; `$namespace`, `$model`, `$canary` and `$stable` (versions) are replaced."""


class ErrorRatioSli(ApiModel):
    """Bad: requests that ended in a server error."""


class LatencySli(ApiModel):
    """Bad: requests slower than the threshold."""

    threshold: Duration
    """Becomes an exact bucket edge of the server's histogram."""
    distribution: bool = False
    """Spend half of the evidence on the other edges, to catch small shifts that the threshold misses."""

    cel = (
        Cel(
            rule="self.threshold.matches('[1-9]')",
            message="latency: threshold must be longer than 0",
            holds=lambda sli: sli.threshold.total_seconds() > 0,
        ),
    )


class QualitySli(ApiModel):
    """Bad: predictions whose label says they were wrong."""


class DriftSli(ApiModel):
    """Population stability index of the canary's inputs against training; a threshold, not a comparison."""

    max_psi: float = Field(default=0.2, gt=0, le=10, alias="maxPSI")
    """Largest accepted value of the worst feature."""


class DisagreementSli(ApiModel):
    """Share of mirrored requests that canary and stable answer differently; needs strategy.shadow."""

    max: float = Field(default=0.1, gt=0, lt=1)
    """Largest accepted share."""


class CountsSli(ApiModel):
    """Your own counters, judged like the presets. Each expression is an increasing count per version."""

    bad: PromQL
    """Bad events, with `$version`."""
    total: PromQL
    """All events, with `$version`."""


class SequentialOverride(ApiModel):
    """What differs from analysis.sequential for one SLI."""

    max_ratio: float | None = Field(default=None, ge=1, le=100)
    """Accepted ratio of bad shares, canary to stable."""
    floor: float | None = Field(default=None, ge=0, lt=1)
    """Accepted difference on top."""
    min_requests: int | None = Field(default=None, ge=1, le=1_000_000_000)
    """Fewest canary requests before a verdict."""
    min_bad: int | None = Field(default=None, ge=1, le=1_000_000)
    """Fewest bad canary requests before a Fail."""


class Sequential(ApiModel):
    """The paired e-process: exact under any number of looks."""

    alpha: float = Field(default=0.05, gt=0, le=0.5)
    """Probability of a false abort over the whole canary, shared by all SLIs."""
    beta: float = Field(default=0.05, gt=0, le=0.5)
    """Of a false Pass, where a Pass is asked for (strategy.requireEvidence)."""
    max_ratio: float = Field(default=1.1, ge=1, le=100)
    """Accepted ratio of bad shares, canary to stable."""
    floor: float = Field(default=0.0005, ge=0, lt=1)
    """Accepted difference on top; 0.0005 is 5 % of a 99 % objective's budget."""
    min_requests: int = Field(default=20, ge=1, le=1_000_000_000)
    """Fewest canary requests before a verdict."""
    min_bad: int = Field(default=3, ge=1, le=1_000_000)
    """Fewest bad canary requests before a Fail."""


class Sli(ApiModel):
    """One indicator: a preset, counters, or a threshold on a query."""

    name: DnsLabel
    """Unique in the rollout."""
    error_ratio: ErrorRatioSli | None = None
    latency: LatencySli | None = None
    quality: QualitySli | None = None
    drift: DriftSli | None = None
    disagreement: DisagreementSli | None = None
    counts: CountsSli | None = None
    query: PromQL | None = None
    """A single number, compared with min and max as it is."""
    min: float | None = None
    """Smallest accepted value of the query."""
    max: float | None = None
    """Largest accepted value of the query."""
    failure_limit: int | None = Field(default=None, ge=0, le=1000)
    """Breaches that are tolerated (drift and query); absent means 0."""
    consecutive_error_limit: int | None = Field(default=None, ge=0, le=1000)
    """Unusable answers in a row before the source counts as down (drift and query); absent means 4."""
    label_delay: Duration | None = None
    """How long labels take; evidence waits for it (quality)."""
    sequential: SequentialOverride | None = None
    """What differs from the defaults (presets and counts)."""
    weight: int = Field(default=1, ge=1, le=100)
    """Share of alpha, relative to the other SLIs."""
    dry_run: bool = False
    """Judge and show, but never act."""

    cel = (
        exactly_one("error_ratio", "latency", "quality", "drift", "disagreement", "counts", "query", what="sli"),
        Cel(
            rule="has(self.query) == (has(self.min) || has(self.max))",
            message="sli: a query needs min and/or max, and only a query has them",
            holds=lambda sli: (sli.query is not None) == (sli.min is not None or sli.max is not None),
        ),
        Cel(
            rule="!has(self.min) || !has(self.max) || self.min <= self.max",
            message="sli: min must not be larger than max",
            holds=lambda sli: sli.min is None or sli.max is None or sli.min <= sli.max,
        ),
        Cel(
            rule="has(self.query) || has(self.drift) || has(self.disagreement)"
            " || (!has(self.failureLimit) && !has(self.consecutiveErrorLimit))",
            message="sli: failureLimit and consecutiveErrorLimit belong to thresholds (query, drift, disagreement);"
            " the others weigh evidence",
            holds=lambda sli: sli.is_threshold or (sli.failure_limit is None and sli.consecutive_error_limit is None),
        ),
        Cel(
            rule="!has(self.sequential) || !(has(self.query) || has(self.drift) || has(self.disagreement))",
            message="sli: sequential belongs to errorRatio, latency, quality and counts; thresholds have failureLimit",
            holds=lambda sli: sli.sequential is None or not sli.is_threshold,
        ),
        Cel(
            rule="!has(self.labelDelay) || has(self.quality)",
            message="sli: labelDelay belongs to quality, the only one that waits for labels",
            holds=lambda sli: sli.label_delay is None or sli.quality is not None,
        ),
    )

    @property
    def is_threshold(self) -> bool:
        """True for query, drift and disagreement: a number against a bound instead of evidence."""
        return self.query is not None or self.drift is not None or self.disagreement is not None

    @property
    def kind(self) -> str:
        """`errorRatio`, `latency`, `quality`, `drift`, `disagreement`, `counts` or `query`."""
        kinds = {
            "errorRatio": self.error_ratio,
            "latency": self.latency,
            "quality": self.quality,
            "drift": self.drift,
            "disagreement": self.disagreement,
            "counts": self.counts,
        }
        return next((name for name, value in kinds.items() if value is not None), "query")


class OnNoData(ApiModel):
    """The source answers, but an arm's series are missing although its pods are ready."""

    policy: Literal["Hold", "Rollback", "Proceed"] = "Hold"
    """Stop the step's clock, treat it as a breach, or go on without this SLI."""
    deadline: Duration = parse_duration("15m")
    """Longest hold."""
    then: Literal["Pause", "Rollback", "Proceed"] = "Pause"
    """After it."""


class OnSourceDown(ApiModel):
    """The source does not answer, or not in a way that can be understood."""

    policy: Literal["Hold", "Rollback", "Proceed"] = "Hold"
    """Stop the step's clock, treat it as a breach, or go on without this SLI."""
    deadline: Duration = parse_duration("1h")
    """Longest hold."""
    then: Literal["Pause", "Rollback", "Proceed"] = "Pause"
    """After it."""


DEFAULT_SLIS = (Sli(name="errors", error_ratio=ErrorRatioSli()),)


class Analysis(ApiModel):
    """Which numbers decide."""

    source: DnsLabel = "default"
    """A Prometheus in the operator's settings, with its URL and credentials."""
    interval: Duration = parse_duration("30s")
    """Length of a block; blocks are aligned to the epoch, so all rollouts share queries."""
    sequential: Sequential = Sequential()
    """Defaults for all SLIs that weigh evidence."""
    slis: Annotated[tuple[Sli, ...], Field(min_length=1, max_length=16), ListMap("name")] = DEFAULT_SLIS
    """All must hold."""
    on_no_data: OnNoData = OnNoData()
    """When an arm is silent."""
    on_source_down: OnSourceDown = OnSourceDown()
    """When the source is down."""
    on_inconclusive: Literal["Pause", "Promote", "Rollback"] = "Pause"
    """When a step ends without enough requests."""

    cel = (
        Cel(
            rule="!has(self.interval) || self.interval.matches('[1-9]')",
            message="analysis: interval must be longer than 0",
            holds=lambda analysis: analysis.interval.total_seconds() > 0,
        ),
    )
