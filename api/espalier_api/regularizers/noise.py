"""Noise, data augmentation and bottlenecks (guide: T1, T4 and the glossary)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from espalier_api.regularizers.block import Block, Glob, Scheduled, Targeted


class Dropout(Targeted, Scheduled):
    """Drops activations at random in training (Srivastava et al. 2014)."""

    p: float = Field(default=0.1, ge=0, le=0.9)
    """Probability of dropping; 0.2 to 0.5 is usual for an MLP."""
    kind: Literal["element", "channel", "alpha"] = "element"
    """Single activations, whole channels, or the variant for SELU."""


class DropConnect(Targeted, Scheduled):
    """Drops weights at random in training (Wan et al. 2013)."""

    p: float = Field(default=0.1, ge=0, le=0.8)
    """Probability of dropping a weight."""


class StochasticDepth(Targeted, Scheduled):
    """Skips residual blocks at random in training (Huang et al. 2016)."""

    p: float = Field(default=0.1, ge=0, le=0.8)
    """Probability of skipping the last block."""
    decay: Literal["linear", "uniform"] = "linear"
    """From 0 at the first block to p at the last, or p everywhere."""
    mode: Literal["row", "batch"] = "row"
    """Decide per example or per batch."""


class McDropout(Block):
    """Keeps dropout on when predicting and reports the spread (Gal and Ghahramani 2016)."""

    samples: int = Field(default=20, ge=2, le=200)
    """Forward passes per prediction."""


class NoiseInjection(Targeted, Scheduled):
    """Adds Gaussian noise; on inputs it equals a ridge penalty for linear models (Bishop 1995)."""

    site: Literal["input", "weight", "activation", "gradient"] = "input"
    """Where the noise is added."""
    std: float = Field(default=0.1, gt=0, le=1)
    """Standard deviation, in units of the weight's own; of inputs in units of the scaled feature (data.preprocessing.scaling)."""


class Augmentation(Block):
    """Changes inputs in ways that keep their label (T4). Never applied when evaluating."""

    policy: Literal[
        "none",
        "image.shift",
        "image.cropFlip",
        "image.affine",
        "image.erase",
        "image.cameraJitter",
        "tabular.swapNoise",
        "tabular.gaussian",
    ] = "none"
    """Which changes."""
    magnitude: int = Field(default=5, ge=0, le=30)
    """How strong, on RandAugment's scale."""
    probability: float = Field(default=0.5, ge=0, le=1)
    """Share of examples (for swapNoise: of values) that are changed."""


class BatchMixing(Block):
    """Trains on blends of two examples (mixup: Zhang et al. 2018, CutMix: Yun et al. 2019)."""

    kind: Literal["mixup", "cutmix"] = "mixup"
    """Blend whole inputs or patches."""
    alpha: float = Field(default=0.2, gt=0, le=2)
    """The share is drawn from Beta(alpha, alpha)."""


class InformationBottleneck(Scheduled):
    """A stochastic code of few dimensions, priced by its information (deep VIB, Alemi et al. 2017)."""

    beta: float = Field(default=1e-3, ge=0, le=1)
    """Price of KL(code || standard normal)."""
    dim: int = Field(default=32, ge=1, le=4096)
    """Dimensions of the code."""


class Latent(Scheduled):
    """Penalizes a layer's activations."""

    kind: Literal["activationL2", "kl", "centre", "varianceCovariance"] = "activationL2"
    """Their squares, divergence from a standard normal, distance to class centres, or VICReg's terms."""
    layer: Glob = "*"
    """Modules whose output is meant."""
    strength: float = Field(default=1e-3, gt=0, le=10)
    """Weight of the term."""
