"""Pruning by magnitude: the smallest |w| over all selected weights together become zero and stay zero (Han et al. 2015).

The share of zeros grows with t, the done part of the ramp, which ends `fineTuneEpochs` before the last epoch: cubic s (1 - (1 - t)^3)
(Zhu and Gupta 2017), linear s t, oneShot s at the end of the ramp. Exactly round(s n) weights are zero then. What was removed stays so.

Pattern 2:4: of every four inputs in a row that one output reads (for kernels: four input channels at one pixel, as the hardware
packs them), the two smallest are zero; groups are pruned in the order of what they lose, along the same ramp.

Masks come after the optimizer, prox and projections, and before averages, which are masked as well (R23).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from espalier_api.regularizers import Pruning as PruningConfig
from espalier_trainer.engines.torch.masks import Masks
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.peers import Sharing
from espalier_trainer.protocol import LAST, Params, PlanContext, Regularizer, Stage, StepView, register
from espalier_trainer.targets import canonical

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from espalier_trainer.schedule import Coefficient

UPDATES: Final = 50  # of the masks along a ramp: each one sorts all weights
FOUR: Final = 4


def ramp(kind: str, done: float) -> float:
    """Share of the final sparsity at `done` (0..1) of the ramp."""
    match kind:
        case "cubic":
            return 1.0 - (1.0 - done) ** 3
        case "linear":
            return done
        case _:
            return float(done >= 1.0)


def smallest(values: Sequence[Tensor], count: int) -> list[Tensor]:
    """Masks (bool, True is kept) of all tensors, without the `count` smallest magnitudes over all of them; ties by position."""
    flat = torch.cat([value.abs().flatten() for value in values])
    kept = torch.ones_like(flat, dtype=torch.bool)
    kept[torch.sort(flat, stable=True).indices[:count]] = False
    parts = torch.split(kept, [value.numel() for value in values])
    return [part.view_as(value) for part, value in zip(parts, values, strict=True)]


def in_fours(weight: Tensor) -> Tensor:
    """Weight (out, in, ...) as (groups, 4): input channels last."""
    return weight.movedim(1, -1).reshape(-1, FOUR)


def two_of_four(values: Sequence[Tensor], share: float) -> list[Tensor]:
    """Masks (bool) that drop two of four in `share` of all groups, those first that lose least."""
    groups = [in_fours(value.abs()) for value in values]
    order = [torch.sort(group, dim=1, stable=True) for group in groups]
    loss = torch.cat([found.values[:, :2].sum(1) for found in order])
    chosen = torch.zeros_like(loss, dtype=torch.bool)
    chosen[torch.sort(loss, stable=True).indices[: round(share * len(loss))]] = True
    masks = []
    for value, found, pruned in zip(values, order, torch.split(chosen, [len(g) for g in groups]), strict=True):
        drop = torch.zeros_like(found.values, dtype=torch.bool).scatter_(1, found.indices[:, :2], value=True)
        turned = value.movedim(1, -1)
        masks.append(~(drop & pruned[:, None]).reshape(turned.shape).movedim(-1, 1))
    return masks


@register
class Pruning(Regularizer[PruningConfig]):
    """Scattered zeros, or two of four."""

    name = "pruning"
    stage = Stage.STEP
    sharing = Sharing.EXACT
    order = LAST - 10  # after prox and projections, before averages

    def __init__(self, config: PruningConfig) -> None:
        super().__init__(config)
        self.seen, self._end, self._every = 0, 1, 1
        self._masks: Masks | None = None
        self._told: dict[str, Any] = {}

    def strength(self) -> float:
        """The final share of zeros, for the log."""
        return 0.5 if self.config.pattern == "2:4" else self.config.sparsity

    def plan(self, context: PlanContext) -> None:
        """The ramp needs an epoch before the fine-tuning."""
        if self.config.fine_tune_epochs >= context.epochs:
            raise InvalidConfigError(
                f"regularizers.pruning.fineTuneEpochs: {self.config.fine_tune_epochs} of {context.epochs} epochs leave none to prune in; "
                "raise engine.torch.epochs or lower fineTuneEpochs"
            )
        self._end = (context.epochs - self.config.fine_tune_epochs) * context.steps_per_epoch
        self._every = max(1, self._end // UPDATES)

    def surgery(self, model: nn.Module, coefficient: Coefficient) -> None:
        """Find the weights; mask those that others compute anew after that computation (R16)."""
        names = self.selector.choose([name for name, _ in model.named_parameters()], self.name, "parameter")
        if self.config.pattern == "2:4":
            names = self._divisible(model, names)
        self._masks = Masks(model, names)

    def _divisible(self, model: nn.Module, names: list[str]) -> list[str]:
        """Matrices and kernels; refused by name when inputs do not come in fours."""
        found = []
        for name in dict.fromkeys(map(canonical, names)):
            path, _, tensor = name.rpartition(".")
            weight = getattr(model.get_submodule(path), tensor)
            if weight.dim() > 1:
                if weight.shape[1] % FOUR:
                    raise InvalidConfigError(
                        f"regularizers.pruning.pattern: 2:4 needs inputs in fours, and {name} has {weight.shape[1]}; exclude it by "
                        "target.exclude, or use pattern unstructured"
                    )
                found.append(name)
        return found

    def after_step(self, params: Params, view: StepView, coefficient: Coefficient) -> None:
        """Prune more while the ramp lasts; then hold the zeros."""
        masks = self._masks
        assert masks is not None  # noqa: S101 - surgery came first
        self.seen += 1
        moves = self.seen < self._end and self.config.schedule != "oneShot" and self.seen % self._every == 0
        if moves or self.seen == self._end:
            values = [masks.value(name) for name in masks.kept]
            share = ramp(self.config.schedule, self.seen / self._end)
            if self.config.pattern == "2:4":
                made = two_of_four(values, share)
            else:
                made = smallest(values, round(share * self.config.sparsity * sum(value.numel() for value in values)))
            for name, kept in zip(list(masks.kept), made, strict=True):
                masks.set(name, kept)
        masks.apply()

    def constrain(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The zeros of averages."""
        assert self._masks is not None  # noqa: S101 - surgery came first
        return self._masks.constrain(weights)

    def unsettled(self) -> bool:
        """True until the ramp's end."""
        return self.seen < self._end

    def finish(self, model: nn.Module) -> None:
        """Count what is shipped."""
        assert self._masks is not None  # noqa: S101 - surgery came first
        weights = [weight.detach() for name, weight in model.named_parameters() if name in self._masks.kept]
        zeros, count = sum(int((weight == 0).sum()) for weight in weights), sum(weight.numel() for weight in weights)
        everything = sum(p.numel() for p in model.parameters())
        self._told = {
            "zeros": zeros,
            "weights": count,
            "sparsity": zeros / count,
            "parameters": everything,
            "nonZeroParameters": everything - zeros,
        }

    def notes(self) -> dict[str, Any]:
        """Sparsity that was reached."""
        return self._told

    def state_dict(self) -> dict[str, Any]:
        """Steps and masks."""
        return {"seen": self.seen, "kept": self._masks.kept if self._masks else {}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse."""
        self.seen = state["seen"]
        if self._masks is not None:
            self._masks.load(state["kept"])
