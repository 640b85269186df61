"""The numbers of a version from those of its fits: means over seeds, and how far the seeds are apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from espalier_trainer import rng
from espalier_trainer.evaluation import groups, variance
from espalier_trainer.evaluation.intervals import mean_of_seeds

if TYPE_CHECKING:
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet

    from espalier_api.artifact import MetricValue
    from espalier_trainer.evaluation.evaluate import Evaluation


def summary(
    evaluations: Sequence[Evaluation], columns: AbstractSet[str], *, classification: bool, seed: int
) -> dict[str, MetricValue]:
    """Metrics of the manifest: means over fits, groups of the `columns` that gates compare, all columns' differences, and M4 over seeds.

    With several fits predictionVariance is the spread over their seeds, unless one fit has members of its own.
    """
    first = evaluations[0]
    means = {n: mean_of_seeds([e.metrics[n] for e in evaluations if n in e.metrics]) for n in first.metrics}
    for name in first.groups:
        column, group = name.split("/", 1)[1].split("=", 1)
        if column in columns or group == groups.ALL:
            means[name] = mean_of_seeds([e.groups[name] for e in evaluations if name in e.groups])
    samples = [e.sample for e in evaluations if e.sample is not None]
    if len(samples) > 1 and "predictionVariance" not in means:
        means |= variance.measure(np.stack(samples), classification=classification, seed=rng.derive(seed, "seeds"))
    return means
