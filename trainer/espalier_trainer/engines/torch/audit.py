"""Now and then: how strong is each block beside the data? Norm ratio and cosine, per stage by the honest measure of that stage.

LOSS: the gradient of the term (or of the difference it makes to the plain loss) against the plain data gradient. GRAD: what it added
to the gradient against the data gradient. STEP: how far it moved the weights against how far the optimizer did.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from espalier_trainer.engines.torch.telemetry import compare, stacked_norm
from espalier_trainer.peers import ALONE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor, nn

    from espalier_trainer.engines import Contribution
    from espalier_trainer.peers import Peers


class Audit:
    """Collects comparisons on the device; `collect` moves them to the host."""

    def __init__(self, names: Sequence[str], peers: Peers = ALONE) -> None:
        self._peers = peers
        self._pending: list[tuple[str, Callable[[], tuple[float, float]]]] = []
        self._pending_norms: list[Tensor] = []
        self._differences: list[tuple[str, Tensor]] = []  # [difference, plain]
        self.ratios: dict[str, list[float]] = {
            name: [0.0, 0.0, 0.0] for name in names
        }  # sum of ratios, sum of cosines, count
        self.replacement: dict[str, list[float]] = {}  # sums of (replaced - plain) and of plain loss, count
        self.data_norms: list[float] = []
        self._data: list[Tensor] = []
        self._data_step: list[Tensor] = []
        self._early: list[tuple[str, list[Tensor]]] = []
        self._parameters: list[nn.Parameter] = []

    def begin(self, plain: Tensor, parameters: list[nn.Parameter]) -> None:
        """Take the gradient of the plain data loss; the graph stays for backward."""
        self._parameters, self._data_step = parameters, []
        self._data = self._grad(plain)
        self._pending_norms.append(stacked_norm(self._data))

    def _grad(self, value: Tensor) -> list[Tensor]:
        grads = torch.autograd.grad(value, self._parameters, retain_graph=True, allow_unused=True)
        found = [torch.zeros_like(p) if g is None else g for g, p in zip(grads, self._parameters, strict=True)]
        self._peers.add(found)
        return found

    def replaced(self, name: str, data: Tensor, plain: Tensor) -> None:
        """A block that replaces the data loss is judged by the difference it makes."""
        self._pending.append((name, compare(self._grad(data - plain), self._data)))
        self._differences.append((name, torch.stack([data - plain, plain]).detach()))

    def term(self, name: str, weighted: Tensor) -> None:
        """A term of the objective."""
        self._pending.append((name, compare(self._grad(weighted), self._data)))

    def penalty(self, name: str, indices: Sequence[int], before: Sequence[Tensor], after: Sequence[Tensor]) -> None:
        """An analytic gradient: what came on top, over the whole model."""
        added = [torch.zeros_like(g) for g in self._data]
        for index, a, b in zip(indices, after, before, strict=True):
            added[index] = a - b
        self._pending.append((name, compare(added, self._data)))

    def moved(self, before: Sequence[Tensor], after: Sequence[Tensor]) -> None:
        """What the optimizer did; STEP blocks are measured against it."""
        self._data_step = [a - b for a, b in zip(after, before, strict=True)]
        for name, moved in self._early:
            self._displacement(name, moved)
        self._early.clear()

    def displaced(self, name: str, before: Sequence[Tensor], after: Sequence[Tensor]) -> None:
        """What a STEP block did. Blocks before the optimizer wait for its step."""
        moved = [a - b for a, b in zip(after, before, strict=True)]
        if self._data_step:
            self._displacement(name, moved)
        else:
            self._early.append((name, moved))

    def _displacement(self, name: str, moved: Sequence[Tensor]) -> None:
        pair = torch.stack([stacked_norm(moved), stacked_norm(self._data_step)])

        def told() -> tuple[float, float]:
            block, optimizer = pair.tolist()
            return (block / optimizer if optimizer else 0.0), float("nan")

        self._pending.append((name, told))

    def collect(self) -> None:
        """Move what is waiting to the host."""
        for name, told in self._pending:
            ratio, cosine = told()
            sums = self.ratios[name]
            self.ratios[name] = [sums[0] + ratio, sums[1] + cosine, sums[2] + 1]
        for name, pair in self._differences:
            difference, plain = pair.tolist()
            sums = self.replacement.get(name, [0.0, 0.0, 0.0])
            self.replacement[name] = [sums[0] + difference, sums[1] + plain, sums[2] + 1]
        if self._pending_norms:
            self.data_norms += torch.stack(self._pending_norms).tolist()
        self._pending.clear()
        self._differences.clear()
        self._pending_norms.clear()
        self._data, self._data_step = [], []

    def complete(self, name: str, one: Contribution) -> Contribution:
        """Add what is known here to a block's contribution."""
        ratio, cosine, count = self.ratios[name]
        if count:
            one.gradient_ratio = ratio / count
            one.cosine = None if cosine != cosine else cosine / count  # noqa: PLR0124 - NaN marks a STEP block
        if name in self.replacement:
            difference, plain, n = self.replacement[name]
            one.value = one.weighted = difference / n
            one.share = abs(difference) / max(abs(difference) + abs(plain), 1e-12)
        return one

    def state_dict(self) -> dict[str, Any]:
        """Sums so far."""
        self.collect()
        ratios = {name: [r, None if c != c else c, n] for name, (r, c, n) in self.ratios.items()}  # noqa: PLR0124 - JSON has no NaN
        return {"ratios": ratios, "replacement": self.replacement, "norms": self.data_norms}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse."""
        self.ratios = {n: [r, float("nan") if c is None else c, k] for n, (r, c, k) in state["ratios"].items()}
        self.replacement = {name: list(pair) for name, pair in state["replacement"].items()}
        self.data_norms = list(state["norms"])
