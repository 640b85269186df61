"""Data augmentation: inputs are changed in ways that keep their label, in training only. `probability` is the share
of rows (swapNoise: of values) that are changed, `magnitude` m in 0..30 is RandAugment's scale (Cubuk et al. 2020),
its ranges are in the functions below.

Images are features in row-major order (channels, height, width). They are changed as pixels, before scaling:
shifting standardized pixels would move one pixel's scale to another's place. All draws are per row and from torch's
generator.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import torch
import torch.nn.functional as F

from espalier_api.regularizers import Augmentation as AugmentationConfig
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.peers import Sharing
from espalier_trainer.protocol import FIRST, Batch, PlanContext, Regularizer, Stage, Step, register

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from espalier_trainer.schedule import Coefficient

TOP: Final = 30.0


def warp(images: Tensor, matrix: Tensor) -> Tensor:
    """Images (n, c, h, w) sampled at `matrix` (n, 2, 3) in the normalized coordinates of torch's affine_grid; edges repeat."""
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def moved(images: Tensor, dx: Tensor, dy: Tensor) -> Tensor:
    """Shift by whole pixels, (n,) to the right and down; edges repeat."""
    n, _, height, width = images.shape
    matrix = images.new_zeros(n, 2, 3)
    matrix[:, 0, 0] = matrix[:, 1, 1] = 1.0
    matrix[:, 0, 2], matrix[:, 1, 2] = -2.0 * dx / width, -2.0 * dy / height
    return warp(images, matrix)


def _pixels(size: int, magnitude: int) -> int:
    """Up to 30 % of the edge at magnitude 30, at least one pixel at any magnitude above 0."""
    return max(1, round(0.3 * size * magnitude / TOP)) if magnitude else 0


def _whole(images: Tensor, limit: int) -> Tensor:
    """(n,) whole numbers in -limit..limit."""
    return torch.randint(-limit, limit + 1, (len(images),), device=images.device).to(images.dtype)


def shift(images: Tensor, magnitude: int) -> Tensor:
    """Up to 30 % of each edge, whole pixels."""
    height, width = images.shape[2:]
    return moved(images, _whole(images, _pixels(width, magnitude)), _whole(images, _pixels(height, magnitude)))


def crop_flip(images: Tensor, magnitude: int) -> Tensor:
    """A shift (padded crop) and a mirror image with probability one half."""
    flip = torch.rand(len(images), device=images.device) < 0.5  # noqa: PLR2004 - one half
    return (
        torch.where(flip[:, None, None, None], images.flip(-1), images)
        if not magnitude
        else torch.where(flip[:, None, None, None], (found := shift(images, magnitude)).flip(-1), found)
    )


def affine(images: Tensor, magnitude: int) -> Tensor:
    """Rotation up to 30 degrees, zoom up to 30 %, translation up to 15 % of the edge, at magnitude 30."""
    part = magnitude / TOP
    angle, zoom, tx, ty = (2.0 * torch.rand(4, len(images), device=images.device, dtype=images.dtype) - 1.0) * part
    angle, zoom = angle * math.pi / 6, 1.0 + 0.3 * zoom
    rows = [torch.stack([torch.cos(angle) * zoom, -torch.sin(angle) * zoom, 0.3 * tx], dim=1),
            torch.stack([torch.sin(angle) * zoom, torch.cos(angle) * zoom, 0.3 * ty], dim=1)]  # fmt: skip
    return warp(images, torch.stack(rows, dim=1))


def erase(images: Tensor, magnitude: int) -> Tensor:
    """A square of up to 40 % of the area at magnitude 30 is replaced by the image's mean (random erasing, Zhong et al. 2020)."""
    n, _, height, width = images.shape
    side = (0.4 * magnitude / TOP * torch.rand(n, device=images.device, dtype=images.dtype)).sqrt()
    place = torch.rand(2, n, device=images.device, dtype=images.dtype)
    rows = torch.arange(height, device=images.device)[None, :]
    columns = torch.arange(width, device=images.device)[None, :]
    tall, wide = (side * height).round()[:, None], (side * width).round()[:, None]
    top = (place[0][:, None] * (height - tall)).round()
    left = (place[1][:, None] * (width - wide)).round()
    inside = ((rows >= top) & (rows < top + tall))[:, None, :, None] & ((columns >= left) & (columns < left + wide))[
        :, None, None, :
    ]
    return torch.where(inside, images.mean(dim=(1, 2, 3), keepdim=True), images)


def camera_jitter(images: Tensor, magnitude: int) -> Tensor:
    """Contrast up to 50 %, brightness up to half a deviation, sensor noise of a tenth of a deviation, at magnitude 30."""
    part = magnitude / TOP
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    deviation = images.std(dim=(1, 2, 3), keepdim=True)
    contrast, brightness = (
        (2.0 * torch.rand(2, len(images), 1, 1, 1, device=images.device, dtype=images.dtype) - 1.0) * part / 2
    )
    noise = 0.1 * part * deviation * torch.randn_like(images)
    seen: Tensor = (images - mean) * (1.0 + contrast) + mean + brightness * deviation + noise
    return seen


def swap_noise(x: Tensor, probability: float) -> Tensor:
    """Each value is replaced, with `probability`, by the same feature of another row of the batch (Jahrer 2017; Yoon et al. 2020)."""
    donors = torch.randint(0, len(x), x.shape, device=x.device)
    return torch.where(torch.rand_like(x) < probability, x.gather(0, donors), x)


IMAGES: Final[dict[str, Callable[[Tensor, int], Tensor]]] = {
    "image.shift": shift,
    "image.cropFlip": crop_flip,
    "image.affine": affine,
    "image.erase": erase,
    "image.cameraJitter": camera_jitter,
}


@register
class Augmentation(Regularizer[AugmentationConfig]):
    """Changes rows of each batch."""

    name = "augmentation"
    stage = Stage.DATA
    sharing = Sharing.EXACT
    order = FIRST  # what a camera or a keyboard does comes before noise and blends
    selects = None

    def __init__(self, config: AugmentationConfig) -> None:
        super().__init__(config)
        self._image: tuple[int, int, int] | None = None
        self._raw: tuple[Tensor, Tensor, Tensor] | None = None  # location, scale and factor (features,)

    def strength(self) -> float:
        """Magnitude, for the log."""
        return float(self.config.magnitude)

    def acts(self, hook: str) -> bool:
        """Policy none does nothing."""
        return super().acts(hook) and not (hook == "batch" and self.config.policy == "none")

    def plan(self, context: PlanContext) -> None:
        """R34: image policies need an image."""
        self._image = context.image
        if self.config.policy in IMAGES and context.image is None:
            raise InvalidConfigError(
                f"R34: regularizers.augmentation.policy: {self.config.policy} needs pixels; only cnn and resnet say how features "
                "form an image. Use tabular.swapNoise or tabular.gaussian"
            )
        if context.location is not None and context.scale is not None:
            location, scale = torch.from_numpy(context.location), torch.from_numpy(context.scale)
            self._raw = location, scale, torch.where(scale > 0, 1.0 / scale, 0.0)

    def batch(self, batch: Batch, step: Step, coefficient: Coefficient) -> Batch:
        """Changed rows beside unchanged ones."""
        if self.config.policy == "tabular.swapNoise":
            return replace(batch, x=swap_noise(batch.x, self.config.probability))
        x = batch.x
        if self.config.policy == "tabular.gaussian":
            changed = x + self.config.magnitude / TOP * torch.randn_like(x)
        else:
            changed = self._as_image(x, IMAGES[self.config.policy])
        chosen = torch.rand(len(x), 1, device=x.device) < self.config.probability
        return replace(batch, x=torch.where(chosen, changed, x))

    def _as_image(self, x: Tensor, change: Callable[[Tensor, int], Tensor]) -> Tensor:
        assert self._image is not None  # noqa: S101 - plan refused image policies without one
        if self._raw is None:
            return change(x.view(-1, *self._image), self.config.magnitude).reshape(x.shape)
        location, scale, factor = (t.to(x) for t in self._raw)
        pixels = (x * scale + location).view(-1, *self._image)
        return (change(pixels, self.config.magnitude).reshape(x.shape) - location) * factor
