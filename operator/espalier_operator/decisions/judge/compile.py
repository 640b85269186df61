"""From `spec.analysis` to SLIs that can be judged: defaults resolved, alpha shared out, windows fit for the source."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from espalier_operator.decisions.judge.blocks import Schedule
from espalier_operator.decisions.judge.eprocess import SequentialParams, split_alpha
from espalier_operator.decisions.judge.presets import Drift, Errors, Latency, Quality, Served, UserCounts, UserQuery
from espalier_operator.decisions.judge.presets.counts import refuse_rates
from espalier_operator.decisions.judge.queries import lookback
from espalier_operator.decisions.judge.sequential_sli import SequentialSli
from espalier_operator.decisions.judge.threshold import ThresholdParams
from espalier_operator.decisions.judge.threshold_sli import ThresholdSli

if TYPE_CHECKING:
    from espalier_api import analysis as api
    from espalier_operator.decisions.judge.presets.base import CountPreset
    from espalier_operator.decisions.judge.sli import Sli

__all__ = ["SourceTiming", "bake_params", "compile_slis", "problems"]

DRIFT_WINDOW: Final = timedelta(minutes=30)
DEFAULT_ERROR_LIMIT: Final = 4
BAKE_RATIO: Final = 2.0
"""After 100 % the past is the only control, and the past does not share today's incidents: allow more."""


@dataclass(frozen=True, slots=True)
class SourceTiming:
    """What is known of a source's rhythm: how often it scrapes, and how late its samples are complete."""

    scrape_interval: timedelta = timedelta(seconds=15)
    lag: timedelta = timedelta(seconds=30)


def problems(analysis: api.Analysis) -> tuple[str, ...]:
    """What no schema can say, each as `field: why and what to do`; empty when every SLI can be judged."""
    found = []
    for sli in analysis.slis:
        where = f"spec.analysis.slis[{sli.name}]"
        if sli.disagreement is not None:
            found.append(f"{where}.disagreement: no server reports it yet; remove the SLI, or count it with counts")
        if sli.latency is not None and sli.latency.distribution:
            found.append(f"{where}.latency.distribution: not available yet; declare further latency SLIs instead")
        if sli.counts is not None:
            texts = (("bad", sli.counts.bad), ("total", sli.counts.total))
            found += [f"{where}.counts.{field}: {why}" for field, text in texts if (why := refuse_rates(text))]
    return tuple(found)


def compile_slis(
    analysis: api.Analysis, timing: SourceTiming, *, warm_up: timedelta, require_evidence: bool = False
) -> tuple[Sli, ...]:
    """One SLI per entry of the spec, in its order. Raises ValueError for what `problems` names."""
    if found := problems(analysis):
        raise ValueError("; ".join(found))
    schedule = Schedule(analysis.interval, timing.lag, warm_up)
    window = lookback(analysis.interval, timing.scrape_interval)
    alphas = _alphas(analysis)
    beta = analysis.sequential.beta if require_evidence else None
    compiled: list[Sli] = []
    for sli in analysis.slis:
        if sli.is_threshold:
            compiled.append(_threshold(sli, schedule, window))
        else:
            params = _params(sli, analysis.sequential, alphas[sli.name], beta)
            compiled.append(_sequential(sli, params, schedule, window))
    return tuple(compiled)


def bake_params(params: SequentialParams, baseline: float) -> SequentialParams:
    """Parameters after 100 %: the champion's recorded bad ratio (0-1) stands in for the stable arm."""
    return replace(params, baseline=baseline, ratio=max(params.ratio, BAKE_RATIO), beta=None)


def _alphas(analysis: api.Analysis) -> dict[str, float]:
    """Each SLI's share of alpha. One that never acts takes nothing from the others."""
    judged = [sli for sli in analysis.slis if not sli.is_threshold]
    acting = [sli for sli in judged if not sli.dry_run]
    shares = split_alpha(analysis.sequential.alpha, [sli.weight for sli in acting])
    alphas = {sli.name: share for sli, share in zip(acting, shares, strict=True)}
    for sli in judged:
        others = [other.weight for other in acting]
        alphas.setdefault(sli.name, split_alpha(analysis.sequential.alpha, [sli.weight, *others])[0])
    return alphas


def _params(sli: api.Sli, defaults: api.Sequential, alpha: float, beta: float | None) -> SequentialParams:
    override = sli.sequential

    def pick(field: str) -> float:
        own = getattr(override, field, None)
        return float(getattr(defaults, field) if own is None else own)

    return SequentialParams(
        name=sli.name,
        alpha=alpha,
        ratio=pick("max_ratio"),
        floor=pick("floor"),
        min_requests=pick("min_requests"),
        min_bad=pick("min_bad"),
        beta=beta,
    )


def _sequential(sli: api.Sli, params: SequentialParams, schedule: Schedule, window: timedelta) -> SequentialSli:
    if sli.quality is not None:
        late = replace(schedule, label_delay=_whole_blocks(sli.label_delay or timedelta(0), schedule.interval))
        return SequentialSli(params, Quality(window), late, Served(window), dry_run=sli.dry_run)
    preset: CountPreset = Errors(window)
    if sli.latency is not None:
        preset = Latency(sli.latency.threshold.total_seconds(), window)
    elif sli.counts is not None:
        preset = UserCounts(sli.counts.total, sli.counts.bad, window)
    return SequentialSli(params, preset, schedule, dry_run=sli.dry_run)


def _threshold(sli: api.Sli, schedule: Schedule, window: timedelta) -> ThresholdSli:
    preset: UserQuery | Drift = Drift(DRIFT_WINDOW)
    maximum = sli.max
    if sli.drift is not None:
        maximum = sli.drift.max_psi
    elif sli.query is not None:
        preset = UserQuery(sli.query, window)
    limit = DEFAULT_ERROR_LIMIT if sli.consecutive_error_limit is None else sli.consecutive_error_limit
    params = ThresholdParams(sli.name, sli.min, maximum, sli.failure_limit or 0, limit)
    return ThresholdSli(params, preset, schedule, dry_run=sli.dry_run)


def _whole_blocks(delay: timedelta, interval: timedelta) -> timedelta:
    """Rounded up, so that looks into the past fall on boundaries the fleet already asks for."""
    return math.ceil(delay / interval) * interval
