"""What each block did: its share of the objective, and how its gradient compares with the data's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from espalier_trainer.pictures.style import BLUE, GREEN, GREY, ORANGE, Picture, label

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes

    from espalier_trainer.pictures import Story


def draw(story: Story) -> bytes | None:
    """Bars by block; a missing bar says that the notion does not exist for the block (dropout has no share). None without any bar."""
    blocks = story.report.contributions
    if not any(c.share is not None or c.gradient_ratio is not None for c in blocks.values()):
        return None
    picture = Picture(2)
    left, right = picture.axes
    _bars(left, {n: c.share for n, c in blocks.items()}, [BLUE] * len(blocks))
    label(left, "Share of the objective", "", "")
    left.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    against = [ORANGE if (c.cosine or 0.0) < 0 else GREEN for c in blocks.values()]
    _bars(right, {n: c.gradient_ratio for n, c in blocks.items()}, against)
    right.set_yticklabels([])
    label(right, "Gradient, times the data's", "green: with the data, orange: against", "")
    return picture.png()


def _bars(axes: Axes, values: Mapping[str, float | None], colours: list[str]) -> None:
    names = list(values)
    axes.barh(range(len(names)), [values[n] or 0.0 for n in names], color=colours, height=0.6)
    for row, name in enumerate(names):
        value = values[name]
        text = " none" if value is None else f" {value:.2g}"
        axes.text(value or 0.0, row, text, va="center", fontsize=9, color=GREY)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.2)
    axes.set_xlim(left=0)
