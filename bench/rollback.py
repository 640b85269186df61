"""Breach -> weight 0: how long after its evidence was complete in Prometheus a bad canary lost its traffic, on the real cluster.

    python -m cluster exec -- .venv/bin/python -m bench.rollback [--runs 5]

Each run ships a version that is bad in production (trained on pixels of another scale) and reads, from the rollout's own status, the end of
the block whose evidence decided, and from a watch on the HTTPRoute the moment at which the canary's weight became 0. A block's counts are
complete in Prometheus one query lag after its end; the operator promises weight 0 within one analysis interval + 2 s of that, in the same
pass as the verdict. Exit code 1 when a run misses it.
"""

from __future__ import annotations

import argparse
import json
import secrets
import statistics
import sys
import time
from datetime import datetime
from pathlib import Path

from espalier_cli.demo.kubectl import Kubectl
from tests.e2e.harness import RESCALED, World, data_from, image_refs, model_manifest

INTERVAL = 4.0  # seconds: analysis.interval of the harness's rollout
LAG = 4.0  # seconds: the source's lag (tools/stage.py)
BAR_SECONDS = INTERVAL + 2.0
LOOK_EVERY = 0.05


def one(world: World, run: int, champion: str) -> dict[str, float | str]:
    """Ship a bad version; return when its deciding block ended and when the route gave it weight 0 (Unix seconds)."""
    version = f"v{run + 2}"
    world.apply(model_manifest(data=data_from(RESCALED), regularizers={"l2": {"strength": 0.02 + run / 100}}))
    world.await_(f"{version} takes traffic", lambda: world.weight(version) > 0, 240)
    zero = world.await_("weight 0", lambda: world.weight(version) == 0 and time.time(), 240)
    outcome = world.await_("history", lambda: world.outcome(version), 60)
    if outcome["outcome"] != "RolledBack" or world.champion() != champion:
        raise SystemExit(f"bench.rollback: {version} ended as {outcome}")
    verdict = datetime.fromisoformat(outcome["verdictAt"]).timestamp()
    judged = next(sli for sli in world.status()["slis"] if sli["name"] == outcome["sli"])
    decided = datetime.fromisoformat(judged["lastBlockEnd"]).timestamp()
    world.await_("settled", lambda: world.status().get("phase") == "Idle", 120)
    return {
        "version": version,
        "visible_to_zero": zero - (decided + LAG),
        "verdict_to_zero": zero - verdict,
        "reason": outcome["reason"],
    }


def main() -> int:
    """Print the table, write JSON, and say whether the bar holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path, default=Path(".cache/bench/rollback.json"))
    arguments = parser.parse_args()
    world = World(Kubectl(f"bench-rollback-{secrets.token_hex(3)}"), image_refs()["loadgen"])
    world.prepare()
    world.apply_rollout()
    world.apply(model_manifest())
    champion = world.await_("v1 champion", world.champion)
    try:
        with world.traffic(rps=60):
            runs = [one(world, run, champion) for run in range(arguments.runs)]
    finally:
        world.kube.run(
            "delete",
            "canaryrollouts.espalier.dev,regularizedmodels.espalier.dev",
            "--all",
            "--timeout=60s",
            check=False,
        )
        world.kube.run("delete", "namespace", world.kube.namespace, "--wait=false", check=False)
    waits = [float(run["visible_to_zero"]) for run in runs]
    holds = max(waits) <= BAR_SECONDS
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(
        json.dumps({"runs": runs, "bar": BAR_SECONDS, "interval": INTERVAL, "lag": LAG, "holds": holds}, indent=1)
        + "\n"
    )
    for run in runs:
        print(
            f"{run['version']}: {run['visible_to_zero']:.2f} s after visible, "
            f"{run['verdict_to_zero']:.2f} s after the verdict. {run['reason']}"
        )
    print(
        f"visible -> weight 0: median {statistics.median(waits):.2f} s, "
        f"max {max(waits):.2f} s (bar: {BAR_SECONDS:.0f} s = one interval + 2 s)"
    )
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
