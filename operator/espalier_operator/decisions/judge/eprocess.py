"""The sequential judge: a paired e-process on counts, exact under any number of looks.

Null hypothesis (the canary is acceptable), per block, while the baseline may drift freely:

    p_canary <= ratio * p_stable + floor

For a hypothesised harm g, with n requests and k bad events of the canary (c) and of stable (s) in one block:

    c   = (n_c*ratio + n_s) / (n_c*ratio*g + n_s)        a = g*c        b = c
    inc = (k_c*ln a + k_s*ln b - n_c*floor*(a - 1)) / phi
    L_g = L_g + min(inc, ln 10)
    E   = mean over g of exp(L_g)

Why it holds: n_c*ratio*(a-1) + n_s*(b-1) = 0 and 1+x <= e^x, so each block's factor has expectation <= 1 under the
null; so has its minimum with 10, and products and averages of such factors. Ville's inequality then bounds the chance
that E ever reaches 1/alpha by alpha, whatever the looks, the split, the volume or the baseline. The same holds when an
event counts a score in [0, 1]. Dependence between events is not covered: that is what phi is for (see `dispersion`).

Ancestors: Lindon & Malek (NeurIPS 2022), Turner, Ly & Gruenwald (2x2 e-variables). Figures: docs/analysis.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from espalier_operator.decisions.judge.evidence import (
    BOUND_UNITS,
    EVIDENCE_UNITS,
    HARMS,
    LADDER,
    RELIEFS,
    EvidenceState,
    Row,
    floor_to,
)
from espalier_operator.decisions.judge.verdict import Verdict, VerdictKind, describe_evidence, describe_ratio

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from espalier_operator.decisions.judge.counts import BlockCounts

__all__ = [
    "CAP",
    "SUSPICION",
    "SequentialParams",
    "advance",
    "coverage_gap",
    "judge",
    "log_mean_exp",
    "skip",
    "split_alpha",
]

CAP: Final = math.log(10)
"""Most evidence one block may add: two at least decide, so a shared incident that the canary shows first does not."""
MAX_COVERAGE_GAP: Final = 0.2
"""Arms whose labelled shares differ by more than this part of the larger one are not comparable."""
SUSPICION: Final = 0.5
"""Part of the way to a Fail, on the log scale, from which a canary is suspected. A Fail needs a block before it to have
raised the suspicion: one block, however bad, never carries a calm canary over the line (docs/adr/0006)."""
_EXP_LIMIT: Final = 700.0  # exp() of more overflows a double


@dataclass(frozen=True, slots=True)
class SequentialParams:
    """How one SLI is judged.

    `alpha` is this SLI's own share of the rollout's budget (see `split_alpha`). `baseline` replaces stable's counts by
    a recorded bad ratio (0-1): after 100 % there is no stable arm left to compare with. `beta` asks for evidence of
    being good as well, against `pass_ratio`; None keeps "no Fail and enough requests" as the way to pass.
    """

    name: str
    alpha: float = 0.05
    ratio: float = 1.1
    floor: float = 0.0005
    min_requests: float = 20
    min_bad: float = 3
    cap: float = CAP
    beta: float | None = None
    pass_ratio: float = 2.0
    baseline: float | None = None

    @property
    def abort_at(self) -> float:
        """Evidence at which the canary fails: 1/alpha."""
        return 1 / self.alpha


def split_alpha(alpha: float, weights: Iterable[float]) -> tuple[float, ...]:
    """Each SLI's share of the rollout's false-abort budget, in proportion to its weight; their union bound is alpha."""
    shares = tuple(weights)
    return tuple(alpha * weight / sum(shares) for weight in shares)


def advance(state: EvidenceState, block: BlockCounts, params: SequentialParams) -> EvidenceState:
    """State after one more block. A block that is not newer than the last one changes nothing: replay is idempotent."""
    if _judged(state, block):
        return state
    null = _Null(params.ratio, params.floor, params.cap, state.dispersion, params.baseline)
    bound = replace(null, floor=0.0, cap=math.inf)  # a bound only describes; the cap protects decisions
    ladder = tuple(
        _add(row, replace(bound, ratio=ratio).increments(block, HARMS), BOUND_UNITS)
        for ratio, row in zip(LADDER, state.ladder, strict=True)
    )
    relief = replace(null, ratio=params.pass_ratio, floor=0.0)
    return replace(
        state,
        before=floor_to(log_mean_exp(state.log_e), EVIDENCE_UNITS),
        log_e=_add(state.log_e, null.increments(block, HARMS), EVIDENCE_UNITS),
        pass_log_e=_add(state.pass_log_e, relief.increments(block, RELIEFS), EVIDENCE_UNITS),
        ladder=ladder,
        at_least=_climb(state.at_least, ladder, params.abort_at),
        canary=state.canary + block.canary,
        stable=state.stable + block.stable,
        served=_plus(state.served, block.served),
        blocks=state.blocks + 1,
        idle_blocks=0 if block.canary.total > 0 else state.idle_blocks + 1,
        last_block_end=block.end,
    )


def skip(state: EvidenceState, block: BlockCounts) -> EvidenceState:
    """Move past a block that nobody can read (no series, retention is over); it is no evidence either way."""
    if _judged(state, block):
        return state
    return replace(state, last_block_end=block.end, idle_blocks=state.idle_blocks + 1)


def judge(state: EvidenceState, params: SequentialParams) -> Verdict:
    """Verdict on the evidence so far."""
    against = log_mean_exp(state.log_e)
    comparable = state.canary.total >= params.min_requests and coverage_gap(state) <= MAX_COVERAGE_GAP
    kind = VerdictKind.CONTINUE
    line = math.log(params.abort_at)
    if comparable and state.canary.bad >= params.min_bad and against >= line and state.before >= line * SUSPICION:
        kind = VerdictKind.FAIL
    elif comparable and params.beta is not None and log_mean_exp(state.pass_log_e) >= -math.log(params.beta):
        kind = VerdictKind.PASS
    evidence = math.exp(min(against, _EXP_LIMIT))
    return Verdict(kind, evidence, params.abort_at, state.at_least, _sentence(kind, evidence, state, params))


def coverage_gap(state: EvidenceState) -> float:
    """How much less of one arm than of the other got its label, as a part of the larger share; 0 without delay."""
    if state.served is None:
        return 0.0
    totals = (state.canary.total, state.stable.total)
    shares = [labelled / served if served > 0 else 0.0 for labelled, served in zip(totals, state.served, strict=True)]
    return 1 - min(shares) / max(shares) if max(shares) > 0 else 0.0


def log_mean_exp(row: Row) -> float:
    """Logarithm of the mean of exp: E on the log scale, without overflow."""
    top = max(row)
    return top + math.log(math.fsum(math.exp(value - top) for value in row) / len(row))


@dataclass(frozen=True, slots=True)
class _Null:
    """One null hypothesis and how much evidence a block holds against it."""

    ratio: float
    floor: float
    cap: float
    phi: float
    baseline: float | None

    def increments(self, block: BlockCounts, harms: Row) -> Row:
        """What each hypothesised harm adds to its ln E."""
        one = self._against_stable if self.baseline is None else self._against_record
        return tuple([min(inc / self.phi, self.cap) for inc in one(block, harms)])

    def _against_stable(self, block: BlockCounts, harms: Row) -> Iterator[float]:
        n_c, k_c = block.canary.total, block.canary.bad
        n_s, k_s = block.stable.total, block.stable.bad
        allowed, spared, log = n_c * self.ratio, n_c * self.floor, math.log
        for harm in harms:
            c = (allowed + n_s) / (allowed * harm + n_s) if n_c > 0 else 1.0
            a = harm * c
            yield k_c * log(a) + k_s * log(c) - spared * (a - 1)

    def _against_record(self, block: BlockCounts, harms: Row) -> Iterator[float]:
        """The one-arm form: E[harm^k] <= exp(n*p*(harm-1)) for every p the null allows."""
        expected = block.canary.total * (self.ratio * (self.baseline or 0.0) + self.floor)
        for harm in harms:
            yield block.canary.bad * math.log(harm) - expected * (harm - 1)


def _judged(state: EvidenceState, block: BlockCounts) -> bool:
    return state.last_block_end is not None and block.end <= state.last_block_end


def _add(row: Row, increments: Row, units: int) -> Row:
    return tuple([floor_to(value + increment, units) for value, increment in zip(row, increments, strict=True)])


def _plus(left: tuple[float, float] | None, right: tuple[float, float] | None) -> tuple[float, float] | None:
    if left is None or right is None:
        return left or right
    return (left[0] + right[0], left[1] + right[1])


def _climb(at_least: float | None, ladder: tuple[Row, ...], abort_at: float) -> float | None:
    """The highest ratio proven: rungs are taken in order, so all of them together still err with at most alpha."""
    for ratio, row in zip(LADDER, ladder, strict=True):
        if at_least is not None and ratio <= at_least:
            continue
        if log_mean_exp(row) < math.log(abort_at):
            break
        at_least = ratio
    return at_least


def _sentence(kind: VerdictKind, evidence: float, state: EvidenceState, params: SequentialParams) -> str:
    """`errors: canary 11/300 (3.67 %) vs stable 12/2700 (0.44 %), at least 2x worse, evidence 47 ≥ 20`."""
    parts = [describe_ratio(params.name, state.canary, state.stable, params.baseline)]
    if state.at_least is not None and state.at_least > 1:
        parts.append(f"at least {state.at_least:g}x worse")
    relation = "≥" if evidence >= params.abort_at else "of"
    parts.append(f"evidence {describe_evidence(evidence)} {relation} {params.abort_at:.0f}")
    if kind is VerdictKind.PASS:
        parts.append(f"not {params.pass_ratio:g}x worse at {1 - (params.beta or 0):.0%} confidence")
    return ", ".join(parts)
