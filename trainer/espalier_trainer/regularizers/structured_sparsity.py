"""Structured sparsity: strength * sum_g s_g ||w_g||_2 (group lasso, Yuan and Lin 2006), with s_g = sqrt(size of the
group) when `sizeScaled`.

After the optimizer's step every group is shrunk as one, w_g <- w_g max(0, 1 - t s_g strength / ||w_g||): whole groups
become exactly zero. t is the optimizer's step size; with Adam, whose steps differ within a group, the mean of
sqrt(v_hat) + eps over the group stands for all of it (rule R8): an elementwise metric has no closed-form prox for a
group.

Groups of a weight (out, in, ...): `channel` is one output, `input` one input, `head` what one attention head puts
into the output projection (`<attention>.out`, its columns in `heads` equal parts).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from espalier_api.regularizers import StructuredSparsity as StructuredSparsityConfig
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.peers import Sharing
from espalier_trainer.protocol import FIRST, FitView, Params, Regularizer, Stage, StepView, register
from espalier_trainer.targets import Selector, canonical

if TYPE_CHECKING:
    from torch import Tensor, nn

    from espalier_trainer.schedule import Coefficient


def as_groups(weight: Tensor, group: str, heads: int = 1) -> Tensor:
    """A view of `weight` with one group per row, shape (groups, size); needs a matrix or a kernel."""
    if group == "channel":
        return weight.flatten(1)
    turned = weight.transpose(0, 1)
    return turned.reshape(heads, -1) if group == "head" else turned.reshape(turned.shape[0], -1)


def shrink_groups(groups: Tensor, threshold: Tensor) -> Tensor:
    """The prox: rows (groups, size) scaled by max(0, 1 - threshold / norm), `threshold` (groups,)."""
    norms: Tensor = torch.linalg.vector_norm(groups, dim=1)
    factor = (1.0 - threshold / norms.clamp_min(torch.finfo(groups.dtype).tiny)).clamp_min(0.0)
    shrunk: Tensor = groups * factor[:, None]
    return shrunk


@register
class StructuredSparsity(Regularizer[StructuredSparsityConfig]):
    """Whole channels, inputs or heads."""

    name = "structuredSparsity"
    stage = Stage.STEP
    sharing = Sharing.EXACT
    order = (
        FIRST + 1
    )  # after l1: the prox of both together is theirs in this order (sparse group lasso, Simon et al. 2013)
    annealed = "strength"

    def __init__(self, config: StructuredSparsityConfig) -> None:
        super().__init__(config)
        protected = Selector(include=tuple(config.protect)) if config.protect else None
        self._protects = protected.takes if protected else (lambda _: False)
        self._heads: dict[str, int] = {}
        self._zero: dict[str, int] = {}

    def surgery(self, model: nn.Module, coefficient: Coefficient) -> None:
        """Nothing is rebuilt; heads are counted where groups are heads."""
        if self.config.group != "head":
            return
        self._heads = {
            f"{path}.out.weight".lstrip("."): int(module.heads)
            for path, module in model.named_modules()
            if hasattr(module, "heads") and hasattr(module, "out")
        }
        if not self._heads:
            raise InvalidConfigError(
                "regularizers.structuredSparsity.group: head needs attention; use tabularTransformer, or channel or input"
            )

    def attach(self, view: FitView) -> None:
        """Something is left to act on, beside biases and what is protected."""
        names = self.selector.choose(view.parameters, self.name, "parameter")
        if not self._selected(Params(names, [view.parameters[name] for name in names])):
            raise InvalidConfigError(
                f"regularizers.structuredSparsity: no {self.config.group} is left to act on, for target selects {', '.join(names[:6])} "
                f"and protect keeps {list(self.config.protect) or 'nothing'}; widen target or shorten protect"
            )

    def _selected(self, params: Params) -> list[tuple[str, Tensor]]:
        """Matrices and kernels that are not protected; for heads the output projections."""
        return [
            (name, weight)
            for name, weight in zip(map(canonical, params.names), params.values, strict=True)
            if weight.dim() > 1 and not self._protects(name) and (self.config.group != "head" or name in self._heads)
        ]

    def _groups(self, name: str, weight: Tensor) -> Tensor:
        return as_groups(weight, self.config.group, self._heads.get(name, 1))

    def _scale(self, groups: Tensor) -> float:
        return float(groups.shape[1]) ** 0.5 if self.config.size_scaled else 1.0

    def after_step(self, params: Params, view: StepView, coefficient: Coefficient) -> None:
        """The prox of each group."""
        for name, weight in self._selected(params):
            groups, step = self._groups(name, weight), view.step_size(weight)
            if isinstance(step, torch.Tensor):
                step = 1.0 / self._groups(name, step.reciprocal()).mean(dim=1)
            amount = torch.as_tensor(step, dtype=weight.dtype, device=weight.device) * coefficient.tensor
            shrunk = shrink_groups(groups, (amount * self._scale(groups)).expand(len(groups)))
            weight.copy_(self._back(shrunk, weight))

    def _back(self, groups: Tensor, weight: Tensor) -> Tensor:
        if self.config.group == "channel":
            return groups.view_as(weight)
        turned = weight.transpose(0, 1)
        return groups.reshape(turned.shape).transpose(0, 1)

    def penalty_value(self, params: Params) -> Tensor:
        """sum_g s_g ||w_g||."""
        sums = []
        for name, weight in self._selected(params):
            groups = self._groups(name, weight)
            norms = torch.linalg.vector_norm(groups, dim=1)
            sums.append(self._scale(groups) * norms.sum())
            self._zero[name] = -1
        return torch.stack(sums).sum()

    def finish(self, model: nn.Module) -> None:
        """Count what is zero in what is shipped."""
        for name, weight in model.named_parameters():
            if name in self._zero:
                self._zero[name] = int((self._groups(name, weight.detach()) == 0).all(dim=1).sum())

    def notes(self) -> dict[str, Any]:
        """Groups that ended at zero, by weight."""
        return {"zeroGroups": {name: count for name, count in self._zero.items() if count >= 0}}
