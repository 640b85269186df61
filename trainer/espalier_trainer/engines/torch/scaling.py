"""Backward in float16: gradients below 6e-8 would vanish, so the objective is scaled up before backward and the gradients down after it
(Micikevicius et al. 2018). When one overflows, the weights are left alone and the same pass is made again at half the scale.

A step is therefore never lost: schedules, averages and ramps count the steps that they were promised. The price is a retained graph and
one number per step from the device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from espalier_trainer.errors import DivergedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from espalier_trainer.peers import Peers

SMALLEST: Final = 2.0**-14
"""A scale at which a finite gradient of float16 cannot overflow any more."""


class Backward:
    """Sets every `.grad` to the gradient of an objective, summed over all processes."""

    def __init__(self, optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], peers: Peers) -> None:
        self.optimizer, self.parameters, self.peers = optimizer, parameters, peers

    def __call__(self, objective: Tensor) -> None:
        """One pass."""
        self.optimizer.zero_grad(set_to_none=True)
        objective.backward()  # type: ignore[no-untyped-call]
        self._share()

    def _share(self) -> None:
        self.peers.add([p.grad for p in self.parameters if p.grad is not None])

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse."""


class ScaledBackward(Backward):
    """The same for float16."""

    def __init__(self, optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], peers: Peers) -> None:
        super().__init__(optimizer, parameters, peers)
        self.scaler = torch.amp.GradScaler(parameters[0].device.type)
        self.repeated = 0

    def __call__(self, objective: Tensor) -> None:
        """As often as it takes. An objective that is no number itself is passed on; whoever reads the log ends the fit."""
        while True:
            self.optimizer.zero_grad(set_to_none=True)
            self.scaler.scale(objective).backward(retain_graph=True)  # type: ignore[no-untyped-call]
            self._share()
            self.scaler.unscale_(self.optimizer)
            grads = [p.grad for p in self.parameters if p.grad is not None]
            whole = bool(torch.stack([grad.isfinite().all() for grad in grads]).all())
            self.scaler.update()
            if whole or not bool(objective.isfinite()):
                return
            self.repeated += 1
            if self.scaler.get_scale() < SMALLEST:
                raise DivergedError(
                    "engine.torch.precision: fp16: the gradient overflows at any scale; use bf16 or fp32, or lower the learning rate"
                )

    def state_dict(self) -> dict[str, Any]:
        """Scale and the steps since it last changed."""
        return {**self.scaler.state_dict(), "repeated": self.repeated}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse."""
        self.repeated = int(state["repeated"])
        self.scaler.load_state_dict({name: value for name, value in state.items() if name != "repeated"})
