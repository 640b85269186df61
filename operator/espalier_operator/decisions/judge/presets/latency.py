"""Latency: requests slower than a threshold that is an exact bucket edge, so slow ones are counted, not estimated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from espalier_api import metrics
from espalier_operator.decisions.judge.presets.base import IGNORED, Weight
from espalier_operator.decisions.judge.queries import Arms, counter_text, edge_pattern, is_edge

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import timedelta

    from espalier_operator.decisions.judge.series import Sample

__all__ = ["Latency"]

INFINITY = "+Inf"


@dataclass(frozen=True, slots=True)
class Latency:
    """`inference_duration_seconds_bucket`: all (`+Inf`) minus those within `threshold` seconds."""

    threshold: float
    window: timedelta
    fleet: bool = True

    def texts(self, arms: Arms, matchers: Mapping[str, str]) -> tuple[str, ...]:
        """One text per distinct threshold."""
        edges = {"le": rf"{edge_pattern(self.threshold)}|\{INFINITY}"}
        return (counter_text(f"{metrics.INFERENCE_DURATION.name}_bucket", "le", {**matchers, **edges}, self.window),)

    def version(self, index: int, labels: Mapping[str, str], arms: Arms) -> str | None:
        """The server labels its series."""
        return labels.get("version")

    def weigh(self, index: int, labels: Mapping[str, str]) -> Weight:
        """A request within the threshold is in both buckets and cancels out."""
        le = labels.get("le", "")
        if le == INFINITY:
            return Weight(1, 1)
        return Weight(0, -1) if is_edge(le, self.threshold) else IGNORED

    def problem(self, answers: Sequence[Sequence[Sample]]) -> str | None:
        """Every process that counts requests must have the edge; without it all its requests would look slow."""
        for sample in answers[0]:
            if sample.labels.get("le") == INFINITY and not any(self._edge_of(sample, other) for other in answers[0]):
                where = sample.labels.get("pod") or sample.labels.get("instance") or "a process"
                return (
                    f"{metrics.INFERENCE_DURATION.name} of {where} has no bucket with le={self.threshold:g}; "
                    "make the SLI's latency.threshold one of the server's bucket edges"
                )
        return None

    def _edge_of(self, sample: Sample, other: Sample) -> bool:
        labels = other.labels
        return is_edge(labels.get("le", ""), self.threshold) and all(
            labels.get(name) == sample.labels.get(name) for name in ("version", "pod", "instance")
        )
