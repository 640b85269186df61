"""Every family is there, at 0, before the first request; names and labels are the contract's; a scrape parses and is
bounded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

from espalier_api import metrics as names
from espalier_server.metrics import MAX_VERSIONS, Metrics
from tests.unit.server.tiny import FEATURES, Version

if TYPE_CHECKING:
    from tests.unit.server.conftest import Pod

SERVED = (
    names.INFERENCE_REQUESTS,
    names.INFERENCE_DURATION,
    names.INFERENCE_INFLIGHT,
    names.FEEDBACK,
    names.FEEDBACK_DELAY,
    names.FEEDBACK_UNMATCHED,
    names.CONFIDENCE_SUM,
    names.CONFIDENCE_CORRECT,
    names.CONFIDENCE_LABELLED,
    names.CONFUSION,
    names.FEATURE_OBSERVATIONS,
)


async def series(pod: Pod) -> dict[str, list[dict[str, str]]]:
    """The labels of every sample, by sample name; all values must be 0."""
    found: dict[str, list[dict[str, str]]] = {}
    text = (await pod.client.get("/metrics")).text
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if not sample.name.startswith("process_"):
                assert sample.value == 0, sample
                found.setdefault(sample.name, []).append(sample.labels)
    return found


async def test_everything_starts_at_zero(pod: Pod) -> None:
    found = await series(pod)
    for metric in SERVED:
        name = f"{metric.name}_count" if metric.kind == "histogram" else metric.name
        assert found[name], metric.name
        for labels in found[name]:
            assert set(labels) == set(metric.labels)
            assert (labels["namespace"], labels["model"], labels["version"]) == ("vision", "digits", "v4")
    assert {labels["outcome"] for labels in found["inference_requests_total"]} == set(names.OUTCOMES)
    assert {labels["result"] for labels in found["model_feedback_total"]} == {"correct", "wrong"}
    assert [labels["bin"] for labels in found["model_confidence_sum_total"]] == [str(index) for index in range(15)]
    assert len(found["model_confusion_total"]) == 9
    assert len(found["model_feature_observations_total"]) == 10 * len(FEATURES)
    assert not any(name.endswith("_created") for name in found)
    assert "model_prediction_stddev_count" not in found, "only with an uncertainty estimate"


async def test_the_thresholds_of_slos_are_exact_edges(pod: Pod) -> None:
    edges = [labels["le"] for labels in (await series(pod))["inference_duration_seconds_bucket"]]
    assert [float(edge) for edge in edges[:-1]] == list(names.LATENCY_BUCKETS)


def classes(count: int) -> tuple[str, ...]:
    return tuple(f"c{index}" for index in range(count))


def test_classes_beyond_twenty_share_one_series() -> None:
    metrics = Metrics(Version().config())
    metrics.describe(classes=classes(30), features=[])
    feedback = metrics.of_version("v4")
    assert feedback is not None
    feedback.classified(actual=25, predicted=3, confidence=1.0, delay=0.0)
    text = metrics.text().decode()
    assert text.count("model_confusion_total{") == 21 * 21
    assert 'actual="other",predicted="c3"} 1.0' in text
    assert 'model_confidence_correct_total{bin="14",model="digits",namespace="vision",version="v4"} 0.0' in text


def test_versions_with_feedback_are_bounded() -> None:
    metrics = Metrics(Version().config())
    metrics.describe(classes=classes(2), features=[])
    assert all(metrics.of_version(f"v{number}") for number in range(MAX_VERSIONS))
    assert metrics.of_version("v999") is None
    assert metrics.of_version("v4") is not None


def test_facts_of_the_served_version() -> None:
    metrics = Metrics(Version().config())
    metrics.loaded(digest="sha256:1", task="regression", framework="sklearn 1.9", seconds=1.5, size=254)
    text = metrics.text().decode()
    assert 'digest="sha256:1",framework="sklearn 1.9",model="digits"' in text
    assert 'model_load_seconds{model="digits",namespace="vision",version="v4"} 1.5' in text
    assert 'model_artifact_size_bytes{model="digits",namespace="vision",version="v4"} 254.0' in text
