"""Failure modes from logged signals: pure rules over numbers, one function per mode, each with evidence and the next thing to try.

Of a fit: F1 underfit, F2 overfit, F4 drift sensitivity, F6 policy regression, F7 instability, F8 miscalibration. Of the exported
version: F3 train-serve mismatch, which blocks the release, and F5 resource blow-up. What needs a predecessor, a budget or a safety
set is judged when there is one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median, pvariance
from typing import TYPE_CHECKING, Final

from espalier_api.model import Diagnosis

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from espalier_api.artifact import MetricValue
    from espalier_trainer.engines import Contribution
    from espalier_trainer.evaluation.calibration import Excess
    from espalier_trainer.evaluation.robustness import Corrupted

GAP_TARGET: Final = 0.05  # nats or half squared standard deviations
FLAT: Final = 0.01  # relative improvement of the training loss over the last quarter
RISING: Final = 1.02
PATIENCE: Final = 5
SPIKE: Final = 10.0
CONFLICT: Final = -0.5
MISCALIBRATED: Final = 0.01
RESTLESS: Final = 3.0  # times the running variance of the loss's steps
FRAGILE: Final = 0.05  # accuracy, or root mean squared error in standard deviations, lost to the mildest corruption
GROWN: Final = 1.5  # times the previous version's
SPARSE: Final = 0.5  # share of exact zeros from which a dense file is a waste
DRIFTED: Final = 0.2  # relative change of the temperature between two versions
DOUBLED: Final = {"noiseInjection": 1.0, "weightDecay": 10.0}  # the API's upper bounds: a suggestion never leaves them


@dataclass(frozen=True, slots=True)
class Signals:
    """What was logged about one fit; losses are unpenalised and in evaluation mode."""

    train_loss: float
    validation_loss: float | None = None
    baseline_train: float | None = None
    baseline_validation: float | None = None
    gap: MetricValue | None = None
    history: Sequence[Mapping[str, float]] = ()
    contributions: Mapping[str, Contribution] = field(default_factory=dict)
    gradient_norms: Sequence[float] = ()
    excess: Excess | None = None
    temperature: float = 1.0
    restored: bool = False  # early stopping went back to the best epoch
    corruptions: Sequence[Corrupted] = ()
    safety: MetricValue | None = None  # share of safety rows that are answered wrongly
    previous_safety: MetricValue | None = None
    previous_temperature: float | None = None
    quality: str = "accuracy"  # what corruptions take away, in words


@dataclass(frozen=True, slots=True)
class Exported:
    """What is known once the graph exists."""

    parity: float = 0.0  # largest difference between graph and engine on golden inputs
    tolerance: float = 1e-4
    other_labels: int = 0  # golden inputs that the graph calls another class
    rows: int = 64
    repeated: float = 0.0  # largest difference between two evaluations of the same rows by the engine
    judged_preprocessing: str = ""  # digest when the fit was judged
    packaged_preprocessing: str = ""  # digest of what is published
    resources: Mapping[str, float] = field(default_factory=dict)  # metric name: bytes or seconds
    budgets: Mapping[str, float] = field(default_factory=dict)
    previous: Mapping[str, float] = field(default_factory=dict)
    zeros: float = 0.0  # share of weights that are exactly 0


def diagnose(signals: Signals) -> list[Diagnosis]:
    """Every mode that the signals show, in order of their number."""
    found = (rule(signals) for rule in RULES)
    return [
        Diagnosis(mode=d.mode, evidence=d.evidence[:1024], suggestion=d.suggestion[:1024])
        for d in found
        if d is not None
    ]


def underfit(s: Signals) -> Diagnosis | None:
    """F1: both losses above a linear model's. (A training loss alone misleads: under label noise good models refuse to fit it.)"""
    if s.baseline_train is None or s.baseline_validation is None or s.validation_loss is None:
        return None
    if s.train_loss <= s.baseline_train or s.validation_loss <= s.baseline_validation:
        return None
    flat = _flat([h["train"] for h in s.history if "train" in h])
    strongest = max(s.contributions.items(), key=lambda item: item[1].gradient_ratio or 0.0, default=None)
    penalties = sum(c.share or 0.0 for c in s.contributions.values())
    evidence = (
        f"training loss {s.train_loss:.3g} and validation loss {s.validation_loss:.3g} are above a linear model's "
        f"({s.baseline_train:.3g}, {s.baseline_validation:.3g}); the curve is {'flat' if flat else 'still falling'}; "
        f"penalties are {penalties:.0%} of the objective"
    )
    if not flat:
        return Diagnosis(mode="F1", evidence=evidence, suggestion="train longer or raise the learning rate")
    if strongest is not None and (strongest[1].gradient_ratio or 0.0) > 0:
        return Diagnosis(
            mode="F1", evidence=evidence, suggestion=f"halve regularizers.{strongest[0]}, the strongest block"
        )
    return Diagnosis(mode="F1", evidence=evidence, suggestion="widen the network or raise the learning rate")


def _flat(losses: Sequence[float]) -> bool:
    quarter = max(len(losses) // 4, 1)
    if len(losses) <= quarter:
        return True
    before, now = losses[-quarter - 1], losses[-1]
    return (before - now) <= FLAT * max(abs(before), 1e-12)


def overfit(s: Signals) -> Diagnosis | None:
    """F2: the gap's lower bound is above the target and the validation loss had been rising when the shipped weights were made."""
    validation = [h["validation"] for h in s.history if "validation" in h]
    if s.gap is None or s.gap.low is None or s.gap.low <= GAP_TARGET or s.restored or len(validation) <= PATIENCE:
        return None
    best = min(range(len(validation)), key=validation.__getitem__)
    if len(validation) - 1 - best < PATIENCE or validation[-1] <= RISING * validation[best]:
        return None
    missing = [b for b in ("earlyStopping", "weightDecay", "dropout") if b not in s.contributions]
    return Diagnosis(
        mode="F2",
        evidence=f"validation gap {s.gap.value:.3g} (at least {s.gap.low:.3g}); validation loss rose from {validation[best]:.3g} "
        f"in epoch {best + 1} to {validation[-1]:.3g} in epoch {len(validation)}",
        suggestion=f"add regularizers.{missing[0]}" if missing else "raise weightDecay or dropout, or add rows",
    )


def unstable(s: Signals) -> Diagnosis | None:
    """F7: gradients jump, a block that is stronger than the data pulls against it, or the loss jumps about ever more."""
    norms = [n for n in s.gradient_norms if math.isfinite(n)]
    if len(norms) > PATIENCE and max(norms) > SPIKE * max(median(norms), 1e-12):
        after = norms[len(norms) // 4 :]  # the first steps of any fit are steep
        if max(after) > SPIKE * max(median(norms), 1e-12):
            return Diagnosis(
                mode="F7",
                evidence=f"largest gradient norm {max(after):.3g} is {max(after) / median(norms):.0f} times the median",
                suggestion="lower the learning rate or add regularizers.gradientClipping",
            )
    for name, c in s.contributions.items():
        if c.cosine is not None and c.cosine < CONFLICT and (c.gradient_ratio or 0.0) > 1.0:
            return Diagnosis(
                mode="F7",
                evidence=f"{name} pulls against the data (cosine {c.cosine:.2f}) with {c.gradient_ratio:.1f} times its gradient",
                suggestion=f"lower or remove regularizers.{name}",
            )
    return _restless([h["train"] for h in s.history if "train" in h])


def _restless(losses: Sequence[float]) -> Diagnosis | None:
    """The variance of the loss's steps in the last quarter beside the quarter before. A fit that settles moves less and less."""
    steps = [after - before for before, after in pairwise(losses)]
    quarter = len(steps) // 4
    if quarter < PATIENCE:
        return None
    running, now = pvariance(steps[-2 * quarter : -quarter]), pvariance(steps[-quarter:])
    floor = (FLAT * max(abs(losses[-1]), 1e-12)) ** 2  # jumps below one per cent of the loss are no instability
    if now <= RESTLESS * max(running, floor):
        return None
    return Diagnosis(
        mode="F7",
        evidence=f"the training loss jumps about: its steps vary {now / max(running, 1e-300):.1f} times as much as in the quarter before",
        suggestion="halve the learning rate, or decay it with engine.torch.schedule.cosine",
    )


def miscalibrated(s: Signals) -> Diagnosis | None:
    """F8: the calibration error is more than a calibrated model of this size would show, or the temperature drifts between versions."""
    calibrated = "calibration" in s.contributions
    if s.excess is not None and s.excess.p_value < MISCALIBRATED and s.excess.excess > 0:
        return Diagnosis(
            mode="F8",
            evidence=f"calibration error {s.excess.ece:.3f} where a calibrated model shows {s.excess.null_mean:.3f} "
            f"(p = {s.excess.p_value:.3g}), temperature {s.temperature:.2f}",
            suggestion="raise data.split.calibration: the temperature was fitted on too few or other rows"
            if calibrated
            else "add regularizers.calibration: {method: temperature, split: calibration}; do not raise labelSmoothing",
        )
    before = s.previous_temperature
    if calibrated and before is not None and abs(s.temperature - before) > DRIFTED * before:
        return Diagnosis(
            mode="F8",
            evidence=f"the temperature went from {before:.2f} to {s.temperature:.2f} between two versions",
            suggestion="raise data.split.calibration, and look at what changed in the labels; do not raise labelSmoothing",
        )
    return None


def sensitive(s: Signals) -> Diagnosis | None:
    """F4: the mildest corruption of a kind already costs more than 0.05, also by the lower bound of its interval."""
    mildest: dict[str, Corrupted] = {}
    for one in s.corruptions:
        mildest.setdefault(one.kind, one)
    broken = [c for c in mildest.values() if c.drop.low is not None and c.drop.low > FRAGILE]
    if not broken:
        return None
    worst = max(broken, key=lambda c: c.drop.value)
    noisy = worst.kind == "gaussianNoise"
    block = "noiseInjection" if noisy else "weightDecay"
    field_, start = ("std", 0.1) if noisy else ("strength", 0.1)
    what = (
        f"noise of {worst.severity:g} standard deviations"
        if noisy
        else f"losing {worst.severity:.0%} of the feature values"
    )
    return Diagnosis(
        mode="F4",
        evidence=f"{what} costs {worst.drop.value:.3f} (at least {worst.drop.low:.3f}) of {s.quality}",
        suggestion=_more(s, block, field_, start),
    )


def _more(s: Signals, block: str, name: str, start: float) -> str:
    """Add the block, or double it within the API's bounds."""
    if block not in s.contributions:
        return f"add regularizers.{block}: {{{name}: {start:g}}}"
    now = s.contributions[block].coefficient or start
    return f"raise regularizers.{block}.{name} from {now:g} to {min(2 * now, DOUBLED[block]):g}"


def policy_regression(s: Signals) -> Diagnosis | None:
    """F6: safety violations beyond the previous version's, intervals apart. Not judged without a safety set and a predecessor."""
    now, before = s.safety, s.previous_safety
    if now is None or before is None or now.low is None or before.high is None or now.low <= before.high:
        return None
    block = s.contributions.get("safety")
    strength = 0.5 if block is None else (block.coefficient or 0.5)
    return Diagnosis(
        mode="F6",
        evidence=f"{now.value:.2%} of the safety rows are answered wrongly (at least {now.low:.2%}); the previous version: "
        f"{before.value:.2%} (at most {before.high:.2%})",
        suggestion=f"do not release; raise regularizers.safety.strength from {strength:g} to {min(2 * strength, 10.0):g}",
    )


# --- the exported version ---------------------------------------------------------------------------------------------
def mismatch(e: Exported) -> Diagnosis | None:
    """F3: what is served is not what was judged."""
    if e.repeated > 0:
        return Diagnosis(
            mode="F3",
            evidence=f"the trained model answers the same rows differently when asked twice (by {e.repeated:.2e}): dropout or "
            "batch statistics are active at prediction",
            suggestion="report the block that stays in training mode; use another image or remove it",
        )
    if e.judged_preprocessing != e.packaged_preprocessing:
        return Diagnosis(
            mode="F3",
            evidence=f"preprocessing changed between judging ({e.judged_preprocessing}) and packaging ({e.packaged_preprocessing})",
            suggestion="train again; when it recurs, report it as a bug of the trainer",
        )
    if e.other_labels:
        return Diagnosis(
            mode="F3",
            evidence=f"model.onnx answers another class than the trained model on {e.other_labels} of {e.rows} golden inputs",
            suggestion="scale or drop features of extreme range",
        )
    if not e.parity <= e.tolerance:
        return Diagnosis(
            mode="F3",
            evidence=f"model.onnx differs from the trained model by {e.parity:.2e} on golden inputs (tolerance {e.tolerance:g})",
            suggestion="scale or drop features of extreme range",
        )
    return None


def blown_up(e: Exported) -> Diagnosis | None:
    """F5: a resource above its budget, else half again the previous version's."""
    for name, value in e.resources.items():
        budget = e.budgets.get(name)
        limit = e.previous[name] * GROWN if budget is None and name in e.previous else budget
        if limit is None or value <= limit:
            continue
        whose = "its gate" if budget is not None else f"{GROWN:g} times the previous version's"
        return Diagnosis(
            mode="F5",
            evidence=f"{name} is {_amount(name, value)}, above {_amount(name, limit)}, {whose}"
            + (f"; {e.zeros:.0%} of the weights are 0 and stored densely" if e.zeros > SPARSE else ""),
            suggestion=_smaller(name, e.zeros),
        )
    return None


def _amount(name: str, value: float) -> str:
    return f"{value * 1e3:.3g} ms" if name.endswith("Seconds") else f"{value / 1e6:.3g} MB"


def _smaller(name: str, zeros: float) -> str:
    if name == "peakMemoryBytes":
        return "halve engine.torch.batchSize, or give training.resources.limits.memory what it needs and raise the gate"
    if zeros > SPARSE:
        return "add regularizers.structuredPruning: whole units leave the file, single zeros do not"
    return "add regularizers.quantization, or narrow the architecture"


RULES: Final[tuple[Callable[[Signals], Diagnosis | None], ...]] = (
    underfit,
    overfit,
    sensitive,
    policy_regression,
    unstable,
    miscalibrated,
)
