"""What a pod tells Prometheus: the families of espalier_api.metrics, all of them at 0 from the first scrape on.

A series that is born with its first error loses that error to every rate; hence the initialisation. The two large
families (confusion, features: up to 441 and 500 series) are plain integer arrays that render themselves, so that
counting costs one numpy addition per request and a scrape well under a millisecond.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from espalier_api import metrics as names

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from espalier_api.metrics import Metric
    from espalier_api.serving import ServingConfig

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
UNMATCHED_REASONS: Final = ("malformed", "foreign", "expired", "duplicate")
OTHER: Final = "other"
MAX_VERSIONS: Final = 32
"""Versions with feedback series in one pod; ids are signed, so only versions that really served can appear."""


class CounterGrid:
    """A counter family whose series are the items of integer arrays."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric
        self._parts: list[tuple[list[str], NDArray[np.int64]]] = []

    def add(self, identity: Sequence[str], series: Iterable[tuple[str, ...]]) -> NDArray[np.int64]:
        """New series of one version, at 0; the caller adds to the returned array (from one thread only)."""
        heads = [self._head((*identity, *labels)) for labels in series]
        counts = np.zeros(len(heads), dtype=np.int64)
        self._parts.append((heads, counts))
        return counts

    def text(self) -> str:
        """The family in Prometheus's text format 0.0.4."""
        lines = [f"# HELP {self._metric.name} {self._metric.help}", f"# TYPE {self._metric.name} counter"]
        for heads, counts in self._parts:
            lines += [f"{head} {count}.0" for head, count in zip(heads, counts.tolist(), strict=True)]
        return "\n".join(lines) + "\n"

    def _head(self, values: tuple[str, ...]) -> str:
        pairs = zip(self._metric.labels, values, strict=True)
        labels = ",".join(f'{label}="{_escape(value)}"' for label, value in pairs)
        return f"{self._metric.name}{{{labels}}}"


class FeedbackSeries:
    """Everything that labels tell about one version."""

    def __init__(self, metrics: Metrics, version: str) -> None:
        identity = (*metrics.identity[:2], version)
        self.results = {result: metrics.feedback.labels(*identity, result) for result in names.FEEDBACK_RESULTS}
        self.delay = metrics.delay.labels(*identity)
        bins = range(names.CONFIDENCE_BINS)
        self._sums = [metrics.confidence_sum.labels(*identity, str(i)) for i in bins]
        self._correct = [metrics.confidence_correct.labels(*identity, str(i)) for i in bins]
        self._labelled = [metrics.confidence_labelled.labels(*identity, str(i)) for i in bins]
        self._classes = metrics.confusion_classes
        pairs = [(actual, predicted) for actual in self._classes for predicted in self._classes]
        self._confusion = metrics.confusion.add(identity, pairs)

    def classified(self, actual: int, predicted: int, confidence: float, delay: float) -> str:
        """Count a label of a classification; returns the result."""
        result = self._joined(correct=actual == predicted, delay=delay)
        index = min(int(confidence * names.CONFIDENCE_BINS), names.CONFIDENCE_BINS - 1)
        self._sums[index].inc(confidence)
        self._labelled[index].inc()
        if actual == predicted:
            self._correct[index].inc()
        last = len(self._classes) - 1
        self._confusion[min(actual, last) * len(self._classes) + min(predicted, last)] += 1
        return result

    def measured(self, *, correct: bool, delay: float) -> str:
        """Count a label of a regression; returns the result."""
        return self._joined(correct=correct, delay=delay)

    def _joined(self, *, correct: bool, delay: float) -> str:
        result = "correct" if correct else "wrong"
        self.results[result].inc()
        self.delay.observe(delay)
        return result


class Metrics:
    """All metrics of one pod. Without a model only identity is known; `describe` adds what the artifact tells."""

    def __init__(self, config: ServingConfig) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call] # prometheus_client forgot it
        self.identity = (config.namespace, config.model, config.version)
        self._registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._registry)
        requests = self._counter(names.INFERENCE_REQUESTS)
        self.outcomes = {outcome: requests.labels(*self.identity, outcome) for outcome in names.OUTCOMES}
        self.duration = self._histogram(names.INFERENCE_DURATION, config.latency_buckets).labels(*self.identity)
        self.inflight = self._gauge(names.INFERENCE_INFLIGHT).labels(*self.identity)
        unmatched = self._counter(names.FEEDBACK_UNMATCHED)
        self.unmatched = {reason: unmatched.labels(*self.identity, reason) for reason in UNMATCHED_REASONS}
        self.feedback = self._counter(names.FEEDBACK)
        self.delay = self._histogram(names.FEEDBACK_DELAY, names.DELAY_BUCKETS)
        self.confidence_sum = self._counter(names.CONFIDENCE_SUM)
        self.confidence_correct = self._counter(names.CONFIDENCE_CORRECT)
        self.confidence_labelled = self._counter(names.CONFIDENCE_LABELLED)
        self.confusion = CounterGrid(names.CONFUSION)
        self.confusion_classes: tuple[str, ...] = ()
        self._features = CounterGrid(names.FEATURE_OBSERVATIONS)
        self._feature_counts = np.zeros(0, dtype=np.int64)
        self._by_version: dict[str, FeedbackSeries] = {}

    def describe(self, *, classes: Sequence[str], features: Sequence[tuple[str, str]]) -> None:
        """Make the series that need the artifact: this version's feedback and the feature bins."""
        few = len(classes) <= names.MAX_CLASSES
        self.confusion_classes = tuple(classes) if few else (*classes[: names.MAX_CLASSES], OTHER)
        self._feature_counts = self._features.add(self.identity, features)
        self.of_version(self.identity[2])

    def loaded(self, *, digest: str, task: str, framework: str, seconds: float, size: int) -> None:
        """Record the facts of the served version; `seconds` from start to ready, `size` in bytes."""
        self._gauge(names.MODEL_INFO).labels(*self.identity, digest, task, framework).set(1)
        self._gauge(names.MODEL_LOAD).labels(*self.identity).set(seconds)
        self._gauge(names.MODEL_SIZE).labels(*self.identity).set(size)

    def observe_features(self, counts: NDArray[np.intp]) -> None:
        """Add the observations of one request."""
        self._feature_counts += counts

    def of_version(self, version: str) -> FeedbackSeries | None:
        """The feedback series of a version, made at 0 when it is first seen; None beyond MAX_VERSIONS."""
        if version not in self._by_version:
            if len(self._by_version) >= MAX_VERSIONS:
                return None
            self._by_version[version] = FeedbackSeries(self, version)
        return self._by_version[version]

    def text(self) -> bytes:
        """The scrape's answer."""
        return generate_latest(self._registry) + (self.confusion.text() + self._features.text()).encode()

    def _counter(self, metric: Metric) -> Counter:
        return Counter(metric.name, metric.help, metric.labels, registry=self._registry)

    def _gauge(self, metric: Metric) -> Gauge:
        return Gauge(metric.name, metric.help, metric.labels, registry=self._registry)

    def _histogram(self, metric: Metric, buckets: Sequence[float]) -> Histogram:
        return Histogram(metric.name, metric.help, metric.labels, buckets=buckets, registry=self._registry)


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
