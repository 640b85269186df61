"""Reliability diagram: how often the model is right among the rows of equal confidence (Guo et al. 2017), on the test split."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from espalier_trainer.evaluation.intervals import wilson
from espalier_trainer.pictures.style import BLUE, GREY, PALE, Picture, label

if TYPE_CHECKING:
    from espalier_trainer.pictures import Story


def draw(story: Story) -> bytes | None:
    """Accuracy per bin with Wilson's interval over the share of rows in it; None for a regression."""
    if not story.evaluation.reliability:
        return None
    confidence, accuracy, rows = np.asarray(story.evaluation.reliability).T
    low, high = np.asarray([wilson(a, n) for a, n in zip(accuracy, rows, strict=True)]).T
    picture = Picture()
    (axes,) = picture.axes
    axes.bar(confidence, rows / rows.sum(), width=0.03, color=PALE, label="share of rows")
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--", label="calibrated")
    error = np.abs(np.stack([accuracy - low, high - accuracy]))
    axes.errorbar(confidence, accuracy, yerr=error, fmt="o", color=BLUE, capsize=2, linewidth=1, label="accuracy")
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.02)
    axes.legend(frameon=False, loc="best")
    told = story.evaluation.metrics
    excess = told.get("calibrationErrorExcess")
    words = "" if excess is None else f": error {told['calibrationError'].value:.3f}, {excess.value:+.3f} beyond chance"
    label(axes, f"Reliability{words}", "confidence", "accuracy")
    return picture.png()
