"""Information bottleneck: the head sees a stochastic code z ~ N(mu(h), sigma(h)^2) of few dimensions, and beta *
KL(N(mu, sigma^2) || N(0, 1)) is added to the loss: an upper bound of the information that the code keeps about the
input (deep VIB, Alemi et al. 2017). When evaluated and served the code is its mean.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from espalier_api.regularizers import InformationBottleneck as InformationBottleneckConfig
from espalier_trainer.engines.torch.convert import array
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.protocol import MIDDLE, Regularizer, Stage, register

if TYPE_CHECKING:
    from collections.abc import Callable

    from espalier_trainer.export.graph import Graph
    from espalier_trainer.protocol import Batch, FitView, Step
    from espalier_trainer.schedule import Coefficient

OFFSET = -5.0  # softplus(raw - 5): codes begin nearly noiseless, as in the paper's code


class Code(nn.Module):
    """h (rows, width) to a code (rows, dim); remembers mean and deviation of the batch's own pass."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2 * dim)
        self.dim = dim
        self.recording: Callable[[], bool] = lambda: True
        self.latest: tuple[Tensor, Tensor] | None = None

    def forward(self, h: Tensor) -> Tensor:
        """A sample in training, the mean otherwise."""
        mean: Tensor
        mean, raw = self.linear(h).split(self.dim, dim=-1)
        if not self.training:
            return mean
        deviation = F.softplus(raw + OFFSET)
        if self.recording():
            self.latest = mean, deviation
        code: Tensor = mean + deviation * torch.randn_like(deviation)
        return code

    def to_onnx(self, graph: Graph, x: str) -> str:
        """The mean."""
        weight = graph.constant("weight", array(self.linear.weight)[: self.dim])
        return graph.add("Gemm", x, weight, graph.constant("bias", array(self.linear.bias)[: self.dim]), transB=1)


def divergence(mean: Tensor, deviation: Tensor) -> Tensor:
    """Mean over rows of KL(N(mean, deviation^2) || N(0, 1)), summed over dimensions, in nats."""
    return (0.5 * (mean.square() + deviation.square() - 1.0) - deviation.log()).sum(-1).mean()


@register
class InformationBottleneck(Regularizer[InformationBottleneckConfig]):
    """Between the last layer and the head."""

    name = "informationBottleneck"
    stage = Stage.SURGERY
    order = MIDDLE
    annealed = "beta"
    selects = None

    def __init__(self, config: InformationBottleneckConfig) -> None:
        super().__init__(config)
        self._code: Code | None = None

    def surgery(self, model: nn.Module, coefficient: Coefficient) -> None:
        """`head` becomes `head.code` and `head.out`."""
        head = getattr(model, "head", None)
        if not isinstance(head, nn.Linear):
            raise InvalidConfigError(
                "regularizers.informationBottleneck: this network has no linear layer called `head` to put the code before"
            )
        self._code = Code(head.in_features, self.config.dim).to(head.weight)
        out = nn.Linear(self.config.dim, head.out_features).to(head.weight)
        model.head = nn.Sequential(OrderedDict[str, nn.Module](code=self._code, out=out))

    def attach(self, view: FitView) -> None:
        """Whose pass it is."""
        if self._code is not None:
            self._code.recording = view.recording

    def loss_terms(self, scores: Tensor, batch: Batch, step: Step) -> dict[str, Tensor]:
        """KL in nats per row."""
        assert self._code is not None  # noqa: S101 - surgery came first
        assert self._code.latest is not None  # noqa: S101 - the forward pass too
        mean, deviation = self._code.latest
        return {"kl": divergence(mean.to(scores.dtype), deviation.to(scores.dtype))}
