"""Regularization path: what is left of the weights and the validation loss along a strength, the chosen and the best point marked."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from espalier_trainer.pictures.style import BLUE, GREEN, GREY, ORANGE, PALE, Picture, label

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

    from espalier_trainer.pictures import Story

FILE: Final = "path.json"
LINES: Final = 60
"""Weights that are still drawn one by one; of more, how many are left."""


def draw(story: Story) -> bytes | None:
    """Losses with their standard errors above, weights below; None without a path."""
    if FILE not in story.files:
        return None
    told: Mapping[str, Any] = json.loads(story.files[FILE])
    points: Sequence[Mapping[str, Any]] = told["points"]
    picture = Picture(rows=2)
    above, below = picture.axes
    _losses(above, told, points)
    _weights(below, points)
    for axes in (above, below):
        axes.set_xscale("log")
        axes.axvline(points[told["best"]]["strength"], color=GREY, linewidth=1, linestyle=":")
        axes.axvline(points[told["chosen"]]["strength"], color=ORANGE, linewidth=1, linestyle="--")
    above.tick_params(labelbottom=False)
    label(above, f"Path of {told['parameter']}, rule {told['rule']}", "", "validation loss")
    below.set_xlabel(f"{told['parameter']}, weak to strong")
    return picture.png()


def _losses(axes: Axes, told: Mapping[str, Any], points: Sequence[Mapping[str, Any]]) -> None:
    strengths, losses, errors = (
        np.array([p[n] for p in points]) for n in ("strength", "validationLoss", "standardError")
    )
    axes.fill_between(strengths, losses - errors, losses + errors, color=PALE, alpha=0.6, linewidth=0)
    axes.plot(strengths, losses, "o-", color=BLUE, markersize=4, label="mean, ± its standard error")
    for name, colour in (("best", GREY), ("chosen", ORANGE)):
        one = points[told[name]]
        size = 10 if name == "best" else 6  # both show when they are the same point
        text = f"{name}: {one['strength']:.3g}"
        axes.plot([one["strength"]], [one["validationLoss"]], "o", color=colour, markersize=size, label=text)
    axes.legend(frameon=False, fontsize=9)


def _weights(axes: Axes, points: Sequence[Mapping[str, Any]]) -> None:
    """Coefficients one by one when they are few, else the share that is not zero."""
    strengths = [p["strength"] for p in points]
    values = [np.concatenate([np.ravel(w) for w in p["values"].values()]) if "values" in p else None for p in points]
    lines = [v for v in values if v is not None and len(v) <= LINES]
    if len(lines) == len(points):
        axes.plot(strengths, np.array(lines), color=BLUE, linewidth=1, alpha=0.6)
        axes.axhline(0, color=GREY, linewidth=1)
        axes.set_ylabel("weights")
        return
    if not all(p["weights"] for p in points):  # trees have none
        axes.plot(strengths, [p["epochs"] for p in points], "o-", color=GREEN, markersize=4)
        axes.set_ylabel("rounds")
        return
    axes.plot(strengths, [p["nonzero"] for p in points], "o-", color=GREEN, markersize=4)
    axes.set_ylim(0, 1.05 * points[0]["weights"])
    axes.set_ylabel("weights not zero")
