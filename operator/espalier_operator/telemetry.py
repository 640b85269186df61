"""The operator's own metrics. Names, labels and help texts come from `espalier_api.metrics`; nothing is spelled twice.

Series of an object are removed when the object goes, so that cardinality follows the fleet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from espalier_api import metrics as names

if TYPE_CHECKING:
    from espalier_api.metrics import Metric

disable_created_metrics()  # type: ignore[no-untyped-call] # doubles the series of every counter and histogram, and nobody queries them
REGISTRY: Final = CollectorRegistry(auto_describe=True)
"""Ours alone: the default registry would bring series of libraries that nobody asked for."""

FAST: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Seconds; a reconcile takes milliseconds, a stuck one takes its whole timeout."""


def counter(metric: Metric) -> Counter:
    """The client's counter for a metric of the contract. The `_total` of the name is added by the client."""
    return Counter(metric.name.removesuffix("_total"), metric.help, metric.labels, registry=REGISTRY)


def gauge(metric: Metric) -> Gauge:
    """The client's gauge for a metric of the contract."""
    return Gauge(metric.name, metric.help, metric.labels, registry=REGISTRY)


def histogram(metric: Metric, buckets: tuple[float, ...] = FAST) -> Histogram:
    """The client's histogram for a metric of the contract, in seconds unless told otherwise."""
    return Histogram(metric.name, metric.help, metric.labels, buckets=buckets, registry=REGISTRY)


API_REQUESTS: Final = counter(names.API_REQUESTS)
RECONCILE_DURATION: Final = histogram(names.RECONCILE_DURATION)
RECONCILE_QUEUE_AGE: Final = histogram(names.RECONCILE_QUEUE_AGE)
RECONCILE_HEARTBEAT: Final = gauge(names.RECONCILE_HEARTBEAT)
OBJECTS: Final = gauge(names.OBJECTS)
STORE_REQUESTS: Final = counter(names.STORE_REQUESTS)
TRAINING_ATTEMPTS: Final = counter(names.TRAINING_ATTEMPTS)
RETRAIN_RUNS: Final = counter(names.RETRAIN_RUNS)
CONDITION: Final = gauge(names.MODEL_CONDITION)
TRAINING_LOSS: Final = gauge(names.TRAINING_LOSS)
TRAINING_PROGRESS: Final = gauge(names.TRAINING_PROGRESS)
REGULARIZER_COEFFICIENT: Final = gauge(names.REGULARIZER_COEFFICIENT)
REGULARIZER_VALUE: Final = gauge(names.REGULARIZER_VALUE)
REGULARIZER_SHARE: Final = gauge(names.REGULARIZER_SHARE)
REGULARIZER_GRADIENT_RATIO: Final = gauge(names.REGULARIZER_GRADIENT_RATIO)
FEATURE_REFERENCE: Final = gauge(names.FEATURE_REFERENCE)
REFERENCE_ACCURACY: Final = gauge(names.REFERENCE_ACCURACY)
