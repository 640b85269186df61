"""Joins a label that arrives later to the prediction it belongs to. The id holds the prediction; the pod only
remembers what it has seen.

A label counts once per pod. Behind a Service a client that repeats itself may reach another pod and count twice; that
is the price of needing no store, and it is told in docs/server.md.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from espalier_server.errors import AlreadyLabelledError, InvalidRequestError, PredictionExpiredError
from espalier_server.ids import InvalidIdError

if TYPE_CHECKING:
    from espalier_api.artifact import ManifestTask
    from espalier_api.serving import FeedbackSettings
    from espalier_server.ids import Prediction, PredictionIds
    from espalier_server.metrics import Metrics

IGNORED = "ignored"
"""The result for a prediction on which the server abstained: nothing was claimed, so nothing can be right or wrong."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a label: `version` is the one that predicted, `result` correct, wrong or ignored."""

    version: str
    result: str


class Seen:
    """The ids that have their label: bounded in number and in age."""

    def __init__(self, capacity: int, ttl_ms: float) -> None:
        self._capacity = capacity
        self._ttl_ms = ttl_ms
        self._ids: OrderedDict[bytes, int] = OrderedDict()

    def add(self, key: bytes, at_ms: int, now_ms: int) -> bool:
        """Remember an id; False when it was there already. The oldest make room."""
        if key in self._ids:
            return False
        self._ids[key] = at_ms
        while self._ids and (len(self._ids) > self._capacity or self._oldest() + self._ttl_ms < now_ms):
            self._ids.popitem(last=False)
        return True

    def _oldest(self) -> int:
        return next(iter(self._ids.values()))


class FeedbackDesk:
    """Takes labels for every version of one model."""

    def __init__(
        self, task: ManifestTask, settings: FeedbackSettings, ids: PredictionIds, metrics: Metrics, tolerance: float
    ) -> None:
        """`tolerance`: a regression's answer within this distance of the label is correct."""
        self._index = {name: index for index, name in enumerate(task.classes)}
        self._regression = task.type == "regression"
        self._ttl_ms = settings.ttl.total_seconds() * 1000
        self._ids = ids
        self._metrics = metrics
        self._tolerance = tolerance
        self._seen = Seen(settings.capacity, self._ttl_ms)

    def take(self, body: Any, now_ms: int) -> Receipt:  # noqa: ANN401 - whatever JSON held
        """Count one `{id, label}`. Raises InvalidRequestError, PredictionExpiredError or AlreadyLabelledError."""
        if not isinstance(body, dict) or not isinstance(body.get("id"), str):
            self._metrics.unmatched["malformed"].inc()
            raise InvalidRequestError("id", "must be the id of an infer response, as text")
        prediction, key = self._prediction(body["id"])
        actual = self._value(body.get("label")) if self._regression else self._class(body.get("label"))
        if prediction.at_ms + self._ttl_ms < now_ms:
            self._metrics.unmatched["expired"].inc()
            raise PredictionExpiredError(
                f"id: older than {self._ttl_ms / 1000:.0f} s (feedback.ttl); its label is not counted"
            )
        if not self._seen.add(key, prediction.at_ms, now_ms):
            self._metrics.unmatched["duplicate"].inc()
            raise AlreadyLabelledError("id: this prediction has its label already; the first one counts")
        return Receipt(prediction.version, self._count(prediction, actual, max(0, now_ms - prediction.at_ms) / 1000))

    def _prediction(self, text: str) -> tuple[Prediction, bytes]:
        try:
            prediction, key = self._ids.read(text)
        except InvalidIdError as error:
            self._metrics.unmatched[error.reason].inc()
            raise InvalidRequestError("id", "is not an id that this model gave out; send it back unchanged") from error
        if prediction.classes != self._ids.classes:
            self._metrics.unmatched["foreign"].inc()
            raise InvalidRequestError("id", f"is of {prediction.version}, which has other classes than this version")
        return prediction, key

    def _class(self, label: Any) -> int:  # noqa: ANN401 - whatever JSON held
        """A class by its name or, as a number, by its index."""
        if isinstance(label, str) and label in self._index:
            return self._index[label]
        if type(label) is int and 0 <= label < len(self._index):
            return label
        raise InvalidRequestError("label", f"must be a class name or an index below {len(self._index)}")

    def _value(self, label: Any) -> float:  # noqa: ANN401 - whatever JSON held
        if type(label) in {int, float} and math.isfinite(label):
            return float(label)
        raise InvalidRequestError("label", "must be a number")

    def _count(self, prediction: Prediction, actual: float, delay: float) -> str:
        series = self._metrics.of_version(prediction.version)
        if prediction.rejected or series is None:
            return IGNORED
        if self._regression:
            return series.measured(correct=abs(actual - prediction.predicted) <= self._tolerance, delay=delay)
        return series.classified(int(actual), int(prediction.predicted), prediction.confidence, delay)
