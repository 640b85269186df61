"""The judge: SLIs of two arms in, sample states and verdicts out. Pure; asks no clock and no Prometheus."""

from espalier_operator.decisions.judge.counts import ArmCounts, BlockCounts
from espalier_operator.decisions.judge.eprocess import SequentialParams, advance, judge, skip, split_alpha
from espalier_operator.decisions.judge.evidence import EvidenceState
from espalier_operator.decisions.judge.verdict import DownReason, SampleState, Verdict, VerdictKind

__all__ = [
    "ArmCounts",
    "BlockCounts",
    "DownReason",
    "EvidenceState",
    "SampleState",
    "SequentialParams",
    "Verdict",
    "VerdictKind",
    "advance",
    "judge",
    "skip",
    "split_alpha",
]
