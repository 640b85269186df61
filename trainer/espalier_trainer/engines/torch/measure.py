"""What a network costs: parameters and floating-point operations of one row."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def parameters(model: nn.Module) -> int:
    """Numbers that are learned."""
    return sum(p.numel() for p in model.parameters())


def flops(model: nn.Module, features: int) -> int:
    """Operations of matrix products and convolutions for one row, a multiply-add counted as two (torch's own counter)."""
    first = next(model.parameters())
    was_training = model.training
    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, features, device=first.device, dtype=first.dtype))
    model.train(was_training)
    return int(counter.get_total_flops())
