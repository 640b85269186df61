"""Weights that are held at exactly zero, for the blocks that prune.

A plain parameter is set to zero after every step, and in every average of it. A weight that another block computes anew in each
pass (spectral bound, weight norm, DropConnect) is masked after that computation by one more parametrization (R16).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from espalier_trainer.targets import canonical

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class Kept(nn.Module):
    """A parametrization: zero where `kept` is False."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.kept: Tensor
        self.register_buffer("kept", torch.ones_like(weight, dtype=torch.bool))

    def forward(self, weight: Tensor) -> Tensor:
        """Same shape."""
        return torch.where(self.kept, weight, torch.zeros((), dtype=weight.dtype, device=weight.device))


class Masks:
    """Masks of some tensors of a model, by canonical name (`hidden.0.linear.weight`); all True at first."""

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        self.kept: dict[str, Tensor] = {}
        self._owners: dict[str, tuple[nn.Module, str]] = {}
        self._computed: dict[str, Kept] = {}
        for name in dict.fromkeys(map(canonical, names)):
            path, _, tensor = name.rpartition(".")
            module = model.get_submodule(path)
            weight = getattr(module, tensor).detach()
            self._owners[name] = module, tensor
            self.kept[name] = torch.ones_like(weight, dtype=torch.bool)
            if parametrize.is_parametrized(module, tensor):
                self._computed[name] = Kept(weight)
                parametrize.register_parametrization(module, tensor, self._computed[name])

    def value(self, name: str) -> Tensor:
        """The tensor as evaluation uses it (without noise or drops), zero where it is masked."""
        module, tensor = self._owners[name]
        was_training = module.training
        module.eval()
        found: Tensor = getattr(module, tensor).detach()
        module.train(was_training)
        return found.masked_fill(~self.kept[name], 0.0)

    def set(self, name: str, kept: Tensor) -> None:
        """Change one mask (bool, shape of the tensor)."""
        self.kept[name] = kept
        if name in self._computed:
            self._computed[name].kept.copy_(kept)

    @torch.no_grad()
    def apply(self) -> None:
        """Set plain parameters to zero where they are masked."""
        for name, (module, tensor) in self._owners.items():
            if name not in self._computed:
                getattr(module, tensor).masked_fill_(~self.kept[name], 0.0)

    def constrain(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same of other weights by name."""
        return weights | {
            name: weights[name].masked_fill(~kept, 0.0)
            for name, kept in self.kept.items()
            if name in weights and name not in self._computed
        }

    def load(self, kept: Mapping[str, Tensor]) -> None:
        """The inverse of reading `kept`."""
        for name, mask in kept.items():
            self.set(name, mask.to(self.kept[name].device))
