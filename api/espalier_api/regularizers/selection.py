"""Which weights are kept, averages of several, and what is fitted after training (guide: T3, T7, T10, M5, F8)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from espalier_api.base import Cel
from espalier_api.regularizers.block import Block, ModelReference


class EarlyStopping(Block):
    """Stops when the monitor no longer improves and goes back to the best epoch (Prechelt 1998)."""

    monitor: Literal["valLoss", "refinement", "metric"] = "valLoss"
    """Validation loss, the same after a temperature fit (Berta et al. 2025: blind to miscalibration), or accuracy / R2."""
    patience: int = Field(default=10, ge=1, le=1000)
    """Epochs without improvement."""
    min_delta: float = Field(default=1e-4, ge=0, le=1)
    """Smaller changes are no improvement."""
    restore_best: bool = True
    """Keep the best epoch's weights, not the last's."""


class Ensemble(Block):
    """Averages the predictions of several fits (Lakshminarayanan et al. 2017)."""

    members: int = Field(default=5, ge=2, le=20)
    """How many."""
    diversity: Literal["seed", "bagging", "stacking"] = "seed"
    """What differs between them."""


class WeightAveraging(Block):
    """Averages the weights of one fit over time (Polyak; Izmailov et al. 2018)."""

    kind: Literal["ema", "swa"] = "ema"
    """Exponential average, or equal weights over the last quarter."""
    decay: float = Field(default=0.999, ge=0.9, le=0.99999)
    """Of the exponential average, per step."""


class ModelSoup(Block):
    """Averages the weights of several fits from one initialization (Wortsman et al. 2022)."""

    candidates: tuple[ModelReference, ...] = Field(min_length=2, max_length=20)
    """Models with the same architecture, initialization and preprocessing."""
    method: Literal["greedy", "uniform"] = "greedy"
    """Add one after another while validation improves, or all."""


class CrossValidation(Block):
    """Repeats the fit on folds."""

    folds: int = Field(default=5, ge=2, le=20)
    """How many."""
    kind: Literal["stratified", "random", "group", "time"] = "stratified"
    """How rows are dealt to folds."""


class RegularizationPath(Block):
    """Fits along one strength from strong to weak and picks by a rule (Friedman et al. 2010)."""

    parameter: Annotated[
        str, StringConstraints(pattern=r"^[a-z][A-Za-z0-9]*(\.[a-z][A-Za-z0-9]*)+$", max_length=128)
    ] = "l1.strength"
    """Block and field, e.g. `l1.strength`."""
    from_: float = Field(default=1e-6, gt=0, le=1e6, alias="from")
    """Weakest value."""
    to: float = Field(default=1e-1, gt=0, le=1e6)
    """Strongest value."""
    points: int = Field(default=10, ge=2, le=100)
    """How many values, evenly on a logarithmic scale."""
    warm_start: bool = True
    """Start each fit at the previous one's weights."""
    rule: Literal["oneStandardError", "best"] = "oneStandardError"
    """The strongest value within one standard error of the best, or the best."""

    cel = (
        Cel(
            rule="!has(self.from) || !has(self.to) || self.from < self.to",
            message="regularizationPath: from (weakest) must be smaller than to (strongest)",
            holds=lambda block: block.from_ < block.to,
        ),
    )


class Calibration(Block):
    """Fits probabilities to outcomes on data that nothing else used (Guo et al. 2017). Folded into the exported graph."""

    method: Literal["temperature", "vector", "platt", "isotonic", "beta"] = "temperature"
    """One number for all logits keeps every decision; the others may change it."""
    split: Literal["calibration", "validation"] = "calibration"
    """Which part of the data; `calibration` is what data.split.calibration holds back."""


class Abstention(Block):
    """Answers only where the risk among answers stays bounded (selective classification, Geifman and El-Yaniv 2017)."""

    max_risk: float = Field(default=0.05, gt=0, lt=1)
    """Largest error rate among answered requests."""
    confidence: float = Field(default=0.95, gt=0, lt=1)
    """Probability with which the bound holds (Clopper-Pearson)."""
