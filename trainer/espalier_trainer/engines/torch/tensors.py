"""Rows on the device, how to fit them, and the generator that every draw comes from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from espalier_trainer.protocol import Batch

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt
    from torch import Tensor

    from espalier_trainer.engines.torch.optimizers import OptimizerSpec
    from espalier_trainer.schedule import LearningRate

LOG_EVERY = 50


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """Batches of one pass. A tail of a single row joins the batch before it: batch norm knows no variance of one row (torch
    raises), and a step of one row is mostly noise.
    """
    full, tail = divmod(rows, batch_size)
    return full + (tail > 1 or (full == 0 and tail > 0))


@dataclass(frozen=True, slots=True)
class Settings:
    """How to fit; `autocast` is the type of forward and backward when it is not the weights' own."""

    optimizer: OptimizerSpec
    rate: LearningRate
    epochs: int
    batch_size: int
    seed: int
    regression: bool
    autocast: torch.dtype | None = None
    log_every: int = LOG_EVERY


@dataclass(slots=True)
class Tensors:
    """A split on the device; all tensors are row-aligned."""

    x: Tensor
    y: Tensor
    weight: Tensor | None = None
    groups: Mapping[str, Tensor] = field(default_factory=dict)  # column: (rows,) group code

    def __len__(self) -> int:
        return len(self.y)

    def take(self, rows: Tensor) -> Batch:
        """The given rows."""
        weight = None if self.weight is None else self.weight[rows]
        return Batch(self.x[rows], self.y[rows], weight, rows, {name: g[rows] for name, g in self.groups.items()})

    def all(self) -> Batch:
        """Every row, in order."""
        return Batch(self.x, self.y, self.weight, torch.arange(len(self), device=self.x.device), self.groups)


def seed_generators(seed: int, device: torch.device) -> None:
    """Reseed the generator that this device draws from."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def as_numpy(tensor: Tensor) -> npt.NDArray[np.float64]:
    """Host copy in double precision."""
    return np.asarray(tensor.detach().double().cpu().numpy())
