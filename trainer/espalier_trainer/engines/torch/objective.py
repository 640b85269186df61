"""LOSS: scores, the data loss that is in force, and the terms that are added to it.

The data loss of a batch is built per row: plain loss (or the one block that replaces it, on adjusted scores), then every block that
mixes something into the rows, then the weighted mean. Terms are added before their coefficients. All of it in fp32 or better.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch

from espalier_trainer.engines.torch import losses
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.peers import ALONE, Peers, Sharing
from espalier_trainer.protocol import Batch, Regularizer, acting

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from espalier_trainer.engines.torch.audit import Audit
    from espalier_trainer.protocol import Step
    from espalier_trainer.schedule import Coefficient


def only(blocks: Sequence[Regularizer[Any]], hook: str, what: str) -> Regularizer[Any] | None:
    """The one block that takes part in `hook`, None without one; two are refused by name."""
    found = acting(blocks, hook)
    if len(found) > 1:
        raise InvalidConfigError(f"regularizers: {' and '.join(b.name for b in found)} both {what}; keep one")
    return found[0] if found else None


class Objective:
    """The objective of one fit; `forward` and `rows` are what blocks get through FitView."""

    def __init__(
        self,
        model: nn.Module,
        blocks: Sequence[Regularizer[Any]],
        coefficients: Mapping[str, Coefficient],
        *,
        regression: bool,
        autocast: torch.dtype | None,
        peers: Peers = ALONE,
    ) -> None:
        self.model, self.coefficients, self.peers = model, coefficients, peers
        self.regression, self.autocast = regression, autocast
        self.replacing = only(blocks, "data_loss", "replace the data loss")
        self.adjusting = acting(blocks, "adjust_scores")
        self.mixing = acting(blocks, "mix_loss")
        self.terms = acting(blocks, "loss_terms")
        self.recording = False

    def forward(self, x: Tensor) -> Tensor:
        """Scores (rows, outputs) in the precision of `x`."""
        cast = self.autocast
        with torch.autocast(x.device.type, cast) if cast else contextlib.nullcontext():
            scores: Tensor = self.model(x)
        return scores.to(x.dtype)  # terms are summed in fp32 or better: bf16 loses penalties

    def scores(self, x: Tensor) -> Tensor:
        """Of a batch's own pass: each process forwards its own rows and hears of the others' scores."""
        if self.peers.size == 1:
            return self.forward(x)
        own = self.peers.own(len(x))
        count = own.stop - own.start
        passed = x[own] if count else x[:1]  # weights must get a gradient from everybody, if one of zeros
        return self.peers.whole(self.forward(passed)[:count], len(x))

    def plain(self, scores: Tensor, batch: Batch) -> Tensor:
        """(rows,) without any block."""
        return losses.per_row(scores, batch, regression=self.regression)

    def rows(self, scores: Tensor, batch: Batch) -> Tensor:
        """(rows,) with adjusted scores and the replaced loss, before anything is mixed in."""
        for block in self.adjusting:
            scores = block.adjust_scores(scores, batch, self.coefficients[block.name])
        if self.replacing is None:
            return self.plain(scores, batch)
        return self.replacing.data_loss(scores, batch, self.coefficients[self.replacing.name])

    def split(self, batch: Batch, step: Step) -> tuple[Tensor, Tensor]:
        """The data loss and the sum of terms with their coefficients, for any batch: what blocks get through FitView."""
        data, terms = self(batch, step, [], None)
        total = data.new_zeros(())
        for name, value in terms.items():
            total = total + self.coefficients[name].tensor * value
        return data, total

    def __call__(
        self, batch: Batch, step: Step, parameters: Sequence[nn.Parameter], audit: Audit | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The data loss (scalar) and the terms by block name (scalars), with the gradient audit of this step if there is one."""
        self.recording = True  # activations of this pass are the batch's; passes of blocks (attacks) are not
        scores = self.scores(batch.x)
        self.recording = False
        plain = losses.mean(self.plain(scores, batch), batch.weight) if audit else None
        rows = self.rows(scores, batch)
        data = losses.mean(rows, batch.weight)
        if audit is not None and plain is not None:
            audit.begin(plain, list(parameters))
            for block in (self.replacing, *self.adjusting):
                if block is not None:  # they act as one: their difference cannot be told apart
                    audit.replaced(block.name, data, plain)
        for block in self.mixing:
            before = data
            rows = block.mix_loss(rows, scores, batch, self.coefficients[block.name])
            data = losses.mean(rows, batch.weight)
            if audit is not None:
                audit.replaced(block.name, data, before)
        terms: dict[str, Tensor] = {}
        for block in self.terms:
            term = torch.stack(list(block.loss_terms(scores, batch, step).values())).sum()
            terms[block.name] = self._part(term) if block.shared() is Sharing.WHOLE else term
            if audit is not None:
                audit.term(block.name, self.coefficients[block.name].tensor * terms[block.name])
        return data, terms

    def _part(self, term: Tensor) -> Tensor:
        """The value of a term that every process computes whole, with this process's part of its gradient."""
        return term if self.peers.size == 1 else term.detach() + (term - term.detach()) / self.peers.size
