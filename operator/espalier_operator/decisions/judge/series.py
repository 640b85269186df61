"""From raw counters at two instants to what happened in between, per series, before anything is summed.

`rate()` and `increase()` lose a new counter's first value, extrapolate, and hide resets under a sum; a young canary's
first errors are exactly what they lose. So counters are read with `last_over_time` at both ends of a block and
subtracted here:

* a counter that fell was reset: what it shows now has happened since (at least);
* a series born in the block counts from zero if its pod started in the block, or if the pod's other series were there
at
  the start (a client creates a counter at its first event); otherwise its past is unknown and it is left out;
* a series that ended (its pod is gone) has its last value in the window, and adds nothing afterwards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from datetime import datetime

__all__ = ["Matrix", "Sample", "Vector", "increments"]


class Sample(NamedTuple):
    """One element of an instant vector."""

    labels: Mapping[str, str]
    value: float


class Vector:
    """An instant vector, shared by every rollout that asked the same query; split by model once, on first use."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self.samples = tuple(samples)

    def __len__(self) -> int:
        return len(self.samples)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vector) and self.samples == other.samples

    def __hash__(self) -> int:
        return id(self)

    def of(self, namespace: str, model: str) -> tuple[Sample, ...]:
        """Samples of one model."""
        return self._by_model.get((namespace, model), ())

    @cached_property
    def _by_model(self) -> dict[tuple[str, str], tuple[Sample, ...]]:
        groups: dict[tuple[str, str], list[Sample]] = {}
        for sample in self.samples:
            key = (sample.labels.get("namespace", ""), sample.labels.get("model", ""))
            groups.setdefault(key, []).append(sample)
        return {key: tuple(samples) for key, samples in groups.items()}


@dataclass(frozen=True, slots=True)
class Matrix:
    """A range query's answer: one vector per instant, oldest first; instants without any sample are empty vectors."""

    steps: tuple[tuple[datetime, Vector], ...]


def increments(
    before: Iterable[Sample], after: Iterable[Sample], *, since: datetime, pods: Mapping[str, datetime]
) -> Iterator[tuple[Mapping[str, str], float]]:
    """(labels, increase >= 0) of each counter in `after`. `since`: time of `before`; `pods`: start time by pod name."""
    earlier = {_key(sample.labels): sample.value for sample in before}
    seen = {_target(sample.labels) for sample in before}
    for labels, value in after:
        then = earlier.get(_key(labels))
        if then is None:
            started = pods.get(labels.get("pod", ""))
            if _target(labels) in seen or (started is not None and started > since):
                yield labels, value
        else:
            yield labels, value - then if value >= then else value


def not_numbers(samples: Iterable[Sample]) -> bool:
    """True when a value is NaN, infinite or negative: no counter is."""
    return any(not 0 <= sample.value < math.inf for sample in samples)


def _key(labels: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    return frozenset(labels.items())


def _target(labels: Mapping[str, str]) -> tuple[str, str, str]:
    """What one scrape covers: a process that serves one version."""
    return labels.get("version", ""), labels.get("pod", ""), labels.get("instance", "")
