"""Per-term numbers without a device sync per step: values wait in a device buffer and move to the host every `every` steps."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from espalier_trainer.errors import DivergedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

DATA = "data loss"


class TermLog:
    """A ring of (steps, terms) on the device; column 0 is the data loss, the others are weighted terms of the objective."""

    def __init__(self, terms: Sequence[str], every: int, device: torch.device) -> None:
        self.terms = (DATA, *terms)
        self._buffer = torch.zeros(every, len(self.terms), device=device, dtype=torch.float64)
        self._first, self._filled = 0, 0
        self.sums = [0.0] * len(self.terms)
        self.steps = 0

    @property
    def filled(self) -> int:
        """Steps that wait on the device."""
        return self._filled

    @property
    def empty(self) -> bool:
        """True at the start of a window."""
        return self._filled == 0

    def add(self, step: int, values: Sequence[Tensor]) -> bool:
        """Remember one step's values (scalars on the device, in the order of `terms`); True when the buffer is full."""
        if self._filled == 0:
            self._first = step
        torch.stack([v.detach().to(self._buffer.dtype) for v in values], out=self._buffer[self._filled])
        self._filled += 1
        return self._filled == len(self._buffer)

    def flush(self) -> list[float]:
        """Move to the host, guard against NaN, add to the sums; return the mean of each term since the last flush."""
        rows = self._buffer[: self._filled].tolist()
        if not rows:
            return [math.nan] * len(self.terms)
        for offset, row in enumerate(rows):
            if not all(map(math.isfinite, row)):
                raise self._diverged(self._first + offset, rows, offset)
        totals = [sum(column) for column in zip(*rows, strict=True)]
        self.sums = [a + b for a, b in zip(self.sums, totals, strict=True)]
        self.steps += self._filled
        self._filled = 0
        return [total / len(rows) for total in totals]

    def _diverged(self, step: int, rows: list[list[float]], offset: int) -> DivergedError:
        """Name the term that stopped being a number, or the largest before it did."""
        row, before = rows[offset], rows[max(offset - 1, 0)]
        broken = [name for name, value in zip(self.terms, row, strict=True) if not math.isfinite(value)]
        finite = [(abs(v) if math.isfinite(v) else math.inf, name) for name, v in zip(self.terms, before, strict=True)]
        size, largest = max(finite)
        told = f"{largest} = {size:.3g}" if math.isfinite(size) else largest
        return DivergedError(
            f"step {step}: {', '.join(broken)} is not a finite number; largest term before: {told}. "
            "Lower engine.torch.optimizer's learningRate, add regularizers.gradientClipping, or lower that term"
        )


def stacked_norm(tensors: Sequence[Tensor]) -> Tensor:
    """Euclidean norm over all elements of all tensors, a scalar on the device."""
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(tensors))))  # noqa: SLF001 - torch's own fused form
    return norm


def compare(terms: Sequence[Tensor], data: Sequence[Tensor]) -> Callable[[], tuple[float, float]]:
    """Norm ratio and cosine of two gradients, computed on the device now and moved to the host when called."""
    dots = torch.stack([torch.sum(a * b) for a, b in zip(terms, data, strict=True)]).sum()
    pair = torch.stack([stacked_norm(terms), stacked_norm(data), dots])

    def told() -> tuple[float, float]:
        term, base, dot = pair.tolist()
        return (term / base if base else math.inf if term else 0.0), (dot / (term * base) if term * base else 0.0)

    return told
