"""Dropout: drops activations with probability p in training and scales the rest by 1/(1-p). Srivastava et al. 2014. For a linear model
with dropout on its inputs this is a ridge penalty p/(1-p) * diag(X'X) (Wager et al. 2013).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from espalier_api.regularizers import Dropout as DropoutConfig
from espalier_trainer.engines.torch.layers import insert, layer_names
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.peers import Sharing
from espalier_trainer.protocol import LAST, Regularizer, Stage, register

if TYPE_CHECKING:
    from espalier_trainer.schedule import Coefficient


def dropped(x: Tensor, p: float) -> Tensor:
    """x * mask / (1 - p). On a CPU torch draws 32 random bits per element with one thread, a quarter of a step's time on a wide MLP;
    16 bits decide as well (p is then exact to 2^-16), so one 64-bit draw serves four elements.
    """
    if x.device.type != "cpu":
        return F.dropout(x, p)
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    kept = words.view(torch.int16)[: x.numel()].view(x.shape) >= round(p * 65536) - 32768
    return x * kept.to(x.dtype).mul_(1.0 / (1.0 - p))


class AnnealedDropout(nn.Module):
    """Dropout whose probability is the coefficient in force; `kind` element or alpha (for SELU)."""

    identity_in_evaluation = True
    per_row = False  # privacy sets it: words of four elements cannot be told apart by row under vmap

    def __init__(self, coefficient: Coefficient, kind: str) -> None:
        super().__init__()
        self.coefficient, self.kind = coefficient, kind

    def forward(self, x: Tensor) -> Tensor:
        """Same shape; the identity in evaluation mode."""
        p = self.coefficient.value
        if not self.training or p == 0.0:
            return x
        if self.kind == "alpha":
            return F.alpha_dropout(x, p, training=True)
        return F.dropout(x, p) if self.per_row else dropped(x, p)


class ChannelDropout(AnnealedDropout):
    """Drops whole channels of x (rows, channels, height, width), units of x (rows, tokens, units) over all tokens (Tompson et al. 2015)."""

    def forward(self, x: Tensor) -> Tensor:
        """Same shape; the identity in evaluation mode. A row without positions has units for channels."""
        p = self.coefficient.value
        if not self.training or p == 0.0:
            return x
        tokens = x.dim() == 3  # noqa: PLR2004 - (rows, tokens, units)
        shape = (len(x), 1, x.shape[-1]) if tokens else (*x.shape[:2], *[1] * (x.dim() - 2))
        return x * F.dropout(x.new_ones(shape), p)


@register
class Dropout(Regularizer[DropoutConfig]):
    """After the activation of each selected hidden layer."""

    name = "dropout"
    stage = Stage.SURGERY
    sharing = Sharing.EXACT
    order = LAST  # after whatever rebuilds layers
    annealed = "p"
    selects = "layers"

    def surgery(self, model: nn.Module, coefficient: Coefficient) -> None:
        """Append a dropout module to each selected layer."""
        schedule = coefficient.schedule
        peak = coefficient.strength * (max(schedule.from_, schedule.to) if schedule else 1.0)
        if peak >= 1.0:
            raise InvalidConfigError(f"regularizers.dropout: p times its schedule reaches {peak:.3g}; keep it below 1")
        channels = self.config.kind == "channel"
        if channels and not any(isinstance(m, nn.Conv1d | nn.Conv2d) or hasattr(m, "heads") for m in model.modules()):
            raise InvalidConfigError(
                "regularizers.dropout.kind: channel needs convolutions or tokens; use element or alpha with an mlp"
            )
        module = ChannelDropout if channels else AnnealedDropout
        for layer in self.selector.choose(layer_names(model), self.name, "layer"):
            insert(model, layer, "dropout", module(coefficient, self.config.kind))
