"""A Gaussian over the weights of the last layer, and its predictions as plain operations that a served graph can do.

With phi the layer's input and 1, and Sigma_c the covariance of class c's weights, the logit of c has variance phi' Sigma_c phi, and the
expected softmax is close to the softmax of f_c / sqrt(1 + pi/8 var_c): MacKay's probit approximation (1992), per class as in Gibbs 1997.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import torch
from torch import nn

from espalier_trainer.engines.torch import evaluator

if TYPE_CHECKING:
    from torch import Tensor

    from espalier_trainer.export.graph import Graph

PROBIT: Final = math.pi / 8
LARGEST: Final = 4096
"""Numbers in a last layer whose full covariance is computed: 128 MiB in double precision, and seconds to invert."""


class ProbitHead(nn.Linear):
    """A linear layer whose logits shrink where its weights are uncertain; `weight` and `bias` keep their names.

    `factor` (inputs + 1, classes, rank) and `diagonal` (classes, inputs + 1): Sigma_c = factor_c factor_c' + diag(diagonal_c).
    """

    factor: Tensor
    diagonal: Tensor

    def __init__(self, head: nn.Linear, factor: Tensor, diagonal: Tensor) -> None:
        super().__init__(head.in_features, head.out_features, device=head.weight.device, dtype=head.weight.dtype)
        with torch.no_grad():
            self.weight.copy_(head.weight)
            self.bias.copy_(head.bias)
        self.register_buffer("factor", factor.to(head.weight))
        self.register_buffer("diagonal", diagonal.to(head.weight))

    def forward(self, x: Tensor) -> Tensor:
        """x (rows, inputs) to shrunken logits (rows, classes)."""
        return super().forward(x) / (1 + PROBIT * self.variance(x)).sqrt()

    def variance(self, x: Tensor) -> Tensor:
        """Of each logit (rows, classes)."""
        phi = with_one(x)
        along = (phi @ self.factor.flatten(1)).reshape(-1, *self.factor.shape[1:])
        variance: Tensor = along.square().sum(-1) + phi.square() @ self.diagonal.T
        return variance

    def to_onnx(self, graph: Graph, x: str) -> str:
        """The same, node by node."""
        from espalier_trainer.engines.torch.convert import array  # noqa: PLC0415 - convert knows layers, layers ask convert

        weight, bias = graph.constant("weight", array(self.weight)), graph.constant("bias", array(self.bias))
        logits = graph.add("Gemm", x, weight, bias, transB=1)
        factor = array(self.factor)
        slopes, offsets = factor[:-1].reshape(len(factor) - 1, -1), factor[-1].reshape(-1)
        spread = graph.add("Gemm", x, graph.constant("factor", slopes), graph.constant("factor", offsets))
        shape = graph.constant("shape", torch.tensor([-1, *self.factor.shape[1:]]).numpy())
        squared = graph.add("Reshape", graph.add("Mul", spread, spread), shape)
        axes = graph.constant("axes", torch.tensor([2]).numpy())
        total = graph.add("ReduceSum", squared, axes, keepdims=0)
        own = array(self.diagonal)
        square = graph.add("Mul", x, x)
        apart = graph.add(
            "Gemm", square, graph.constant("own", own[:, :-1]), graph.constant("own", own[:, -1]), transB=1
        )
        variance = graph.add("Mul", graph.add("Add", total, apart), graph.scalar(PROBIT))
        return graph.add("Div", logits, graph.add("Sqrt", graph.add("Add", variance, graph.scalar(1.0))))


def with_one(x: Tensor) -> Tensor:
    """(rows, inputs) with a column of ones for the bias."""
    return torch.cat([x, x.new_ones(len(x), 1)], dim=1)


def inputs_of(model: nn.Module, head: nn.Linear, x: Tensor) -> Tensor:
    """What the last layer gets for rows `x`, in evaluation mode (rows, inputs)."""
    caught: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, given: caught.append(given[0].detach()))
    try:
        evaluator.scores(model, x)
    finally:
        handle.remove()
    return torch.cat(caught)


def covariance(phi: Tensor, shares: Tensor | None, prior: float) -> Tensor:
    """Inverse of the negative log posterior's curvature at its mode, all in double precision.

    `phi` (rows, d); `shares` (rows, classes): (classes d, classes d), rows class by class; None: values of unit variance, (d, d).
    """
    phi = phi.double()
    if shares is None:
        curvature = phi.T @ phi
    else:
        p, (classes, d) = shares.double(), (shares.shape[1], phi.shape[1])
        curvature = phi.new_zeros(classes, d, classes, d)
        for i in range(classes):
            for j in range(i, classes):
                weight = p[:, i] * ((1.0 if i == j else 0.0) - p[:, j])
                curvature[i, :, j] = curvature[j, :, i] = phi.T @ (weight.unsqueeze(1) * phi)
        curvature = curvature.reshape(classes * d, classes * d)
    curvature.diagonal().add_(prior)
    inverse: Tensor = torch.cholesky_inverse(torch.linalg.cholesky(curvature))
    return inverse


def factors(sigma: Tensor, classes: int) -> Tensor:
    """Cholesky factors (d, classes, d) of each class's own block of a covariance (classes d, classes d)."""
    d = len(sigma) // classes
    blocks = torch.stack([sigma[c * d : (c + 1) * d, c * d : (c + 1) * d] for c in range(classes)])
    roots: Tensor = torch.linalg.cholesky(blocks)
    return roots.permute(1, 0, 2).contiguous()
