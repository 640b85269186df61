"""Names and labels of every metric that Espalier exports or reads back: what PromQL, rules and dashboards are written against.

Ratios are 0-1, durations are seconds, sizes are bytes, counters end in `_total`. Never a request id, user id or sample id as a label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric family: `labels` in the order in which a client declares them."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str


IDENTITY: Final = ("namespace", "model", "version")
"""Labels on everything about a version. `namespace` is the model's own; Prometheus adds `pod` and `node` as target labels."""

LATENCY_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Seconds. Thresholds of SLOs and SLIs are added as exact edges: a ratio at a boundary is then a counter, not an estimate."""
DELAY_BUCKETS: Final = (1.0, 10.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 21600.0, 86400.0)
"""Seconds between a prediction and its label."""
STDDEV_BUCKETS: Final = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5)
"""Spread of a prediction over samples of an uncertainty estimate."""

OUTCOMES: Final = ("ok", "invalid", "rejected", "throttled", "error")
"""Of a request: only `error` is the server's fault and bad for the errors SLI; `rejected` is an abstention, `invalid` the client's."""
BAD_OUTCOMES: Final = ("error",)
FEEDBACK_RESULTS: Final = ("correct", "wrong")
SPLITS: Final = ("train", "validation")
MAX_CLASSES: Final = 20
"""Classes with a series of their own in the confusion counts; the rest is `other`."""
MAX_FEATURES: Final = 50
"""Features with drift counters."""
CONFIDENCE_BINS: Final = 15
"""Equal-width bins of confidence, as in Guo et al. 2017."""

# --- the server ----------------------------------------------------------------------------------------------------
INFERENCE_REQUESTS: Final = Metric(
    "inference_requests_total", "counter", (*IDENTITY, "outcome"), "Requests by outcome."
)
INFERENCE_DURATION: Final = Metric("inference_duration_seconds", "histogram", IDENTITY, "Time from request to answer.")
INFERENCE_INFLIGHT: Final = Metric("inference_inflight", "gauge", IDENTITY, "Requests being answered or queued.")
MODEL_INFO: Final = Metric(
    "model_info", "gauge", (*IDENTITY, "digest", "task", "framework"), "1; joins identity to facts."
)
MODEL_LOAD: Final = Metric("model_load_seconds", "gauge", IDENTITY, "Download, verification and warm-up at start.")
MODEL_SIZE: Final = Metric("model_artifact_size_bytes", "gauge", IDENTITY, "Bytes of the served model (M7).")
FEEDBACK: Final = Metric("model_feedback_total", "counter", (*IDENTITY, "result"), "Labels joined to predictions (M2).")
FEEDBACK_DELAY: Final = Metric("model_feedback_delay_seconds", "histogram", IDENTITY, "Time from prediction to label.")
FEEDBACK_UNMATCHED: Final = Metric(
    "model_feedback_unmatched_total",
    "counter",
    (*IDENTITY, "reason"),
    "Labels whose prediction is unknown, expired or given twice.",
)
CONFIDENCE_SUM: Final = Metric(
    "model_confidence_sum_total", "counter", (*IDENTITY, "bin"), "Sum of confidence of labelled predictions (M3)."
)
CONFIDENCE_CORRECT: Final = Metric(
    "model_confidence_correct_total", "counter", (*IDENTITY, "bin"), "Correct among labelled predictions (M3)."
)
CONFIDENCE_LABELLED: Final = Metric(
    "model_confidence_labelled_total", "counter", (*IDENTITY, "bin"), "Labelled predictions (M3)."
)
PREDICTION_STDDEV: Final = Metric(
    "model_prediction_stddev", "histogram", IDENTITY, "Spread over uncertainty samples (M4)."
)
CONFUSION: Final = Metric(
    "model_confusion_total", "counter", (*IDENTITY, "actual", "predicted"), "Labelled predictions by class (M9)."
)
FEATURE_OBSERVATIONS: Final = Metric(
    "model_feature_observations_total", "counter", (*IDENTITY, "feature", "bin"), "Served inputs by reference bin (M8)."
)

# --- the trainer, live; the operator exports the same gauges from status when the pod is gone ------------------------
TRAINING_LOSS: Final = Metric(
    "model_training_loss", "gauge", (*IDENTITY, "split"), "Eval-mode loss without penalties (M1)."
)
REGULARIZER_COEFFICIENT: Final = Metric(
    "model_regularizer_coefficient", "gauge", (*IDENTITY, "name"), "Strength in force now."
)
REGULARIZER_VALUE: Final = Metric(
    "model_regularizer_value", "gauge", (*IDENTITY, "name"), "The term before its coefficient."
)
REGULARIZER_SHARE: Final = Metric(
    "model_regularizer_share", "gauge", (*IDENTITY, "name"), "Share of the objective, 0-1."
)
REGULARIZER_GRADIENT_RATIO: Final = Metric(
    "model_regularizer_gradient_ratio",
    "gauge",
    (*IDENTITY, "name"),
    "Norm of the term's gradient over the data gradient's.",
)
TRAINING_PROGRESS: Final = Metric("model_training_progress_ratio", "gauge", IDENTITY, "Done part of the fit, 0-1.")

# --- the operator ----------------------------------------------------------------------------------------------------
FEATURE_REFERENCE: Final = Metric(
    "model_feature_reference_ratio", "gauge", (*IDENTITY, "feature", "bin"), "Share of training inputs per bin."
)
REFERENCE_ACCURACY: Final = Metric(
    "model_reference_accuracy_ratio", "gauge", IDENTITY, "Accuracy on the test split at release."
)
RETRAIN_RUNS: Final = Metric(
    "mlops_retrain_runs_total", "counter", ("namespace", "model", "reason", "result"), "Retrainings (M10)."
)
RECONCILE_DURATION: Final = Metric(
    "espalier_reconcile_duration_seconds", "histogram", ("kind", "outcome"), "One pass of a loop."
)
RECONCILE_QUEUE_AGE: Final = Metric(
    "espalier_reconcile_queue_age_seconds", "histogram", ("kind",), "From wake-up to start of the pass."
)
RECONCILE_HEARTBEAT: Final = Metric(
    "espalier_reconcile_heartbeat_timestamp_seconds", "gauge", ("kind",), "Oldest loop's last pass."
)
OBJECTS: Final = Metric("espalier_objects", "gauge", ("kind",), "Objects with a running loop.")
API_REQUESTS: Final = Metric(
    "espalier_kubernetes_requests_total", "counter", ("verb", "resource", "code"), "Calls of the API server."
)
SOURCE_QUERIES: Final = Metric(
    "espalier_source_queries_total", "counter", ("source", "result"), "PromQL sent, by result."
)
SOURCE_QUERY_DURATION: Final = Metric(
    "espalier_source_query_duration_seconds", "histogram", ("source",), "Time of one PromQL."
)
SOURCE_CACHE_HITS: Final = Metric(
    "espalier_source_cache_hits_total", "counter", ("source",), "Answers shared between rollouts."
)
STORE_REQUESTS: Final = Metric(
    "espalier_store_requests_total", "counter", ("operation", "result"), "Calls of the object store."
)
ROLLOUT_WEIGHT: Final = Metric(
    "espalier_rollout_weight_ratio", "gauge", ("namespace", "model", "role", "version"), "Intended share, 0-1."
)
ROLLOUT_EVIDENCE: Final = Metric(
    "espalier_rollout_evidence", "gauge", ("namespace", "model", "sli"), "Evidence E against the canary."
)
ROLLOUT_ABORT_AT: Final = Metric(
    "espalier_rollout_abort_at", "gauge", ("namespace", "model", "sli"), "E at which a Fail is called."
)
ROLLOUT_SLI_STATE: Final = Metric(
    "espalier_rollout_sli_state", "gauge", ("namespace", "model", "sli", "state"), "1 on the current state."
)
ROLLOUT_OUTCOMES: Final = Metric(
    "espalier_rollout_outcomes_total", "counter", ("namespace", "model", "outcome"), "Canaries ended."
)
ROLLOUT_ROLLBACK_SECONDS: Final = Metric(
    "espalier_rollout_rollback_seconds", "histogram", (), "From verdict to observed canary weight 0."
)
ROLLOUT_HELD_SECONDS: Final = Metric(
    "espalier_rollout_held_seconds_total", "counter", ("namespace", "model", "reason"), "Time that canaries were held."
)
REFUSED_PODS: Final = Metric(
    "espalier_rollout_refused_pods",
    "gauge",
    ("namespace", "model", "version", "reason"),
    "Serving pods that refuse their version; the reason is the server's error, SignatureError among them.",
)
MODEL_CONDITION: Final = Metric(
    "espalier_condition", "gauge", ("namespace", "kind", "name", "type", "status"), "1 on the current status."
)
TRAINING_ATTEMPTS: Final = Metric(
    "espalier_training_attempts_total", "counter", ("namespace", "model", "outcome"), "Attempts ended."
)

ALL: Final = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
"""Every family above, in order; docs and dashboards are checked against it."""
