"""A loaded version: one infer request in, one response body out, and everything that is counted about it.

`compute` runs in a worker thread and touches no metric; `count` runs on the event loop, so the counters need no locks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from espalier_api.artifact import ONNX_LABEL, ONNX_PROBABILITIES, ONNX_VALUE, REFERENCE
from espalier_server.drift import FeatureBins
from espalier_server.errors import ArtifactError
from espalier_server.feedback import FeedbackDesk
from espalier_server.ids import PredictionIds
from espalier_server.inputs import InputReader
from espalier_server.protocol import Output, describe_model, output_names, read_query, write_answer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from espalier_api.serving import OutputGuards, ServingConfig
    from espalier_server.golden import GoldenReport
    from espalier_server.metrics import Metrics
    from espalier_server.model import Answer, Model

TOLERANCE_IN_RMSE = 2.0
"""A regression's answer within two test RMSE of the label is correct, unless reference.json names a `tolerance`."""


@dataclass(frozen=True, slots=True)
class Served:
    """A response body, whether every row was answered, and the observations of the features."""

    body: bytes
    outcome: str
    features: NDArray[np.intp]


class ServedModel:
    """One version, ready."""

    def __init__(
        self,
        config: ServingConfig,
        model: Model,
        golden: GoldenReport,
        reference: Mapping[str, Any],
        metrics: Metrics,
    ) -> None:
        """Raises ArtifactError when `reference` (reference.json) does not fit the model."""
        task = model.task
        self._config = config
        self._guards = _strictest(config.output_guards, task.min_confidence)
        self._model = model
        self._metrics = metrics
        self._reader, self._outputs_known = InputReader(task), output_names(task)
        self._bins = FeatureBins.of(reference, task.features, task.vocabulary)
        self._ids = PredictionIds(config.feedback.key, config.version, task.classes)
        self._classes = np.array(task.classes, dtype=object)
        metrics.describe(classes=task.classes, features=self._bins.series())
        self.feedback = FeedbackDesk(task, config.feedback, self._ids, metrics, _tolerance(reference, task.type))
        self.is_small = golden.cost.is_small
        self.description = describe_model(config, task, golden)

    def compute(self, raw: bytes, now_ms: int) -> Served:
        """Answer one request body at a time in milliseconds. Raises InvalidRequestError or ModelFailedError."""
        query = read_query(raw, self._reader, self._outputs_known, self._config.limits.max_batch)
        answer = self._model.run(query.rows)
        predicted, confidence = _claims(answer)
        rejected = _guard(answer, confidence, self._guards)
        flags = rejected.tolist()
        claims = zip(predicted.tolist(), confidence.tolist(), flags, strict=True)
        ids = [self._ids.issue(now_ms, value, sure, rejected=flag) for value, sure, flag in claims]
        any_rejected = any(flags)
        outputs = self._outputs(answer, rejected if any_rejected else None)
        body = write_answer(self._config, query, ids, flags if any_rejected else None, outputs)
        return Served(body, "rejected" if any_rejected else "ok", self._bins.count(query.rows))

    def count(self, served: Served) -> None:
        """Add what `compute` observed to the metrics."""
        self._metrics.observe_features(served.features)

    def _outputs(self, answer: Answer, rejected: NDArray[np.bool_] | None) -> list[Output]:
        if answer.label is not None and answer.probabilities is not None:
            labels = self._classes[answer.label]
            if rejected is not None:
                labels[rejected] = None
            return [
                Output(ONNX_LABEL, "BYTES", answer.label.shape, labels.tolist()),
                Output(ONNX_PROBABILITIES, "FP32", answer.probabilities.shape, answer.probabilities.ravel()),
            ]
        assert answer.value is not None  # noqa: S101 - an Answer holds one or the other
        values: NDArray[Any] | list[Any] = answer.value
        if rejected is not None:
            maybe = answer.value.astype(object)
            maybe[rejected] = None
            values = maybe.tolist()
        return [Output(ONNX_VALUE, "FP32", (len(answer.value), 1), values)]


def _claims(answer: Answer) -> tuple[NDArray[Any], NDArray[Any]]:
    """What each row claims (class index or value) and how sure it is (1.0 for a regression)."""
    if answer.label is not None and answer.probabilities is not None:
        return answer.label, answer.probabilities[np.arange(len(answer.label)), answer.label]
    assert answer.value is not None  # noqa: S101 - an Answer holds one or the other
    return answer.value, np.ones(len(answer.value))


def _strictest(guards: OutputGuards, promised: float | None) -> OutputGuards:
    """The spec's guards, raised to the confidence below which the version itself was trained not to answer (abstention)."""
    declared = guards.min_confidence
    both = [bound for bound in (declared, promised) if bound is not None]
    return guards.model_copy(update={"min_confidence": max(both, default=None)})


def _guard(answer: Answer, confidence: NDArray[Any], guards: OutputGuards) -> NDArray[np.bool_]:
    """True for each row that must not be answered."""
    rejected = np.zeros(len(confidence), dtype=np.bool_)
    if answer.label is not None and guards.min_confidence is not None:
        rejected |= confidence < guards.min_confidence
    if answer.value is not None and guards.range is not None:
        low = -np.inf if guards.range.min is None else guards.range.min
        high = np.inf if guards.range.max is None else guards.range.max
        rejected |= (answer.value < low) | (answer.value > high)
    return rejected


def _tolerance(reference: Mapping[str, Any], task: str) -> float:
    """How far a regression's answer may be from its label, in the target's units. 0 for a classification, which does
    not ask.
    """
    if task != "regression":
        return 0.0
    for name, factor in (("tolerance", 1.0), ("rmse", TOLERANCE_IN_RMSE)):
        value = reference.get(name)
        if isinstance(value, int | float) and value >= 0:
            return float(value) * factor
    raise ArtifactError(f"{REFERENCE}: a regression needs tolerance or rmse, to tell which feedback counts as correct")
