"""From answers to counts: pick the two arms out of a fleet's answer, subtract per series, weigh, sum."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from espalier_operator.decisions.judge.counts import ArmCounts, BlockCounts
from espalier_operator.decisions.judge.readings import NoData, Reading, SourceDown
from espalier_operator.decisions.judge.series import Matrix, Sample, Vector, increments, not_numbers
from espalier_operator.decisions.judge.verdict import DownReason

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from espalier_operator.decisions.judge.blocks import Block
    from espalier_operator.decisions.judge.presets.base import CountPreset
    from espalier_operator.decisions.judge.queries import Arms

__all__ = ["Answer", "read_block", "read_history"]

Answer = Vector | SourceDown


def read_block(
    preset: CountPreset,
    block: Block,
    arms: Arms,
    answers: tuple[Sequence[Answer], Sequence[Answer]],
    pods: Mapping[str, datetime],
) -> Reading:
    """Counts of one block from the answers at its start and at its end (one per text of the preset)."""
    for answer in (*answers[0], *answers[1]):
        if isinstance(answer, SourceDown):
            return answer
    before, after = (
        [_of_arms(preset, answer, arms) for answer in side if isinstance(answer, Vector)] for side in answers
    )
    if any(map(not_numbers, (*before, *after))):
        return SourceDown(DownReason.NOT_A_NUMBER, f"a counter of {arms.model} is NaN, infinite or negative")
    if (problem := preset.problem(before) or preset.problem(after)) is not None:
        return SourceDown(DownReason.MISCONFIGURED, problem)
    for version, role in ((arms.canary, "canary"), (arms.stable, "stable")):
        if version and not any(sample.labels.get("version") == version for sample in after[0]):
            return NoData(f"the source has no series of {role} {version} at {block.end:%H:%M:%S}")
    counts = _count(preset, before, after, since=block.start, pods=pods)
    return BlockCounts(block.end, counts.get(arms.canary, ArmCounts()), counts.get(arms.stable, ArmCounts()))


def read_history(preset: CountPreset, arms: Arms, matrices: Sequence[Matrix]) -> tuple[ArmCounts, ...]:
    """Stable's own blocks before the canary, oldest first; instants without its series count nothing."""
    times = sorted({time for matrix in matrices for time, _ in matrix.steps})
    by_time = [dict(matrix.steps) for matrix in matrices]
    nothing = Vector(())
    blocks = []
    for start, end in pairwise(times):
        before, after = (
            [_of_arms(preset, vectors.get(time, nothing), arms) for vectors in by_time] for time in (start, end)
        )
        if any(map(not_numbers, (*before, *after))):
            continue
        blocks.append(_count(preset, before, after, since=start, pods={}).get(arms.stable, ArmCounts()))
    return tuple(blocks)


def _of_arms(preset: CountPreset, vector: Vector, arms: Arms) -> list[Sample]:
    """Samples of the two versions; unlabelled ones stay, so that the preset can name the problem."""
    mine = vector.of(arms.namespace, arms.model) if preset.fleet else vector.samples
    return [sample for sample in mine if sample.labels.get("version") in {arms.canary, arms.stable, None}]


def _count(
    preset: CountPreset,
    before: Sequence[Sequence[Sample]],
    after: Sequence[Sequence[Sample]],
    *,
    since: datetime,
    pods: Mapping[str, datetime],
) -> dict[str, ArmCounts]:
    """Requests and bad ones by version."""
    sums: dict[str, tuple[float, float]] = {}
    for index, (then, now) in enumerate(zip(before, after, strict=True)):
        for labels, increase in increments(then, now, since=since, pods=pods):
            weight = preset.weigh(index, labels)
            total, bad = sums.get(labels["version"], (0.0, 0.0))
            sums[labels["version"]] = (total + weight.total * increase, bad + weight.bad * increase)
    return {version: _plausible(total, bad) for version, (total, bad) in sums.items()}


def _plausible(total: float, bad: float) -> ArmCounts:
    """Two counters of one process may be a scrape or a reset apart; never more bad events than events, nor below 0."""
    bad = max(bad, 0.0)
    return ArmCounts(max(total, bad), bad)
