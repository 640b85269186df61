"""Penalties and constraints on weights, and what acts on the optimizer's step (guide: T2, T6 and the glossary)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from espalier_api.base import Cel
from espalier_api.regularizers.block import Block, Glob, Scheduled, Targeted


class L2(Targeted, Scheduled):
    """Adds strength/2 * ||w||^2 to the objective (Goodfellow et al. 2016, 7.1.1). With adaptive optimizers it is not weight decay."""

    strength: float = Field(default=1e-4, gt=0, le=1)
    """Lambda of strength/2 * ||w||^2."""


class WeightDecay(Targeted, Scheduled):
    """Shrinks weights by learningRate * strength each step, apart from the gradient (Loshchilov and Hutter 2019)."""

    strength: float = Field(default=1e-2, gt=0, le=10)
    """Decay per unit of learning rate."""


class L1(Targeted, Scheduled):
    """Adds strength * ||w||_1 and reaches exact zeros: a proximal step in the optimizer's own metric, never a subgradient."""

    strength: float = Field(default=1e-5, gt=0, le=1)
    """Lambda of strength * ||w||_1."""
    method: Literal["proximal", "hadamard"] = "proximal"
    """Soft threshold after the step, or w = u*v with L2 on u and v."""


class ElasticNet(Targeted, Scheduled):
    """Both penalties in sklearn's form: strength * (l1Ratio * ||w||_1 + (1 - l1Ratio)/2 * ||w||^2) (Zou and Hastie 2005)."""

    strength: float = Field(default=1e-4, gt=0, le=1)
    """Overall lambda."""
    l1_ratio: float = Field(default=0.5, ge=0, le=1)
    """Share of the L1 part."""


class StructuredSparsity(Targeted, Scheduled):
    """Group lasso: strength * sum of ||w_g||_2 removes whole channels, inputs or heads (Yuan and Lin 2006)."""

    strength: float = Field(default=1e-4, gt=0, le=1)
    """Lambda of the group norms."""
    group: Literal["channel", "input", "head"] = "channel"
    """What is kept or removed as one."""
    size_scaled: bool = True
    """Weight each group by the square root of its size, so that large groups are not favoured."""
    protect: tuple[Glob, ...] = Field(default=(), max_length=64)
    """Groups of these parameters are never set to zero."""


class Reparameterization(Targeted):
    """Trains the weights through another parametrization; removed before export."""

    kind: Literal["hadamard", "weightNorm", "orthogonal"] = "hadamard"
    """w = u*v (with l2: an L1 penalty), magnitude times direction (Salimans and Kingma 2016), or orthogonal columns."""


class SpectralNorm(Targeted, Scheduled):
    """Limits the largest singular value of each weight (Yoshida and Miyato 2017; Miyato et al. 2018)."""

    mode: Literal["penalty", "bound"] = "penalty"
    """`penalty` adds strength/2 * sigma^2; `bound` rescales weights so that sigma <= bound."""
    strength: float | None = Field(default=None, gt=0, le=10)
    """Of the penalty; absent means 0.01. Only with mode penalty."""
    bound: float | None = Field(default=None, ge=0.5, le=20)
    """Largest allowed sigma; absent means 3 (a bound of 1 on every layer cost 7 points on digits). Only with mode bound."""
    power_iterations: int = Field(default=1, ge=1, le=20)
    """Iterations per step of the estimate of sigma."""

    cel = (
        Cel(
            rule="self.mode == 'penalty' ? !has(self.bound) : !has(self.strength)",
            message="spectralNorm: strength belongs to mode penalty and bound to mode bound; remove the other one",
            holds=lambda block: (block.bound if block.mode == "penalty" else block.strength) is None,
        ),
    )


class MaxMargin(Block):
    """Replaces cross-entropy by a margin loss (Crammer and Singer 2001)."""

    loss: Literal["hinge", "squaredHinge"] = "squaredHinge"
    """Hinge, or its square as in LinearSVC."""
    margin: float = Field(default=1.0, gt=0, le=10)
    """Distance asked between the true class and the others."""


class GradientClipping(Targeted):
    """Bounds the gradient before the step (Pascanu et al. 2013)."""

    max_norm: float = Field(default=1.0, gt=0, le=1000)
    """Largest norm, or largest absolute value of an element with kind value."""
    kind: Literal["norm", "value"] = "norm"
    """Scale the whole gradient, or cut each element."""


class Normalization(Targeted):
    """Normalization layers in the architecture (T6)."""

    kind: Literal["none", "batch", "layer", "group", "rms"] = "none"
    """Which layer follows each linear or convolution."""
    groups: int = Field(default=32, ge=1, le=1024)
    """Groups of group normalization."""
