"""The rules that are compared: ours, vectorised, and what Argo Rollouts' and Flagger's documents and a hasty engineer would do.

Each takes traffic and gives, per canary, the index of the block after which it aborts, or -1.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from bench.judge_traffic import BLOCKS_PER_MINUTE
from espalier_operator.decisions.judge import SequentialParams
from espalier_operator.decisions.judge.dispersion import MAX_PHI
from espalier_operator.decisions.judge.eprocess import SUSPICION
from espalier_operator.decisions.judge.evidence import HARMS, RELIEFS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from bench.judge_traffic import Traffic

    Floats = NDArray[np.float64]
    Indices = NDArray[np.int64]

STRICT = SequentialParams("strict", ratio=1.0, floor=0.0, cap=math.inf)
DEFAULT = SequentialParams("default")
_Z95 = 1.6448536269514722  # one-sided 5 % point of the normal distribution


def log_evidence(
    traffic: Traffic, params: SequentialParams, phi: Floats | float = 1.0, harms: Sequence[float] = HARMS
) -> Floats:
    """Ln E after every block, shape (runs, blocks): the formula of `decisions.judge.eprocess` over arrays."""
    n_c, k_c = traffic.canary_total.astype(float), traffic.canary_bad
    n_s, k_s = traffic.stable_total.astype(float), traffic.stable_bad
    divisor = np.reshape(np.asarray(phi, float), (-1, 1))
    total: Floats = np.full(n_c.shape, -np.inf)
    for harm in harms:
        allowed = n_c * params.ratio
        c = np.divide(allowed + n_s, allowed * harm + n_s, out=np.ones_like(n_c), where=n_c > 0)
        a = harm * c
        inc = k_c * np.log(a) + k_s * np.log(c) - n_c * params.floor * (a - 1)
        total = np.logaddexp(total, np.cumsum(np.minimum(np.where(n_c > 0, inc, 0.0) / divisor, params.cap), axis=1))
    return total - math.log(len(harms))


def sequential(
    traffic: Traffic, params: SequentialParams, phi: Floats | float = 1.0, *, suspicion: float = SUSPICION
) -> Indices:
    """Our judge, looking after every block."""
    enough = (traffic.canary_total.cumsum(1) >= params.min_requests) & (traffic.canary_bad.cumsum(1) >= params.min_bad)
    evidence, line = log_evidence(traffic, params, phi), math.log(params.abort_at)
    suspected = np.concatenate([np.zeros((traffic.runs, 1)), evidence[:, :-1]], axis=1) >= line * suspicion
    return first(enough & suspected & (evidence >= line))


def proven_good(traffic: Traffic, params: SequentialParams, phi: Floats | float = 1.0) -> Indices:
    """The block after which `requireEvidence` would let a canary pass: not `pass_ratio` times worse than stable."""
    null = replace(params, ratio=params.pass_ratio, floor=0.0)
    return first(log_evidence(traffic, null, phi, RELIEFS) >= math.log(20))


def dispersion(history: Traffic) -> Floats:
    """Phi per run from stable's own history."""
    n, k = history.stable_total.astype(float), history.stable_bad.astype(float)
    pooled = k.sum(1, keepdims=True) / n.sum(1, keepdims=True)
    ratio = k / n
    with np.errstate(invalid="ignore", divide="ignore"):
        squares = np.diff(ratio, axis=1) ** 2 / (pooled * (1 / n[:, 1:] + 1 / n[:, :-1]))
    phi: Floats = np.clip(np.nan_to_num(squares.mean(1), nan=1.0), 1.0, MAX_PHI)
    return phi


def argo_docs(traffic: Traffic) -> Indices:
    """Argo Rollouts' documents: success >= 95 %, every 5 minutes over 5 minutes, failureLimit 3."""
    return _threshold(traffic, limit=0.05, minutes=5, failures=4)


def flagger_docs(traffic: Traffic) -> Indices:
    """Flagger's documents: success >= 99 %, every minute over a minute, threshold 5; no data is a failure."""
    return _threshold(traffic, limit=0.01, minutes=1, failures=5)


def naive_z(traffic: Traffic) -> Indices:
    """A two-proportion z test at 5 %, repeated every minute on all counts so far."""
    n_c, k_c, n_s, k_s = (
        each.cumsum(1)[:, BLOCKS_PER_MINUTE - 1 :: BLOCKS_PER_MINUTE].astype(float)
        for each in (traffic.canary_total, traffic.canary_bad, traffic.stable_total, traffic.stable_bad)
    )
    pooled = (k_c + k_s) / (n_c + n_s)
    with np.errstate(invalid="ignore", divide="ignore"):
        z = (k_c / n_c - k_s / n_s) / np.sqrt(pooled * (1 - pooled) * (1 / n_c + 1 / n_s))
    at = first(np.nan_to_num(z) > _Z95)
    return np.where(at >= 0, (at + 1) * BLOCKS_PER_MINUTE - 1, -1)


def first(mask: NDArray[np.bool_]) -> Indices:
    """Index of the first True of each row, -1 where there is none."""
    return np.where(mask.any(axis=1), mask.argmax(axis=1), -1)


def _threshold(traffic: Traffic, *, limit: float, minutes: int, failures: int) -> Indices:
    """The canary's own ratio over back-to-back windows; failed ones add up; an empty window fails."""
    window = minutes * BLOCKS_PER_MINUTE
    shape = (traffic.runs, traffic.blocks // window, window)
    total, bad = (
        each[:, : shape[1] * window].reshape(shape).sum(2) for each in (traffic.canary_total, traffic.canary_bad)
    )
    failed = (total == 0) | (bad > limit * total)
    at = first(failed.cumsum(1) >= failures)
    return np.where(at >= 0, (at + 1) * window - 1, -1)
