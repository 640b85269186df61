"""Annealing of any block's strength and of the learning rate: closed forms of the done fraction, so resuming needs no state."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from espalier_api.regularizers import Schedule


class Coefficient:
    """A strength that lives on the device: a tensor that is refilled in place, so compiled graphs and kernels see no new constant."""

    def __init__(self, strength: float, schedule: Schedule | None, tensor: Tensor) -> None:
        self.strength, self.schedule, self.tensor = strength, schedule, tensor
        self.value = math.nan
        self.update(0.0)

    def update(self, fraction: float) -> None:
        """Move to `fraction` of the fit; touches the device only when the value changed."""
        value = self.strength * (1.0 if self.schedule is None else self.schedule.factor(fraction))
        if value != self.value:
            self.value = value
            self.tensor.fill_(value)


class LearningRate(Protocol):
    """Learning rate as a function of the done fraction."""

    def at(self, fraction: float) -> float:
        """Learning rate at `fraction`, 0 first step, 1 last step."""
        ...


@dataclass(frozen=True, slots=True)
class ConstantRate:
    """The same all along."""

    rate: float

    def at(self, fraction: float) -> float:
        """The rate."""
        return self.rate


@dataclass(frozen=True, slots=True)
class CosineRate:
    """Linear warm-up from 0 over `warmup` of the fit, then half a cosine down to `floor` times the rate (Loshchilov, Hutter 2017)."""

    rate: float
    warmup: float = 0.0
    floor: float = 0.0

    def at(self, fraction: float) -> float:
        """The rate at `fraction`."""
        if fraction < self.warmup:
            return self.rate * fraction / self.warmup
        done = (fraction - self.warmup) / max(1.0 - self.warmup, 1e-12)
        return self.rate * (self.floor + (1.0 - self.floor) * (1.0 + math.cos(math.pi * min(done, 1.0))) / 2.0)


@dataclass(frozen=True, slots=True)
class StepRate:
    """The rate times `factor` after each `every` (a fraction of the fit)."""

    rate: float
    every: float
    factor: float

    def at(self, fraction: float) -> float:
        """The rate at `fraction`; a hair of tolerance keeps rounding from delaying a drop by one step."""
        return self.rate * self.factor ** int(fraction / self.every + 1e-9)
