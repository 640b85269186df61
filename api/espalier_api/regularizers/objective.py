"""Labels, losses, weights of examples, fairness, safety, robustness and privacy (guide: Scenario 3, L2, L4, X13, X19)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from espalier_api.base import Cel
from espalier_api.regularizers.block import Block, Column, Scheduled


class LabelSmoothing(Scheduled):
    """Mixes the one-hot label with a uniform one (Szegedy et al. 2016). Raises accuracy and wrecks calibration: declare `calibration`."""

    epsilon: float = Field(default=0.05, ge=0, le=0.3)
    """Probability given to the uniform label."""


class RobustLoss(Block):
    """A loss that wrong labels or outliers cannot dominate."""

    kind: Literal["gce", "symmetricCE", "biTempered", "huber"] = "gce"
    """Generalized cross-entropy (Zhang and Sabuncu 2018), symmetric CE (Wang et al. 2019), bi-tempered logistic (Amid et al. 2019),
    or Huber (regression)."""
    q: float = Field(default=0.7, gt=0, le=1)
    """Of gce: towards 0 it is cross-entropy, 1 is mean absolute error."""
    delta: float = Field(default=1.0, gt=0, le=1000)
    """Of huber: residual at which the loss becomes linear, in units of the target."""


class SampleWeighting(Block):
    """Weights examples by a column."""

    column: Column
    """Column with non-negative weights; not a feature."""
    clip: tuple[float, float] = Field(default=(0.1, 10.0))
    """Smallest and largest weight used."""

    cel = (
        Cel(
            rule="!has(self.clip) || (self.clip.size() == 2 && self.clip[0] >= 0.0 && self.clip[0] <= self.clip[1])",
            message="sampleWeighting: clip is [smallest, largest] with 0 <= smallest <= largest",
            holds=lambda block: 0 <= block.clip[0] <= block.clip[1],
        ),
    )


class ClassRebalancing(Block):
    """Counters rare classes."""

    method: Literal["logitAdjustment", "inverse", "effectiveNumber", "oversample"] = "logitAdjustment"
    """Shift logits by the prior (Menon et al. 2021), weight by 1/count, by effective number (Cui et al. 2019), or sample more often."""
    tau: float = Field(default=1.0, ge=0, le=2)
    """Strength of the adjustment; 0 is none."""
    prior_correction: bool = True
    """Correct probabilities back to the true prior before they are served."""


class CalibrationLoss(Scheduled):
    """A term in the objective that rewards honest probabilities."""

    kind: Literal["brier", "mmce", "confidencePenalty"] = "brier"
    """Squared error of probabilities, kernel calibration error (Kumar et al. 2018), or negative entropy (Pereyra et al. 2017)."""
    strength: float = Field(default=0.5, gt=0, le=10)
    """Weight of the term."""


class Fairness(Scheduled):
    """A term for equal treatment of groups."""

    kind: Literal["demographicParity", "equalizedOdds", "groupDRO"] = "demographicParity"
    """Gap of positive rates, gap of error rates, or the worst group's loss (Sagawa et al. 2020)."""
    column: Column
    """Column with the group; not a feature unless included."""
    strength: float = Field(default=1.0, gt=0, le=100)
    """Weight of the term."""


class Safety(Scheduled):
    """Trains on a second, safe dataset as well, so that tuning does not unlearn it."""

    dataset: str = Field(min_length=1, max_length=1024, pattern=r"^s3://")
    """Prefix of the safe reference data, in the snapshot's schema."""
    strength: float = Field(default=0.5, gt=0, le=10)
    """Weight of its loss."""
    exclude_from_smoothing: bool = False
    """Keep its labels hard when labelSmoothing is on (R12)."""


class Adversarial(Scheduled):
    """Trains on the worst input within a ball (Madry et al. 2018; TRADES: Zhang et al. 2019)."""

    attack: Literal["fgsm", "pgd", "trades"] = "pgd"
    """How the worst input is sought."""
    epsilon: float = Field(default=0.03, gt=0, le=100)
    """Radius of the ball, in units of the scaled features: deviations, with data.preprocessing.scaling minMax ranges."""
    steps: int = Field(default=7, ge=1, le=100)
    """Steps of the search; fgsm takes one."""
    step_size: float | None = Field(default=None, gt=0, le=100)
    """Length of a step; absent means epsilon/4."""
    mix: float = Field(default=0.5, ge=0, le=1)
    """Share of the adversarial loss; for trades its weight."""
    norm: Literal["linf", "l2"] = "linf"
    """Norm of the ball."""


class Privacy(Block):
    """Differential privacy by DP-SGD (Abadi et al. 2016)."""

    epsilon: float = Field(default=8.0, gt=0, le=50)
    """Budget."""
    delta: float | None = Field(default=None, gt=0, lt=1)
    """Failure probability; absent means a tenth of 1/n."""
    max_grad_norm: float = Field(default=1.0, gt=0, le=1000)
    """Bound on each example's gradient."""
    accountant: Literal["prv", "rdp"] = "prv"
    """How the spent budget is computed."""
