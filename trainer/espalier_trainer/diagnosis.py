"""Failure modes from logged signals: pure rules over numbers, one function per mode, each with evidence and the next thing to try.

Only what a single training run can see is here: F1 underfit, F2 overfit, F7 instability, F8 miscalibration (F3 is the parity check
that blocks the release; F4 to F6 need production or a predecessor).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Final

from espalier_api.model import Diagnosis

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from espalier_api.artifact import MetricValue
    from espalier_trainer.engines import Contribution
    from espalier_trainer.evaluation.calibration import Excess

GAP_TARGET: Final = 0.05  # nats or half squared standard deviations
FLAT: Final = 0.01  # relative improvement of the training loss over the last quarter
RISING: Final = 1.02
PATIENCE: Final = 5
SPIKE: Final = 10.0
CONFLICT: Final = -0.5
MISCALIBRATED: Final = 0.01


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
    """F7: gradients jump, or a block that is stronger than the data pulls against it."""
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
    return None


def miscalibrated(s: Signals) -> Diagnosis | None:
    """F8: the calibration error is more than a calibrated model of this size would show."""
    if s.excess is None or s.excess.p_value >= MISCALIBRATED or s.excess.excess <= 0:
        return None
    calibrated = "calibration" in s.contributions
    return Diagnosis(
        mode="F8",
        evidence=f"calibration error {s.excess.ece:.3f} where a calibrated model shows {s.excess.null_mean:.3f} "
        f"(p = {s.excess.p_value:.3g}), temperature {s.temperature:.2f}",
        suggestion="raise data.split.calibration: the temperature was fitted on too few or other rows"
        if calibrated
        else "add regularizers.calibration: {method: temperature, split: calibration}; do not raise labelSmoothing",
    )


RULES: Final[tuple[Callable[[Signals], Diagnosis | None], ...]] = (underfit, overfit, unstable, miscalibrated)
