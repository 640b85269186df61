"""docs/benchmarks.md from the JSON below out/bench: `python -m bench.page`. What was never run is said to be missing, never made up.

A figure is on the page only if a bench wrote it; what was measured where and when stands beside each table. A section whose JSON is not
here stays as the page has it: it was measured on another machine, and says so.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bench import eight_sets_table, quality, record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

PAGE: Final = Path("docs/benchmarks.md")
PICTURE: Final = Path("docs/benchmarks-ranks.png")
HEAD: Final = """<!-- Written by `python -m bench.page` from what the benches left in out/bench. Do not edit. -->
# Benchmarks

What is measured, by which command, and what came out: wins and losses alike. A bench prints its table, writes JSON below `out/bench/`
(git ignores it) with versions and hardware, is paired by seed, and may lose; test rows choose nothing. `python -m bench.page` makes this
page of that JSON.

| Bench | Measures | Figures |
|---|---|---|
| `bench.quality` | blocks and a searched cocktail on noisy digits, beside XGBoost and SVMs | below |
| `bench.eight_sets` | a searched cocktail against each single block and XGBoost on eight sets | below |
| `bench.fuzz` | 10,000 random maps of regularizers: refused by name, or trained | below |
| `bench.trainer steps` | a step of our loop beside a bare one | below, and [trainer.md](trainer.md#figures) |
| `bench.transfer` | what a teacher is worth to a small student with noisy labels | [trainer.md](trainer.md#figures) |
| `bench.judge`, `judge_fleet`, `judge_rules` | alarms of the canary judge, its cost for a fleet, usual rules | [analysis.md](analysis.md) |
| `bench.start`, `models_fleet`, `rollback` | apply to Job, a thousand models, breach to weight 0 | [operator.md](operator.md) |
| `bench.server` | requests per second and latency beside KServe and MLServer | [server.md](server.md) |
"""


def cells(*values: object) -> str:
    """One row of a table."""
    return "| " + " | ".join(map(str, values)) + " |"


def sections(text: str) -> dict[str, list[str]]:
    """Lines of a page by the heading that they stand below."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("#"):
            found[line] = []
        elif found:
            found[next(reversed(found))].append(line)
    return found


def section(heading: str, lines: Iterable[str] | None, before: str) -> Iterator[str]:
    """What a bench found below its heading; None, when it was not run here, leaves the section as the page had it."""
    yield f"\n{heading}\n"
    if lines is None:
        yield "\n".join(sections(before).get(heading, [])).strip("\n") or "Not run."
    else:
        yield from lines


def read(path: Path) -> Any:  # noqa: ANN401 - JSON
    """What a bench left; None when it was not run."""
    return json.loads(path.read_text()) if path.exists() else None


# --- quality ----------------------------------------------------------------------------------------------------------
def of_quality(folder: Path, before: str) -> Iterator[str]:
    """Every setting that was run, the bars' first."""
    yield "\n## Quality on digits\n"
    yield (
        "300 training rows, 100 clean validation rows, 700 test rows, MLP 64-256-256-10, AdamW 1e-3, 100 epochs, batches of 32; pixels "
        "in 0..1. Gains are points over no block with wins by seed; FGSM is accuracy within 0.1 of a pixel's range; ECE15 before and after "
        "a temperature. The reference's section 8.2 is the same experiment with its own draws of rows and noise.\n"
    )
    for scaling, noise in (("none", 0.3), ("none", 0.0), ("minMax", 0.3), ("standard", 0.3)):
        told = read(folder / f"quality-{scaling}-{noise:g}.json")
        heading = f"### `python -m bench.quality --scaling {scaling} --noise {noise:g}`"
        yield from section(heading, told and _setting(told, noise), before)


def _setting(told: dict[str, Any], noise: float) -> Iterator[str]:
    runs = list(told["seeds"].values())
    found = {
        name: [run["rows"][name] for run in runs]
        for name in runs[0]["rows"]
        if all(name in run["rows"] for run in runs)
    }
    yield f"{len(runs)} seeds. {record.told(told['where'])}.\n"
    yield cells("Blocks", "Accuracy (min–max)", "Gain", "Wins", "FGSM", "ECE → after T")
    yield cells(*["---"] * 6)
    for name, values in found.items():
        points, more = [one["accuracy"] for one in values], quality.gains(found, name)
        row = [name, f"{statistics.mean(points):.1f} ({min(points):.1f}–{max(points):.1f})"]
        row += [f"{statistics.mean(more):+.1f}", f"{sum(gain > 0 for gain in more)}/{len(more)}"]
        if "ece" in values[0]:
            error = f"{quality.mean(values, 'ece'):.3f} → {quality.mean(values, 'eceAfter'):.3f}"
            row += [f"{quality.mean(values, 'fgsm'):.0f}", error]
        yield cells(*row, *[""] * (6 - len(row)))
    yield ""
    for line in quality.bars(found, noise):
        yield f"- {line}"
    searches = [run["search"] for run in runs if "search" in run]
    if searches:
        seconds = statistics.mean(one["cpuSeconds"] for one in searches)
        trials = searches[0]["trials"]
        yield f"- a search is {trials} trials and takes {seconds:.0f} s of CPU ({len(searches)} of {len(runs)} seeds were searched)"


# --- eight sets -------------------------------------------------------------------------------------------------------
def of_eight_sets(folder: Path, before: str) -> Iterator[str]:
    """Means, ranks, Wilcoxon tests, picture."""
    told = read(folder / "eight_sets" / "summary.json")
    yield from section("## Eight sets: `python -m bench.eight_sets`", told and _ranked(told), before)


def _ranked(told: dict[str, Any]) -> Iterator[str]:
    sizes = ", ".join(
        f"{name} ({one['train']}/{one['validation']}/{one['test']} rows, {one['features']} features, {one['classes']} classes)"
        for name, one in told["sizes"].items()
    )
    yield (
        "Balanced accuracy in points; the same number of trials for every contender, chosen on validation rows; the docstring of "
        f"`bench/eight_sets.py` tells budgets and splits. {sizes}. {told['seeds']} seeds. "
        f"{record.told(told['where'])}; {told['cpuSeconds']} s of CPU.\n"
    )
    names, sets = sorted(told["ranks"], key=told["ranks"].__getitem__), list(told["sets"])
    yield cells("", *sets, "Rank", "Won–tied–lost against it", "Difference", "p (sets × seeds)", "p (sets)")
    yield cells(*["---"] * (len(sets) + 6))
    for name in names:
        duel = told["duels"].get(name)
        row = ["–"] * 4
        if duel:
            row = [f"{duel['wins']}–{duel['ties']}–{duel['losses']}", f"{duel['difference']:+.1f}"]
            row += [f"{duel['p']:.2g}", f"{duel['pOfSets']:.2g}"]
        yield cells(name, *(f"{told['sets'][one][name]:.1f}" for one in sets), f"{told['ranks'][name]:.2f}", *row)
    yield f"\n{eight_sets_table.verdict(told)}.\n"
    if PICTURE.exists():
        yield f"![Average rank of each contender]({PICTURE.name})"


# --- fuzz and steps ---------------------------------------------------------------------------------------------------
def of_fuzz(folder: Path, before: str) -> Iterator[str]:
    """Sums over the shards."""
    shards = [read(path) for path in sorted((folder / "fuzz").glob("*.json"))]
    yield from section("## Fuzz: `python -m bench.fuzz --maps 10000`", _counted(shards) if shards else None, before)


def _counted(shards: Sequence[dict[str, Any]]) -> Iterator[str]:
    kinds = {
        kind: sum(one["counts"].get(kind, 0) for one in shards) for kind in ("refused", "trained", "diverged", "broken")
    }
    seconds = sum(one["cpuSeconds"] for one in shards)
    yield f"{sum(one['maps'] for one in shards):,} maps, {seconds:.0f} s of CPU. {record.told(shards[-1]['where'])}.\n"
    yield cells(*kinds)
    yield cells(*["---"] * len(kinds))
    yield cells(*(f"{count:,}" for count in kinds.values()))
    yield "\nBroken is what was neither refused by a rule or a field nor trained to finite scores; the bar is 0."


def of_steps(folder: Path, before: str) -> Iterator[str]:
    """The step table."""
    told = read(folder / "trainer.json")
    there = told is not None and "steps" in told
    yield from section("## Step time: `python -m bench.trainer steps`", _timed(told) if there else None, before)


def _timed(told: dict[str, Any]) -> Iterator[str]:
    yield "8 × 512² MLP, batch 128, Adam, one thread, CPU time; medians of 12 paired runs; bar: cocktail ≤ 1.20."
    yield f"{record.told(told['where'])}.\n"
    yield cells("", "ms/step", "× bare")
    yield cells(*["---"] * 3)
    for one in told["steps"]:
        yield cells(one["name"], one["milliseconds"], one["ratio"])


def page(folder: Path, before: str = "") -> str:
    """The whole text; `before` is the page's own, for what is not in the folder."""
    parts: Sequence[Any] = (of_quality, of_eight_sets, of_fuzz, of_steps)
    return HEAD + "\n".join(line for part in parts for line in part(folder, before)) + "\n"


def main() -> None:
    """Write it, with the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=record.FOLDER, help="where the JSON is (default out/bench)")
    folder = parser.parse_args().folder
    if (drawn := folder / "eight_sets" / "ranks.png").exists():
        PICTURE.write_bytes(drawn.read_bytes())
    PAGE.write_text(page(folder, PAGE.read_text() if PAGE.exists() else ""))


if __name__ == "__main__":
    main()
