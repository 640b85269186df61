"""Risk-coverage curve: the error rate among answers when only the surest share of requests is answered (M5), on the test split."""

from __future__ import annotations

from typing import TYPE_CHECKING

from espalier_trainer.pictures.style import BLUE, GREY, ORANGE, Picture, label

if TYPE_CHECKING:
    from espalier_trainer.pictures import Story


def draw(story: Story) -> bytes | None:
    """The curve, and the point of the threshold that keeps the promised risk; None for a regression."""
    points = story.evaluation.notes.get("riskCoverage")
    if not points:
        return None
    picture = Picture()
    (axes,) = picture.axes
    coverage, risk = zip(*points, strict=True)
    axes.plot(coverage, risk, color=BLUE, label=f"area {story.evaluation.metrics['aurc'].value:.4f}")
    axes.axhline(risk[-1], color=GREY, linewidth=1, linestyle=":", label=f"answering everything: {risk[-1]:.3f}")
    refused, selective = story.evaluation.metrics.get("rejectRate"), story.evaluation.metrics.get("selectiveRisk")
    if refused is not None and selective is not None:
        text = f"threshold {story.evaluation.notes['selective']['threshold']:.3f}: risk {selective.value:.3f}, {refused.value:.0%} refused"
        axes.plot([1 - refused.value], [selective.value], "o", color=ORANGE, label=text)
    axes.set_xlim(0, 1.02)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, loc="best")
    label(axes, "Risk and coverage", "share of requests answered", "error rate among answers")
    return picture.png()
