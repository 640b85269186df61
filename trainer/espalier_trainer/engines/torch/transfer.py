"""What blocks share that hold on to another model: how far its predictions are, and a fit that starts at its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.targets import canonical

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

    from espalier_api.regularizers import Distillation, Functional
    from espalier_trainer.protocol import FitView, Reference


def softened(scores: Tensor, temperature: float) -> Tensor:
    """Class shares (rows, classes) at a temperature: softmax(scores / T)."""
    return torch.softmax(scores / temperature, dim=-1)


def divergence(shares: Tensor, scores: Tensor, temperature: float) -> Tensor:
    """T^2 KL(shares || softmax(scores / T)) of each row (rows,), all (rows, classes).

    T^2 keeps the gradient's size when T grows (Hinton et al. 2015, 2.1); for T -> infinity it is half the mean squared difference
    of centred scores.
    """
    entropy = torch.xlogy(shares, shares).sum(-1)
    return temperature**2 * (entropy - (shares * F.log_softmax(scores / temperature, dim=-1)).sum(-1))


def refuse_temperature(config: Distillation | Functional, block: str, *, regression: bool) -> None:
    """InvalidConfigError when a temperature is asked for where nothing has one."""
    if regression and config.temperature != type(config).model_fields["temperature"].default:
        raise InvalidConfigError(f"regularizers.{block}.temperature: values have no temperature; remove it")


def centred(scores: Tensor) -> Tensor:
    """Scores without the constant of each row, which no softmax sees; values (rows, 1) stay as they are."""
    return scores if scores.shape[-1] == 1 else scores - scores.mean(-1, keepdim=True)


def scores_of(reference: Reference, view: FitView) -> Tensor:
    """Its answers to the training rows (rows, outputs), like our own scores."""
    return torch.as_tensor(reference.scores["train"]).to(view.train.x)


def weights_of(reference: Reference, parameters: Mapping[str, Tensor], block: str) -> dict[str, Tensor]:
    """Its weights by our parameters' names. InvalidConfigError when it is no network, or not this one."""
    found: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        weight = reference.weights.get(canonical(name))
        if weight is None or tuple(weight.shape) != tuple(parameter.shape) or canonical(name) != name:
            what = "has no such weight" if weight is None else f"has shape {tuple(weight.shape)} there"
            raise InvalidConfigError(
                f"R33: regularizers.{block}: this network has {name} with shape {tuple(parameter.shape)}, and the model at {reference.uri} "
                f"{what if canonical(name) == name else 'has it unparametrized'}; use the reference's architecture without surgery on "
                "weights, or hold on to its predictions (functional kind: kl)"
            )
        found[name] = torch.as_tensor(weight).to(parameter)
    return found


@torch.no_grad()
def start_at(reference: Reference, view: FitView, block: str) -> dict[str, Tensor]:
    """Begin the fit at the reference: copy its weights and buffers into the model; returns all weights by name.

    A penalty that is a local expansion around a point says nothing from far away (Kirkpatrick et al. 2017; Li et al. 2018, L2-SP).
    """
    found = weights_of(reference, view.parameters, block)
    for name, parameter in view.parameters.items():
        parameter.copy_(found[name])
    for name, buffer in view.model.named_buffers():
        if name in reference.weights:
            buffer.copy_(torch.as_tensor(reference.weights[name]).to(buffer))
    return found


def norm(tensors: Iterable[Tensor]) -> Tensor:
    """Euclidean norm of all of them together (scalar)."""
    norms: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(tensors))))  # noqa: SLF001 - torch's own fused form
    return norms
