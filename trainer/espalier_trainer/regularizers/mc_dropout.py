"""Monte Carlo dropout: dropout stays on while predicting, and the spread of `samples` passes says how sure the
network is (Gal and Ghahramani 2016). Only dropout modules are in training mode; batch normalization stays in
evaluation mode. The served graph is the deterministic one (an exported Dropout would be removed or vary between
runtimes, rule R24): the spread is measured on the test split and recorded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from espalier_api.regularizers import McDropout as McDropoutConfig
from espalier_trainer import rng
from espalier_trainer.engines.torch.tensors import as_numpy, seed_generators
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.peers import Sharing
from espalier_trainer.protocol import LAST, PlanContext, Regularizer, Stage, register
from espalier_trainer.regularizers.dropout import AnnealedDropout

if TYPE_CHECKING:
    import numpy.typing as npt

    from espalier_trainer.protocol import FitView


def samples(view: FitView, x: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.float64]:
    """Scores (count, rows, outputs) of passes with fresh dropout masks; the same for the same seed. The model is left as it was."""
    first = next(iter(view.parameters.values()))
    rows = torch.as_tensor(x, device=first.device, dtype=first.dtype)
    drops = [module for module in view.model.modules() if isinstance(module, AnnealedDropout)]
    was_training = view.model.training
    view.model.eval()
    for module in drops:
        module.train()
    told = []
    with torch.no_grad():
        for index in range(count):
            seed_generators(rng.derive(view.seed, "mc", index), first.device)
            told.append(as_numpy(view.model(rows)))
    view.model.train(was_training)
    return np.stack(told)


@register
class McDropout(Regularizer[McDropoutConfig]):
    """Gives the members whose spread is recorded."""

    name = "mcDropout"
    stage = Stage.POST
    sharing = Sharing.EXACT
    order = LAST
    selects = None

    def __init__(self, config: McDropoutConfig) -> None:
        super().__init__(config)
        self._view: FitView | None = None

    def strength(self) -> float:
        """Samples, for the log."""
        return float(self.config.samples)

    def plan(self, context: PlanContext) -> None:
        """R24: without dropout every pass is the same."""
        if "dropout" not in context.declared:
            raise InvalidConfigError(
                "R24: regularizers.mcDropout: no dropout is declared, so all samples would be equal. Add regularizers.dropout"
            )

    def attach(self, view: FitView) -> None:
        """The network to sample from."""
        self._view = view

    def members(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """The samples, for M4 (`predictionVariance`, `mutualInformation`)."""
        assert self._view is not None  # noqa: S101 - a fit has attached its blocks
        return samples(self._view, x, self.config.samples)
