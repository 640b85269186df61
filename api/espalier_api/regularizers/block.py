"""What blocks share: which parameters they act on, and how their strength moves over training.

Units, fixed once: an L2 penalty is strength/2 * ||w||^2, an L1 penalty strength * ||w||_1, the data loss is a mean. So
`Ridge(alpha=n*strength)` and `Lasso(alpha=strength)` are the same problems with half the squared error as loss.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from espalier_api.base import ApiModel, Cel

Glob = Annotated[str, StringConstraints(min_length=1, max_length=253)]
"""Shell-style pattern over dotted parameter or module names, e.g. `head.*`."""

ModelReference = Annotated[
    str, StringConstraints(pattern=r"^(previousModel|[a-z0-9]([-a-z0-9]*[a-z0-9])?(@v[1-9][0-9]*)?)$", max_length=80)
]
"""Another fitted model: `previousModel` (the champion), `name` (its champion) or `name@v3`, in the same namespace."""

Column = Annotated[str, StringConstraints(min_length=1, max_length=253)]
"""Name of a column of the snapshot."""


class Target(ApiModel):
    """Which parameters a block acts on. Without `exclude`, biases and normalization parameters are left alone."""

    include: tuple[Glob, ...] = Field(default=("*",), min_length=1, max_length=64)
    """Patterns of names to act on."""
    exclude: tuple[Glob, ...] | None = Field(default=None, max_length=64)
    """Patterns of names to leave alone; absent means biases and normalization parameters, an empty list means none."""


class Schedule(ApiModel):
    """Regularizer annealing: a factor on the block's strength over training time, where 0 is the first step and 1 the last."""

    kind: Literal["constant", "linear", "cosine", "step"] = "constant"
    """How the factor moves between `start` and `end`: not at all, in a line, along half a cosine, or at once at `end`."""
    from_: float = Field(default=0.0, ge=0, le=100, alias="from")
    """Factor up to `start`."""
    to: float = Field(default=1.0, ge=0, le=100)
    """Factor from `end` on."""
    start: float = Field(default=0.0, ge=0, le=1)
    """Where the change begins, as a part of training."""
    end: float = Field(default=1.0, ge=0, le=1)
    """Where the change is done, as a part of training."""

    cel = (
        Cel(
            rule="!has(self.start) || !has(self.end) || self.start <= self.end",
            message="schedule: start must not be after end",
            holds=lambda schedule: schedule.start <= schedule.end,
        ),
    )

    def factor(self, progress: float) -> float:
        """The factor in force at `progress` (0-1). A constant schedule is `to` throughout."""
        if self.kind == "constant" or progress >= self.end:
            return self.to
        if self.kind == "step" or progress <= self.start:
            return self.from_
        part = (progress - self.start) / (self.end - self.start)
        if self.kind == "cosine":
            part = (1 - math.cos(math.pi * part)) / 2
        return self.from_ + part * (self.to - self.from_)


class Block(ApiModel):
    """Base of every regularizer block. A block that is present is on; what it does not say has a default here."""


class Targeted(Block):
    """A block that acts on chosen parameters or modules."""

    target: Target | None = None
    """Which parameters; absent means all but biases and normalization parameters."""


class Scheduled(Block):
    """A block whose strength may be annealed."""

    schedule: Schedule | None = None
    """How the strength moves over training; absent means constant."""
