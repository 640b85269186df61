"""A fleet of models through the real loops, caches and controller, with the API server and S3 in memory: what the operator itself costs.

    python -m bench.models_fleet [--models 1000]

Prints seconds until every model has its Job, CPU per idle pass, p99 of a pass, and resident memory; writes out/bench/models_fleet.json.
No network is involved, so these are lower bounds; bench.start measures one model on a real cluster.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import resource
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from espalier_operator import telemetry
from espalier_operator.adapters.events import Recorder
from espalier_operator.adapters.watches import Caches
from espalier_operator.controllers.execute import Executor
from espalier_operator.controllers.loop import Loops
from espalier_operator.controllers.model.controller import ModelController
from espalier_operator.controllers.model.observe import ModelObserver
from espalier_operator.settings import Settings
from tests.unit.operator.fakes import FakeKube, FakeStore
from tests.unit.operator.samples import SNAPSHOT, model


async def measure(models: int) -> dict[str, Any]:
    """One run."""
    kube, store, options = FakeKube(), FakeStore(), Settings("trainer:1", "server:1")
    store.objects[f"{SNAPSHOT}part-0.parquet"] = b"rows"
    knot: list[Loops] = []
    caches = Caches(kube, options, lambda obj: knot[0].changed(obj))  # noqa: PLW0108 - knot is empty here
    recorder = Recorder(kube)
    executor = Executor(kube, caches, recorder, store)

    async def no_progress(_: str) -> None:
        return None

    observer = ModelObserver(caches, store, no_progress)
    knot.append(Loops(caches, executor, reconcile_timeout=timedelta(seconds=60)))
    knot[0].register(
        ModelController(
            caches=caches, executor=executor, observer=observer, store=store, recorder=recorder, settings=options
        )
    )
    for number in range(models):
        kube.put(model(f"m{number}"))
    began, cpu = time.perf_counter(), time.process_time()
    feeding = asyncio.create_task(caches.run())
    while len(kube.of_kind("Job")) < models:  # noqa: ASYNC110 - looks at the result
        await asyncio.sleep(0.01)
    seconds, busy = time.perf_counter() - began, time.process_time() - cpu
    await asyncio.sleep(2)
    await knot[0].stop()
    feeding.cancel()
    await asyncio.gather(feeding, return_exceptions=True)
    return {
        "models": models,
        "seconds_to_all_jobs": round(seconds, 2),
        "cpu_ms_per_model": round(busy / models * 1000, 2),
        "pass_p99_ms": _quantile(0.99),
        "rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def _quantile(wanted: float) -> float:
    """Upper edge of the bucket that holds the quantile, in milliseconds."""
    counts: dict[float, float] = {}
    for family in telemetry.REGISTRY.collect():
        for sample in family.samples:
            if sample.name == "espalier_reconcile_duration_seconds_bucket":
                edge = float(sample.labels["le"])
                counts[edge] = counts.get(edge, 0.0) + sample.value
    total = max(counts.values(), default=0.0)
    return next((edge * 1000 for edge in sorted(counts) if counts[edge] >= wanted * total), 0.0)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("--models", type=int, default=1000)
    figures = asyncio.run(measure(parser.parse_args().models))
    width = max(map(len, figures))
    for name, value in figures.items():
        print(f"{name:<{width}}  {value}")
    target = Path(__file__).resolve().parent.parent / "out" / "bench" / "models_fleet.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
