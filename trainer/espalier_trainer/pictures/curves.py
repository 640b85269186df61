"""Training curves: plain losses in evaluation mode per epoch, so that the distance between the lines is the gap (M1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from espalier_trainer.pictures.style import BLUE, GREY, ORANGE, Picture, label

if TYPE_CHECKING:
    from espalier_trainer.pictures import Story


def draw(story: Story) -> bytes | None:
    """Losses over epochs, the best validation loss marked; None for a fit without epochs."""
    lines = {
        name: [(h["epoch"] + 1, h[name]) for h in story.report.history if name in h] for name in ("train", "validation")
    }
    if len(lines["train"]) < 2:  # noqa: PLR2004 - a line needs two points
        return None
    picture = Picture()
    (axes,) = picture.axes
    for (name, points), colour in zip(lines.items(), (BLUE, ORANGE), strict=True):
        axes.plot(*zip(*points, strict=True), color=colour, label=name)
    epoch, best = min(lines["validation"], key=lambda point: point[1])
    axes.axvline(epoch, color=GREY, linewidth=1, linestyle=":")
    axes.plot([epoch], [best], "o", color=ORANGE, label=f"best: {best:.3g} in epoch {epoch:.0f}")
    axes.legend(frameon=False)
    label(axes, "Loss in evaluation mode, without penalties", "epoch", "loss")
    return picture.png()
