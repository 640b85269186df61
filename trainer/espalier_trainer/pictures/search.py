"""A search: what each trial came to and the best so far; of two objectives what every trial weighed and the Pareto set."""

from __future__ import annotations

import json
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final, Literal

from espalier_trainer.pictures.style import BLUE, GREEN, GREY, ORANGE, PALE, Picture, label

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

    from espalier_trainer.pictures import Story

    Trial = Mapping[str, Any]

FILE: Final = "search.json"
FEWEST: Final = 2
"""Trials that succeeded; one is no search."""


def draw(story: Story) -> bytes | None:
    """Over the number of the trial, or over both objectives; None without a search, or when less than two trials succeeded."""
    if FILE not in story.files:
        return None
    told: Mapping[str, Any] = json.loads(story.files[FILE])
    succeeded = [trial for trial in told["trials"] if trial["status"] == "Succeeded"]
    if len(succeeded) < FEWEST:
        return None
    picture = Picture()
    (axes,) = picture.axes
    if "pareto" in told:
        _front(axes, told, succeeded)
    elif "budget" in told:
        _rungs(axes, told, succeeded)
    else:
        _course(axes, told, succeeded)
    axes.legend(frameon=False, fontsize=9)
    return picture.png()


def _course(axes: Axes, told: Mapping[str, Any], succeeded: Sequence[Trial]) -> None:
    goal, metric = told["search"]["objective"]["goal"], told["search"]["objective"]["metric"]
    numbers, values = [t["number"] for t in succeeded], [t["objective"] for t in succeeded]
    so_far = list(accumulate(values, min if goal == "minimize" else max))
    axes.plot(numbers, values, "o", color=BLUE, markersize=5, alpha=0.7, label="trial")
    ends = max(trial["number"] for trial in told["trials"])
    axes.step([*numbers, ends], [*so_far, so_far[-1]], where="post", color=GREY, linewidth=1.5, label="best so far")
    _failures(axes, told)
    _best(axes, told["best"]["number"], told)
    label(axes, f"Search, {told['search']['method']}: {len(told['trials'])} trials", "trial", f"{metric} ({goal}d)")


def _failures(axes: Axes, told: Mapping[str, Any]) -> None:
    """At the edge: they have no value."""
    failed = [t["number"] for t in told["trials"] if t["status"] != "Succeeded"]
    if failed:
        axes.plot(
            failed,
            [0.015] * len(failed),
            "x",
            color=ORANGE,
            transform=axes.get_xaxis_transform(),
            label=f"failed ({len(failed)})",
        )


def _best(axes: Axes, where: float, told: Mapping[str, Any]) -> None:
    best = told["best"]
    text = f"best: {best['objective']:.4g} in trial {best['number']}"
    axes.plot(
        [where], [best["objective"]], "o", color=ORANGE, markersize=9, fillstyle="none", markeredgewidth=2, label=text
    )


def _rungs(axes: Axes, told: Mapping[str, Any], succeeded: Sequence[Trial]) -> None:
    """Values of the same set of values over what it was given; those that were not promoted end."""
    objective, budget = told["search"]["objective"], told["budget"]
    lines: dict[int, list[tuple[float, float]]] = {}
    for trial in succeeded:
        lines.setdefault(trial["configuration"], []).append((trial["resource"], trial["objective"]))
    for points in lines.values():
        axes.plot(*zip(*points, strict=True), "o-", color=BLUE, alpha=0.5, linewidth=1, markersize=4)
    axes.plot([], [], "o-", color=BLUE, linewidth=1, markersize=4, label="one set of values, fitted again with more")
    _best(axes, told["best"]["resource"], told)
    axes.set_xscale("log")
    ticks = sorted({trial["resource"] for trial in succeeded})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    spent = f"{budget['wholeFits']:.3g} instead of {budget['wholeFitsOfRandomSearch']} whole fits"
    label(axes, f"Search, halving: {spent}", budget["unit"], f"{objective['metric']} ({objective['goal']}d)")


def _front(axes: Axes, told: Mapping[str, Any], succeeded: Sequence[Trial]) -> None:
    """The second objective across, the first up; the set's edge is a staircase, since between two points nothing is known."""
    first, second = told["search"]["objective"], told["search"]["secondObjective"]
    on_it = set(told["pareto"])
    rest = [t for t in succeeded if t["number"] not in on_it]
    front = sorted((t for t in succeeded if t["number"] in on_it), key=lambda t: t["second"])
    axes.plot(
        [t["second"] for t in rest],
        [t["objective"] for t in rest],
        "o",
        color=PALE,
        markersize=5,
        label="beaten by others",
    )
    where: Literal["post", "pre"] = "post" if second["goal"] == "minimize" else "pre"
    axes.step([t["second"] for t in front], [t["objective"] for t in front], where=where, color=GREEN, linewidth=1)
    axes.plot(
        [t["second"] for t in front],
        [t["objective"] for t in front],
        "o",
        color=GREEN,
        label=f"Pareto set ({len(front)})",
    )
    _best(axes, told["best"]["second"], told)
    title = f"Search, {told['search']['method']}: {len(told['trials'])} trials, two objectives"
    label(axes, title, f"{second['metric']} ({second['goal']}d)", f"{first['metric']} ({first['goal']}d)")
