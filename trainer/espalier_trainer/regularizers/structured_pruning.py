"""Structured pruning: round(ratio n) of all n channels that may go are removed, ranked together over layers; each layer keeps its best.

The score of a channel with weights w (one output of a linear map or convolution), gradients g:
magnitude: ||w|| over the mean of its layer's (Li et al. 2017; layers differ in scale). taylor: mean over the batches of the last
epoch before the cut of (sum g w)^2, g with the penalties' part (Molchanov et al. 2019). lamp: ||w||^2 over the sum of all channels of its
layer that are not smaller (Lee et al. 2021).

The cut is made `fineTuneEpochs` before the end: weights, bias and norm of the channel become zero and stay zero, so that it puts
out exactly 0. When the fit is over the channel is taken out of the tensors on both sides: a smaller dense network with the same answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from espalier_api.regularizers import StructuredPruning as StructuredPruningConfig
from espalier_trainer.engines.torch import measure
from espalier_trainer.engines.torch.evaluator import BATCH_NORMS
from espalier_trainer.engines.torch.layers import ACTIVATIONS, Channels, weighted
from espalier_trainer.engines.torch.masks import Masks
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.peers import Sharing
from espalier_trainer.protocol import (
    LAST,
    FitView,
    Params,
    PlanContext,
    Regularizer,
    Stage,
    Step,
    StepView,
    register,
)
from espalier_trainer.targets import Selector

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from espalier_trainer.schedule import Coefficient

Weighted = nn.Linear | nn.Conv1d | nn.Conv2d


def magnitude(weight: Tensor) -> Tensor:
    """(out,) norms over their mean."""
    norms: Tensor = torch.linalg.vector_norm(weight.flatten(1), dim=1)
    return norms / norms.mean().clamp_min(torch.finfo(norms.dtype).tiny)


def lamp(weight: Tensor) -> Tensor:
    """(out,) squared norms over the sum of those that are not smaller."""
    squares = weight.flatten(1).square().sum(1)
    ordered, order = torch.sort(squares, stable=True)
    rest = ordered.flip(0).cumsum(0).flip(0)
    scores = torch.empty_like(squares)
    scores[order] = ordered / rest.clamp_min(torch.finfo(squares.dtype).tiny)
    return scores


def survivors(scores: Sequence[Tensor], ratio: float) -> list[Tensor]:
    """Masks (out,) of all layers: without the round(ratio n) lowest of all n scores, but never without a layer's best."""
    safe = [torch.where(torch.arange(len(s), device=s.device) == s.argmax(), torch.inf, s) for s in scores]
    flat = torch.cat(safe)
    count = min(round(ratio * len(flat)), len(flat) - len(scores))
    kept = torch.ones_like(flat, dtype=torch.bool)
    kept[torch.sort(flat, stable=True).indices[:count]] = False
    return list(torch.split(kept, [len(s) for s in scores]))


def reader(module: nn.Module) -> Weighted | None:
    """The first linear map or convolution in `module`, itself included."""
    return next((m for m in module.modules() if isinstance(m, Weighted)), None)


def take(tensor: Tensor, index: Tensor, dim: int) -> nn.Parameter:
    """The chosen slices, as a parameter."""
    return nn.Parameter(tensor.detach().index_select(dim, index).contiguous())


def narrow_outputs(part: Weighted, index: Tensor) -> None:
    """Keep the outputs at `index`."""
    part.weight = take(part.weight, index, 0)
    if part.bias is not None:
        part.bias = take(part.bias, index, 0)
    setattr(part, "out_features" if isinstance(part, nn.Linear) else "out_channels", len(index))


def narrow_inputs(part: Weighted, index: Tensor, spread: int) -> None:
    """Keep the inputs of the channels at `index`, `spread` in a row for each."""
    columns = (index[:, None] * spread + torch.arange(spread, device=index.device)).flatten()
    part.weight = take(part.weight, columns, 1)
    setattr(part, "in_features" if isinstance(part, nn.Linear) else "in_channels", len(columns))


def narrow_norm(norm: nn.Module, index: Tensor) -> None:
    """Keep the channels at `index` of a batch norm."""
    for name, value in [*norm.named_parameters(), *norm.named_buffers()]:
        if value.dim():
            found = take(value, index, 0) if isinstance(value, nn.Parameter) else value.index_select(0, index)
            setattr(norm, name, found)
    norm.num_features = len(index)  # type: ignore[assignment]


@register
class StructuredPruning(Regularizer[StructuredPruningConfig]):
    """Whole channels of mlp, cnn and inside the blocks of resnet; `target` globs over layers."""

    name = "structuredPruning"
    stage = Stage.STEP
    sharing = Sharing.EXACT
    order = LAST - 9  # shrinks before scattered zeros are counted

    def __init__(self, config: StructuredPruningConfig) -> None:
        super().__init__(config)
        self._layers, self.selector = Selector.of(config.target, default_exclude=()), Selector()
        self.seen, self._end, self._from = 0, 1, 0
        self._channels: list[Channels] = []
        self._parts: list[Weighted] = []
        self._masks: Masks | None = None
        self._features = 0
        self._taylor: dict[str, Tensor] = {}
        self._told: dict[str, Any] = {}

    def strength(self) -> float:
        """The ratio, for the log."""
        return self.config.ratio

    def acts(self, hook: str) -> bool:
        """Gradients are needed for taylor only."""
        return super().acts(hook) and (hook != "transform_grad" or self.config.importance == "taylor")

    def plan(self, context: PlanContext) -> None:
        """There must be something to rank: an epoch before the cut."""
        if self.config.fine_tune_epochs >= context.epochs:
            raise InvalidConfigError(
                f"regularizers.structuredPruning.fineTuneEpochs: {self.config.fine_tune_epochs} of {context.epochs} epochs leave none "
                "before the cut; raise engine.torch.epochs or lower fineTuneEpochs"
            )
        self._end = (context.epochs - self.config.fine_tune_epochs) * context.steps_per_epoch
        self._from = self._end - context.steps_per_epoch
        self._features = len(context.features)

    def surgery(self, model: nn.Module, coefficient: Coefficient) -> None:
        """Find channels that only one module reads, and refuse what a cut would change."""
        known = list(model.channels()) if hasattr(model, "channels") else []  # type: ignore[operator]
        if not known:
            raise InvalidConfigError(
                "regularizers.structuredPruning: this network has no channels that one layer alone reads; use mlp without residual, cnn or "
                "resnet, or pruning"
            )
        chosen = set(self._layers.choose([c.layer for c in known], self.name, "layer with channels of its own"))
        self._channels = [c for c in known if c.layer in chosen]
        self._parts = [self._checked(model, c) for c in self._channels]
        self._masks = Masks(model, [name for c in self._channels for name in self._names(model, c.layer)])

    def _checked(self, model: nn.Module, channels: Channels) -> Weighted:
        layer = model.get_submodule(channels.layer)
        part, read = weighted(layer), reader(model.get_submodule(channels.consumer))
        where = f"regularizers.structuredPruning: {channels.layer}"
        if part is None or read is None or any(getattr(p, "groups", 1) != 1 for p in (part, read)):
            raise InvalidConfigError(
                f"{where} or its reader is no plain linear map or convolution; exclude it by target.exclude"
            )
        norm = getattr(layer, "norm", None)
        if norm is not None and not isinstance(norm, BATCH_NORMS):
            raise InvalidConfigError(
                f"{where} is normalized over its channels ({type(norm).__name__}), removed ones, too; use normalization.kind batch or none"
            )
        activation = getattr(layer, "activation", None)
        if activation is not None and not isinstance(activation, tuple(ACTIVATIONS.values())):
            raise InvalidConfigError(
                f"{where}: {type(activation).__name__} may turn 0 into something else; exclude the layer by target.exclude"
            )
        if self.config.importance == "taylor" and parametrize.is_parametrized(part, "weight"):
            raise InvalidConfigError(
                f"{where}: another block computes its weight anew in each pass, so it has no gradient of its own; use importance magnitude"
            )
        return part

    @staticmethod
    def _names(model: nn.Module, layer: str) -> list[str]:
        """Everything of the layer that belongs to one channel each: weight, bias, norm."""
        module = model.get_submodule(layer)
        kind = "linear" if hasattr(module, "linear") else "conv"
        tensors = [(kind, "weight"), (kind, "bias"), ("norm", "weight"), ("norm", "bias")]
        return [
            f"{layer}.{part}.{tensor}"
            for part, tensor in tensors
            if getattr(getattr(module, part, None), tensor, None) is not None
        ]

    def attach(self, view: FitView) -> None:
        """What the network costs before the cut."""
        self._features = view.train.x.shape[1]
        self._told = {
            "parametersBefore": measure.parameters(view.model),
            "flopsBefore": measure.flops(view.model, self._features),
        }

    def transform_grad(self, params: Params, step: Step, coefficient: Coefficient) -> None:
        """taylor: add (sum g w)^2 of each channel."""
        if not self._from <= step.index < self._end:
            return
        for channels, part in zip(self._channels, self._parts, strict=True):
            if part.weight.grad is not None:
                value = (part.weight.grad * part.weight.detach()).flatten(1).sum(1).square()
                held = self._taylor.get(channels.layer)
                self._taylor[channels.layer] = value if held is None else held + value

    def _scores(self) -> list[Tensor]:
        match self.config.importance:
            case "taylor":
                return [self._taylor[channels.layer] for channels in self._channels]
            case "lamp":
                return [lamp(part.weight.detach()) for part in self._parts]
            case _:
                return [magnitude(part.weight.detach()) for part in self._parts]

    def after_step(self, params: Params, view: StepView, coefficient: Coefficient) -> None:
        """Cut once, then hold the zeros."""
        masks = self._masks
        assert masks is not None  # noqa: S101 - surgery came first
        self.seen += 1
        if self.seen == self._end:
            for channels, kept in zip(self._channels, survivors(self._scores(), self.config.ratio), strict=True):
                for name in masks.kept:
                    if name.startswith(f"{channels.layer}."):
                        shape = (-1, *[1] * (masks.kept[name].dim() - 1))
                        masks.set(name, kept.view(shape).expand_as(masks.kept[name]).clone())
        if self.seen >= self._end:
            masks.apply()

    def constrain(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The zeros of averages."""
        assert self._masks is not None  # noqa: S101 - surgery came first
        return self._masks.constrain(weights)

    def unsettled(self) -> bool:
        """True until the cut."""
        return self.seen < self._end

    def finish(self, model: nn.Module) -> None:
        """Take the channels out."""
        removed, widths = 0, {}
        for channels in self._channels:
            layer = model.get_submodule(channels.layer)
            part, read = weighted(layer), reader(model.get_submodule(channels.consumer))
            assert part is not None and read is not None  # noqa: S101, PT018 - checked by surgery
            index = self._kept(channels.layer).nonzero().flatten()
            removed, widths[channels.layer] = removed + len(part.weight) - len(index), len(index)
            narrow_outputs(part, index)
            narrow_inputs(read, index, channels.spread)
            if hasattr(layer, "norm"):
                narrow_norm(layer.norm, index)  # type: ignore[arg-type]
        self._told |= {
            "channelsRemoved": removed,
            "widths": widths,
            "parametersAfter": measure.parameters(model),
            "flopsAfter": measure.flops(model, self._features),
        }

    def _kept(self, layer: str) -> Tensor:
        """(out,) of one layer."""
        assert self._masks is not None  # noqa: S101 - surgery came first
        weight = next(name for name in self._masks.kept if name in {f"{layer}.linear.weight", f"{layer}.conv.weight"})
        return self._masks.kept[weight].flatten(1).any(1)

    def notes(self) -> dict[str, Any]:
        """Size before and after."""
        return self._told

    def state_dict(self) -> dict[str, Any]:
        """Steps, masks and the sums of taylor."""
        return {"seen": self.seen, "kept": self._masks.kept if self._masks else {}, "taylor": self._taylor}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse."""
        self.seen, self._taylor = state["seen"], dict(state["taylor"])
        if self._masks is not None:
            self._masks.load(state["kept"])
