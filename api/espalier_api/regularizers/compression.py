"""Smaller models: pruning and quantization (guide: T5, S1, X4, X20)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from espalier_api.base import Cel
from espalier_api.regularizers.block import Targeted


class Pruning(Targeted):
    """Sets the smallest weights to zero and keeps them there (Han et al. 2015; cubic ramp: Zhu and Gupta 2017)."""

    sparsity: float = Field(default=0.5, ge=0, le=0.99)
    """Share of weights that end at zero; with pattern 2:4 it is one half."""
    schedule: Literal["cubic", "linear", "oneShot"] = "cubic"
    """How sparsity grows over training."""
    pattern: Literal["unstructured", "2:4"] = "unstructured"
    """Anywhere, or exactly two of every four."""
    fine_tune_epochs: int = Field(default=10, ge=0, le=1000)
    """Epochs after the last weight was removed."""


class StructuredPruning(Targeted):
    """Removes whole channels, so that a dense model becomes a smaller dense model."""

    ratio: float = Field(default=0.3, ge=0, le=0.9)
    """Share of channels removed."""
    importance: Literal["magnitude", "taylor", "lamp"] = "magnitude"
    """What a channel is ranked by."""
    fine_tune_epochs: int = Field(default=10, ge=0, le=1000)
    """Epochs after the channels are gone."""


class Quantization(Targeted):
    """Weights and activations in few bits."""

    mode: Literal["static", "dynamic", "qat"] = "static"
    """After training with calibration data, after training without, or simulated while training."""
    bits: int = Field(default=8, ge=2, le=8)
    """Bits per weight."""
    per_channel: bool = True
    """One scale per output channel instead of one per tensor."""
    calibration_samples: int | None = Field(default=None, ge=1, le=1_000_000)
    """Examples that set the ranges of activations; absent means 256. Only with mode static."""
    start_epoch: float | None = Field(default=None, ge=0, lt=1)
    """When the simulation begins, as a part of training; absent means 0.7. Only with mode qat."""

    cel = (
        Cel(
            rule="!has(self.calibrationSamples) || self.mode == 'static'",
            message="quantization: calibrationSamples belongs to mode static; remove it or change the mode",
            holds=lambda block: block.calibration_samples is None or block.mode == "static",
        ),
        Cel(
            rule="!has(self.startEpoch) || self.mode == 'qat'",
            message="quantization: startEpoch belongs to mode qat; remove it or change the mode",
            holds=lambda block: block.start_epoch is None or block.mode == "qat",
        ),
    )
