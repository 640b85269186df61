"""Batch mixing: training on blends of two rows with share lambda ~ Beta(alpha, alpha), one draw per batch.

mixup: x = lambda x_a + (1 - lambda) x_b (Zhang et al. 2018). cutmix: a rectangle of x_b replaces its place in x_a and
lambda is the share that is left (Yun et al. 2019; needs an image). The loss is exactly lambda l(a) + (1 - lambda)
l(b) with the rows' own weights: cross-entropy is linear in the label, and for values, where half a squared error is
not, the label is blended as in the paper.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from espalier_api.regularizers import BatchMixing as BatchMixingConfig
from espalier_trainer.engines.torch.losses import shares
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.peers import Sharing
from espalier_trainer.protocol import LAST, Batch, PlanContext, Regularizer, Stage, Step, register

if TYPE_CHECKING:
    from torch import Tensor

    from espalier_trainer.protocol import FitView
    from espalier_trainer.schedule import Coefficient


def blend(batch: Batch, order: Tensor, share: Tensor, x: Tensor, classes: int) -> Batch:
    """The batch with inputs `x`, and everything else blended: `share` of each row and 1 - share of row `order` (rows,)."""
    weight = None
    own, other = share, 1.0 - share
    if batch.weight is not None:
        weight = share * batch.weight + (1.0 - share) * batch.weight[order]
        own, other = share * batch.weight / weight, (1.0 - share) * batch.weight[order] / weight
    y = shares(x.new_empty(0, classes), batch.y) if classes else batch.y
    if classes and isinstance(own, torch.Tensor) and own.dim():
        y = own[:, None] * y + other[:, None] * y[order]
    else:
        y = own * y + other * y[order]
    extra = {n: share * t + (1.0 - share) * t[order] for n, t in batch.extra.items() if t.is_floating_point()}
    return replace(batch, x=x, y=y, weight=weight, index=None, groups={}, extra=extra)


def rectangle(height: int, width: int, share: Tensor) -> Tensor:
    """(height, width) mask, True inside a rectangle of about 1 - share of the area, at a random place; no value leaves the device."""
    side = (1.0 - share).sqrt()
    place = torch.rand(2, device=share.device, dtype=share.dtype)
    low = [(p * (1.0 - side) * size).round() for p, size in zip(place, (height, width), strict=True)]
    high = [a + (side * size).round() for a, size in zip(low, (height, width), strict=True)]
    rows, columns = (torch.arange(size, device=share.device) for size in (height, width))
    inside: Tensor = ((rows >= low[0]) & (rows < high[0]))[:, None] & ((columns >= low[1]) & (columns < high[1]))[
        None, :
    ]
    return inside


@register
class BatchMixing(Regularizer[BatchMixingConfig]):
    """Blends each batch with a permutation of itself."""

    name = "batchMixing"
    stage = Stage.DATA
    sharing = Sharing.EXACT
    order = LAST  # after everything that changes single rows
    selects = None

    def __init__(self, config: BatchMixingConfig) -> None:
        super().__init__(config)
        self._image: tuple[int, int, int] | None = None
        self._classes = 0

    def strength(self) -> float:
        """alpha, for the log."""
        return self.config.alpha

    def plan(self, context: PlanContext) -> None:
        """cutmix needs pixels; a blend of two rows has no group."""
        if self.config.kind == "cutmix" and context.image is None:
            raise InvalidConfigError(
                "regularizers.batchMixing.kind: cutmix needs an image (architecture cnn or resnet); use mixup"
            )
        if "fairness" in context.declared:
            raise InvalidConfigError(
                "regularizers.batchMixing: fairness needs each row's group and a blend of two rows has none; remove one"
            )
        self._image, self._classes = context.image, context.classes

    def attach(self, view: FitView) -> None:
        """How wide labels are."""
        self._classes = view.classes

    def batch(self, batch: Batch, step: Step, coefficient: Coefficient) -> Batch:
        """One draw of lambda and of the partners."""
        alpha = torch.full((2,), self.config.alpha, device=batch.x.device, dtype=torch.float64)
        share = torch._sample_dirichlet(alpha)[0].to(batch.x.dtype)  # noqa: SLF001 - Beta without its checks, which would sync
        order = torch.randperm(len(batch.x), device=batch.x.device)
        if self.config.kind == "mixup":
            return blend(batch, order, share, share * batch.x + (1.0 - share) * batch.x[order], self._classes)
        assert self._image is not None  # noqa: S101 - plan refused cutmix without pixels
        inside = rectangle(*self._image[1:], share)
        mask = inside.expand(self._image).reshape(1, -1)
        left = 1.0 - inside.to(batch.x.dtype).mean()
        return blend(batch, order, left, torch.where(mask, batch.x[order], batch.x), self._classes)
