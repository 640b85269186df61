"""The judge: SLIs of two arms in, sample states and verdicts out. Pure: asks no clock and no Prometheus.

`compile_slis` makes SLIs from a spec; each restores its state from the status, names the queries of a block and takes their
answers (`adapters.analysis` does the asking). The e-process itself is `advance` and `judge`.
"""

from espalier_operator.decisions.judge.blocks import Block, Schedule
from espalier_operator.decisions.judge.compile import SourceTiming, bake_params, compile_slis, problems
from espalier_operator.decisions.judge.counts import ArmCounts, BlockCounts
from espalier_operator.decisions.judge.eprocess import SequentialParams, advance, judge, skip, split_alpha
from espalier_operator.decisions.judge.evidence import EvidenceState
from espalier_operator.decisions.judge.look import Look
from espalier_operator.decisions.judge.queries import Arms, Query, RangeQuery
from espalier_operator.decisions.judge.readings import NoData, SourceDown
from espalier_operator.decisions.judge.sli import SequentialSli, Sli, ThresholdSli
from espalier_operator.decisions.judge.verdict import DownReason, SampleState, Verdict, VerdictKind

__all__ = [
    "ArmCounts",
    "Arms",
    "Block",
    "BlockCounts",
    "DownReason",
    "EvidenceState",
    "Look",
    "NoData",
    "Query",
    "RangeQuery",
    "SampleState",
    "Schedule",
    "SequentialParams",
    "SequentialSli",
    "Sli",
    "SourceDown",
    "SourceTiming",
    "ThresholdSli",
    "Verdict",
    "VerdictKind",
    "advance",
    "bake_params",
    "compile_slis",
    "judge",
    "problems",
    "skip",
    "split_alpha",
]
