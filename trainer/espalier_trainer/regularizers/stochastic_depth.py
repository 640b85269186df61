"""Stochastic depth: in training each residual branch is left out with its own probability, and scaled by 1/(1 - p) otherwise, so that
the whole network of evaluation is its expectation (Huang et al. 2016, who scale in evaluation instead).

Block l of L (from 0) is left out with p l/(L - 1) (decay linear) or with p (uniform), by a factor of 0 and never by a skip in Python:
every parameter takes part in every step, whatever is drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from espalier_api.regularizers import StochasticDepth as StochasticDepthConfig
from espalier_api.rules import at_run_time as rules
from espalier_trainer.engines.torch.layers import Residual, residual_names
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.peers import Sharing
from espalier_trainer.protocol import LAST, Regularizer, Stage, register

if TYPE_CHECKING:
    from espalier_trainer.schedule import Coefficient


def dropped(branch: Tensor, p: float, mode: str) -> Tensor:
    """`branch` (rows, ...) times one draw of 0 or 1/(1 - p) per row or for the batch; p = 1 leaves nothing."""
    if p == 0.0:
        return branch
    if p >= 1.0:
        return branch * 0.0
    count = len(branch) if mode == "row" else 1
    kept = torch.rand(count, *[1] * (branch.dim() - 1), device=branch.device) >= p
    return branch * (kept.to(branch.dtype) / (1.0 - p))


class Survival:
    """What one residual block's branch goes through in training; its part of the coefficient is p now."""

    def __init__(self, coefficient: Coefficient, part: float, mode: str) -> None:
        self.coefficient, self.part, self.mode = coefficient, part, mode

    def __call__(self, branch: Tensor) -> Tensor:
        """Same shape."""
        return dropped(branch, self.coefficient.value * self.part, self.mode)


def parts(blocks: int, decay: str) -> list[float]:
    """Share of p for each block, first to last."""
    return [1.0] * blocks if decay == "uniform" else [index / max(blocks - 1, 1) for index in range(blocks)]


@register
class StochasticDepth(Regularizer[StochasticDepthConfig]):
    """On residual blocks; `target` globs over their names."""

    name = "stochasticDepth"
    stage = Stage.SURGERY
    sharing = Sharing.EXACT
    order = LAST
    annealed = "p"
    selects = "layers"

    def __init__(self, config: StochasticDepthConfig) -> None:
        super().__init__(config)
        self._shares: dict[str, float] = {}

    def surgery(self, model: nn.Module, coefficient: Coefficient) -> None:
        """R25: not for shallow models. Then one draw per block."""
        names = residual_names(model)
        chosen = self.selector.choose(names, self.name, "residual block") if names else []
        for finding in rules.check_residual_blocks(len(chosen)):
            raise InvalidConfigError(f"{finding.field}: {finding}")
        schedule = coefficient.schedule
        peak = coefficient.strength * (max(schedule.from_, schedule.to) if schedule else 1.0)
        if peak >= 1.0:
            raise InvalidConfigError(
                f"regularizers.stochasticDepth: p times its schedule reaches {peak:.3g}; keep it below 1"
            )
        for name, part in zip(chosen, parts(len(chosen), self.config.decay), strict=True):
            block = model.get_submodule(name)
            assert isinstance(block, Residual)  # noqa: S101 - chosen among them
            block.drop = Survival(coefficient, part, self.config.mode)
            self._shares[name] = part

    def notes(self) -> dict[str, Any]:
        """Share of p that each block has."""
        return {"shareOfP": self._shares}
