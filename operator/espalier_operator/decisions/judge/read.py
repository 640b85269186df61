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
        [_of_arms(preset, index, answer, arms) for index, answer in enumerate(side) if isinstance(answer, Vector)]
        for side in answers
    )
    if any(map(not_numbers, (*before, *after))):
        return SourceDown(DownReason.NOT_A_NUMBER, f"a counter of {arms.model} is NaN, infinite or negative")
    if (problem := preset.problem(before) or preset.problem(after)) is not None:
        return SourceDown(DownReason.MISCONFIGURED, problem)
    for version, role in ((arms.canary, "canary"), (arms.stable, "stable")):
        if version and not _has_requests(preset, after, arms, version):
            return NoData(f"the source has no series of {role} {version} at {block.end:%H:%M:%S}")
    counts = _count(preset, arms, (before, after), since=block.start, pods=pods)
    return BlockCounts(block.end, counts.get(arms.canary, ArmCounts()), counts.get(arms.stable, ArmCounts()))


def read_history(preset: CountPreset, arms: Arms, matrices: Sequence[Matrix]) -> tuple[ArmCounts, ...]:
    """Stable's own blocks before the canary, oldest first; instants without its series count nothing."""
    times = sorted({time for matrix in matrices for time, _ in matrix.steps})
    by_time = [dict(matrix.steps) for matrix in matrices]
    nothing = Vector(())
    blocks = []
    for start, end in pairwise(times):
        before, after = (
            [_of_arms(preset, index, vectors.get(time, nothing), arms) for index, vectors in enumerate(by_time)]
            for time in (start, end)
        )
        if any(map(not_numbers, (*before, *after))):
            continue
        blocks.append(_count(preset, arms, (before, after), since=start, pods={}).get(arms.stable, ArmCounts()))
    return tuple(blocks)


def _of_arms(preset: CountPreset, index: int, vector: Vector, arms: Arms) -> list[Sample]:
    """Samples of the two versions; unlabelled ones stay, so that the preset can name the problem."""
    mine = vector.of(arms.namespace, arms.model) if preset.fleet else vector.samples
    return [sample for sample in mine if preset.version(index, sample.labels, arms) in {arms.canary, arms.stable, None}]


def _has_requests(preset: CountPreset, answers: Sequence[Sequence[Sample]], arms: Arms, version: str) -> bool:
    """True when a series that counts requests of this version is there, be it at zero."""
    return any(
        preset.version(index, sample.labels, arms) == version and preset.weigh(index, sample.labels).total > 0
        for index, samples in enumerate(answers)
        for sample in samples
    )


def _count(
    preset: CountPreset,
    arms: Arms,
    ends: tuple[Sequence[Sequence[Sample]], Sequence[Sequence[Sample]]],
    *,
    since: datetime,
    pods: Mapping[str, datetime],
) -> dict[str, ArmCounts]:
    """Requests and bad ones by version."""
    sums: dict[str, tuple[float, float]] = {}
    for index, (then, now) in enumerate(zip(*ends, strict=True)):
        for labels, increase in increments(then, now, since=since, pods=pods):
            version, weight = preset.version(index, labels, arms) or "", preset.weigh(index, labels)
            total, bad = sums.get(version, (0.0, 0.0))
            sums[version] = (total + weight.total * increase, bad + weight.bad * increase)
    return {version: _plausible(total, bad) for version, (total, bad) in sums.items()}


def _plausible(total: float, bad: float) -> ArmCounts:
    """Two counters of one process may be a scrape or a reset apart; never more bad events than events, nor below 0."""
    bad = max(bad, 0.0)
    return ArmCounts(max(total, bad), bad)
