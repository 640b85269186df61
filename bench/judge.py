"""False aborts and delays of the sequential judge beside the rules people use today: `python -m bench.judge [--quick]`.

Bars (design/quality.md): false aborts <= alpha; x3 harm found in <= 2 min at 200 rps and <= 6 min at 20 rps (median, of
traffic after the warm-up); <= 0.5 % false aborts under shared incidents. Exit code 1 when one is missed. Seeds are fixed; the
vectorised formula is checked against the operator's own code on every scenario.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from bench import judge_rules as rules
from bench.judge_traffic import BLOCK_SECONDS, BLOCKS_PER_MINUTE, Incident, Scenario, Traffic
from espalier_operator.decisions.judge import ArmCounts, BlockCounts, EvidenceState, advance
from espalier_operator.decisions.judge.dispersion import HISTORY_BLOCKS
from espalier_operator.decisions.judge.eprocess import log_mean_exp

SEED = 7
OUT = Path(".cache/bench/judge.json")
OURS = "espalier default"
FALSE_ABORTS_IN_INCIDENTS = 0.005

DETECTION = {
    "S1 200 rps, stable 0.5 %": (Scenario(200, stable_ratio=0.005), (1, 1.5, 2, 3, 5, 10)),
    "S2 20 rps, stable 1 %": (Scenario(20, stable_ratio=0.01), (1, 1.5, 2, 3, 5, 10)),
    "S3 2 rps, stable 1 %": (Scenario(2, stable_ratio=0.01), (1, 5, 10, 30)),
}
BARS_X3 = {"S1 200 rps, stable 0.5 %": 2.0, "S2 20 rps, stable 1 %": 6.0}
EARLY = Incident(start=2, length=20, factor=10)
NUISANCES = {
    "A/A": Scenario(),
    "baseline now 1.0 %": Scenario(stable_ratio=0.01),
    "incident x10, 10 min, both arms": Scenario(incident=Incident(40, 20, 10)),
    "incident x10 from minute 1, canary 15 s ahead": Scenario(incident=EARLY, ahead=0.5),
    "incident x40 from minute 1, canary 15 s ahead": Scenario(incident=replace(EARLY, factor=40), ahead=0.5),
    "bursts of 3": Scenario(burst=3),
    "benign x1.05 at 2000 rps": Scenario(2000, harm=1.05),
}
LATE = {
    "x3 from minute 30, S1": Scenario(200, stable_ratio=0.005, harm=3, onset=60, blocks=240),
    "x3 from minute 30, S2": Scenario(20, stable_ratio=0.01, harm=3, onset=60, blocks=240),
}


@dataclass(frozen=True)
class Cell:
    """What one rule did to many canaries of one kind."""

    rule: str
    aborted: float
    low: float
    high: float
    median_minutes: float | None
    p90_minutes: float | None
    bad_served: float

    def __str__(self) -> str:
        """`0.94 / 25.0`: share aborted and median minutes."""
        median = "never" if self.median_minutes is None else f"{self.median_minutes:.1f}"
        return f"{self.aborted:.3f} / {median}"


def summarise(rule: str, traffic: Traffic, at: rules.Indices, onset: int = 0) -> Cell:
    """Share aborted from block `onset` on with its 95 % Wilson interval, delays since then, bad canary requests served."""
    hit = at >= onset
    low, high = wilson(int(hit.sum()), traffic.runs)
    minutes = np.where(hit, (at + 1 - onset) * BLOCK_SECONDS / 60, np.inf)
    bad = traffic.canary_bad.cumsum(1)[np.arange(traffic.runs), np.where(hit, at, traffic.blocks - 1)]
    return Cell(rule, float(hit.mean()), low, high, quantile(minutes, 0.5), quantile(minutes, 0.9), float(bad.mean()))


def wilson(hits: int, runs: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % Wilson score interval of a share."""
    share = hits / runs
    centre = (share + z * z / (2 * runs)) / (1 + z * z / runs)
    half = z / (1 + z * z / runs) * math.sqrt(share * (1 - share) / runs + z * z / (4 * runs * runs))
    return max(0.0, centre - half), min(1.0, centre + half)


def quantile(minutes: rules.Floats, q: float) -> float | None:
    """A delay that `q` of all canaries reached; None when fewer were aborted."""
    value = float(np.quantile(minutes, q, method="higher"))
    return value if math.isfinite(value) else None


def judge_all(scenario: Scenario, runs: int) -> dict[str, Cell]:
    """Every rule on the same traffic; ours with the dispersion it would have measured on the past of stable."""
    rng = seeded(scenario)
    traffic = scenario.draw(rng, runs)
    past = replace(scenario, harm=1.0, incident=None, ahead=0.0, blocks=HISTORY_BLOCKS).draw(rng, runs)
    phi = rules.dispersion(past)
    agree(traffic, phi)
    judges: Mapping[str, Callable[[Traffic], rules.Indices]] = {
        OURS: lambda seen: rules.sequential(seen, rules.DEFAULT, phi),
        "espalier, no suspicion first": lambda seen: rules.sequential(seen, rules.DEFAULT, phi, suspicion=-math.inf),
        "espalier strict": lambda seen: rules.sequential(seen, rules.STRICT, suspicion=-math.inf),
        "no cap, no dispersion": lambda seen: rules.sequential(
            seen, replace(rules.DEFAULT, cap=math.inf), suspicion=-math.inf
        ),
        "Argo docs": rules.argo_docs,
        "Flagger docs": rules.flagger_docs,
        "naive z, 1 min": rules.naive_z,
    }
    return {name: summarise(name, traffic, judge(traffic), scenario.onset) for name, judge in judges.items()}


def seeded(scenario: Scenario) -> np.random.Generator:
    """Random numbers of one scenario: another scenario more or less changes none of the others."""
    return np.random.default_rng([SEED, zlib.crc32(repr(scenario).encode())])


def agree(traffic: Traffic, phi: rules.Floats, runs: int = 3) -> None:
    """The arrays above and the operator's own code must tell the same story, or nothing here counts."""
    paths = rules.log_evidence(traffic, rules.DEFAULT, phi)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    for run in range(runs):
        state = EvidenceState(dispersion=float(phi[run]))
        for block in range(traffic.blocks):
            canary = ArmCounts(float(traffic.canary_total[run, block]), float(traffic.canary_bad[run, block]))
            stable = ArmCounts(float(traffic.stable_total[run, block]), float(traffic.stable_bad[run, block]))
            end = start + timedelta(seconds=BLOCK_SECONDS * block)
            state = advance(state, BlockCounts(end, canary, stable), rules.DEFAULT)
            if abs(log_mean_exp(state.log_e) - paths[run, block]) > 1e-6:  # noqa: PLR2004 - far below any verdict
                raise AssertionError(f"run {run}, block {block}: the operator and the benchmark disagree")


def good_canaries(runs: int) -> dict[str, dict[str, float | None]]:
    """How a good canary fares: the share that pauses after a 10-minute step (evidence half-way to a Fail), and how long the
    proof takes that `requireEvidence` asks for.
    """
    rows: dict[str, dict[str, float | None]] = {}
    for name, (scenario, _) in DETECTION.items():
        rng = seeded(scenario)
        traffic = scenario.draw(rng, runs)
        phi = rules.dispersion(replace(scenario, blocks=HISTORY_BLOCKS).draw(rng, runs))
        after_step = rules.log_evidence(traffic, rules.DEFAULT, phi)[:, 10 * BLOCKS_PER_MINUTE - 1]
        proven = summarise("proof", traffic, rules.proven_good(traffic, rules.DEFAULT, phi))
        rows[name] = {
            "pausedAfterStep": float((after_step >= math.log(rules.DEFAULT.abort_at) / 2).mean()),
            "provenWithinHour": proven.aborted,
            "medianMinutesToProof": proven.median_minutes,
        }
    return rows


def table(title: str, rows: Mapping[str, Mapping[str, Cell]]) -> None:
    """Rules down, scenarios across: share aborted / median minutes."""
    print(f"\n## {title}   (share aborted / median minutes)")
    names = list(next(iter(rows.values())))
    print("| rule | " + " | ".join(rows) + " |")
    print("|---" * (len(rows) + 1) + "|")
    for name in names:
        print(f"| {name} | " + " | ".join(str(cells[name]) for cells in rows.values()) + " |")


def bars(detection: Mapping[str, Any], nuisances: Mapping[str, Mapping[str, Cell]]) -> list[tuple[str, float, float]]:
    """(what, measured, bar): smaller is better."""
    found = [
        (f"false aborts, {name}", cells["x1"][OURS].aborted, rules.DEFAULT.alpha) for name, cells in detection.items()
    ]
    found += [
        (f"median minutes to find x3, {name}", detection[name]["x3"][OURS].median_minutes or math.inf, bar)
        for name, bar in BARS_X3.items()
    ]
    found += [
        (f"false aborts, {name}", cells[OURS].aborted, FALSE_ABORTS_IN_INCIDENTS if "incident" in name else 0.05)
        for name, cells in nuisances.items()
    ]
    return found


def plain(value: object) -> object:
    """Dataclasses as dictionaries, all the way down."""
    if isinstance(value, Cell):
        return asdict(value)
    return {key: plain(each) for key, each in value.items()} if isinstance(value, Mapping) else value


def main() -> int:
    """Run, print, write; 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="600 canaries per cell instead of 4000")
    parser.add_argument("--runs", type=int, help="canaries per cell")
    parser.add_argument("--out", type=Path, default=OUT, help="where the JSON goes")
    arguments = parser.parse_args()
    runs = arguments.runs or (600 if arguments.quick else 4000)
    began = time.monotonic()
    print(f"{runs} canaries per cell, seed {SEED}, blocks of {BLOCK_SECONDS} s, 60 min, canary 10 %; ", end="")
    print(f"Python {platform.python_version()}, numpy {np.__version__}, {platform.machine()}")
    detection = {}
    for name, (scenario, harms) in DETECTION.items():
        detection[name] = {f"x{harm:g}": judge_all(replace(scenario, harm=harm), runs) for harm in harms}
        table(name, detection[name])
    nuisances = {name: judge_all(scenario, runs) for name, scenario in NUISANCES.items()}
    table("Acceptable canaries: every abort is false", nuisances)
    late = {name: judge_all(scenario, runs) for name, scenario in LATE.items()}
    table("Harm that begins late: minutes since it began", late)
    good = good_canaries(runs)
    print(f"\n## Good canaries\n{json.dumps(good, indent=1)}")
    results = bars(detection, nuisances)
    print("\n| bar | measured | at most | |\n|---|---|---|---|")
    for what, measured, bar in results:
        print(f"| {what} | {measured:.4g} | {bar:g} | {'holds' if measured <= bar else 'MISSED'} |")
    document = {
        "runs": runs,
        "seed": SEED,
        "seconds": round(time.monotonic() - began, 1),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": platform.platform(),
        "detection": plain(detection),
        "nuisances": plain(nuisances),
        "late": plain(late),
        "good": good,
        "bars": [{"what": what, "measured": measured, "bar": bar} for what, measured, bar in results],
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(document, indent=1), encoding="utf-8")
    print(f"\n{document['seconds']} s; written to {arguments.out}")
    return 0 if all(measured <= bar for _, measured, bar in results) else 1


if __name__ == "__main__":
    sys.exit(main())
