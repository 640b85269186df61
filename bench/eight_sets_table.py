"""What bench.eight_sets came to: means, ranks, Wilcoxon tests, a picture. Pure functions of the cells that it wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import rankdata, wilcoxon

from espalier_trainer.pictures import style

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]


def summary(cells: Sequence[dict[str, Any]], hero: str) -> dict[str, Any]:
    """Means (sets, contenders), ranks of those means per set, and `hero` against each other contender.

    `cells` hold set, seed and, per contender, `test`; every set has the same seeds. ValueError when one is missing.
    """
    sets, names = list(dict.fromkeys(cell["set"] for cell in cells)), list(cells[0]["found"])
    seeds = sorted({cell["seed"] for cell in cells})
    known = {(cell["set"], cell["seed"]): cell["found"] for cell in cells}
    if len(known) != len(sets) * len(seeds):
        raise ValueError(f"{len(known)} cells for {len(sets)} sets x {len(seeds)} seeds: run the missing ones")
    values = np.array([[[known[s, seed][name]["test"] for name in names] for seed in seeds] for s in sets])
    means = values.mean(axis=1)
    ranks = rankdata(-np.round(means, 6), axis=1)
    index = names.index(hero)
    duels = {
        name: duel(values[:, :, index], values[:, :, at]) | {"rank": float(ranks[:, at].mean())}
        for at, name in enumerate(names)
        if at != index
    }
    return {
        "sets": {
            name: dict(zip(names, row, strict=True)) for name, row in zip(sets, means.round(2).tolist(), strict=True)
        },
        "sizes": {cell["set"]: cell["sizes"] for cell in cells},
        "ranks": dict(zip(names, ranks.mean(axis=0).round(2).tolist(), strict=True)),
        "ranksOfSets": dict(zip(names, ranks.T.tolist(), strict=True)),
        "hero": hero,
        "seeds": len(seeds),
        "duels": duels,
        "cpuSeconds": round(sum(one["cpuSeconds"] for cell in cells for one in cell["found"].values())),
    }


def duel(ours: Floats, theirs: Floats) -> dict[str, Any]:
    """Wins, ties and losses over (sets, seeds), the mean difference, and two-sided Wilcoxon p over pairs and over sets."""
    gaps = np.round(ours - theirs, 9)
    return {
        "wins": int((gaps > 0).sum()),
        "ties": int((gaps == 0).sum()),
        "losses": int((gaps < 0).sum()),
        "difference": float(gaps.mean()),
        "p": _p(gaps.ravel()),
        "pOfSets": _p(gaps.mean(axis=1)),
    }


def _p(gaps: Floats) -> float:
    """1 when nothing differs; zeros are split between the sides (zsplit), so that ties count against a difference."""
    return float(wilcoxon(gaps, zero_method="zsplit").pvalue) if gaps.any() else 1.0


def text(told: dict[str, Any]) -> str:
    """The two tables, and what the bar says of them."""
    sets, hero = list(told["sets"]), told["hero"]
    names = sorted(told["ranks"], key=told["ranks"].__getitem__)
    lines = [f"balanced accuracy in points, mean of {told['seeds']} seeds; rank: mean over {len(sets)} sets, 1 is best"]
    lines.append(f"{'':20}" + "".join(f"{one[:13]:>14}" for one in sets) + f"{'rank':>7}")
    for name in names:
        cells = "".join(f"{told['sets'][one][name]:14.1f}" for one in sets)
        lines.append(f"{name:20}{cells}{told['ranks'][name]:7.2f}")
    lines.append(
        f"\n{hero} against{'':{max(0, 20 - len(hero) - 8)}} won-tied-lost  difference  p(sets x seeds)  p(sets)"
    )
    for name in names:
        if name != hero:
            one = told["duels"][name]
            score = f"{one['wins']}-{one['ties']}-{one['losses']}"
            lines.append(f"{name:28}{score:>13}{one['difference']:+12.2f}{one['p']:17.2g}{one['pOfSets']:9.2g}")
    return "\n".join([*lines, f"{verdict(told)}; {told['cpuSeconds']} s CPU"])


def verdict(told: dict[str, Any]) -> str:
    """What the bar says: the hero's average rank must be better than every other."""
    ranks, hero = told["ranks"], told["hero"]
    ahead = [name for name in ranks if name != hero and ranks[name] <= ranks[hero]]
    met = "met" if not ahead else f"MISSED, {', '.join(ahead)} ranked as well or better"
    return f"Bar (best average rank of all): {met}; {hero} {ranks[hero]:.2f}, next {min(v for n, v in ranks.items() if n != hero):.2f}"


def picture(told: dict[str, Any]) -> bytes:
    """PNG: mean rank of each contender, and a dot per set."""
    names = sorted(told["ranks"], key=told["ranks"].__getitem__, reverse=True)
    drawn = style.Picture()
    (axes,) = drawn.axes
    for at, name in enumerate(names):
        ranks = told["ranksOfSets"][name]
        axes.plot(ranks, [at] * len(ranks), "o", color=style.PALE, markersize=5)
        axes.plot(
            [told["ranks"][name]], [at], "o", color=style.ORANGE if name == told["hero"] else style.BLUE, markersize=9
        )
    axes.set_yticks(range(len(names)), names)
    axes.figure.subplots_adjust(left=0.24)
    style.label(
        axes, f"Average rank over {len(told['sets'])} sets (grey: each set)", "rank of balanced accuracy, 1 is best", ""
    )
    return drawn.png()
