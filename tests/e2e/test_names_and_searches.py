"""Rows with gaps and names, a search with two objectives, and one by halving: from the snapshot in S3 to an answer of the Service."""

from __future__ import annotations

import io
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import requests

from espalier_cli.demo.world import _store
from tests.e2e.harness import model_manifest, torch_engine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.harness import World

pytestmark = pytest.mark.e2e
ROWS = 300
PREPROCESSING = {"categories": {"columns": ["shade"]}, "imputation": {"strategy": "mean", "indicators": True}}


def table() -> pa.Table:
    """Two numbers that tell nothing, one of them with gaps, and a name that tells the class, sometimes missing."""
    draw = np.random.default_rng(0)
    label = draw.integers(0, 3, ROWS)
    shade = np.array(["red", "green", "blue"], dtype=object)[label]
    shade[draw.random(ROWS) < 0.05] = None
    gaps = np.where(draw.random(ROWS) < 0.2, np.nan, draw.normal(size=ROWS))
    return pa.table({"a": gaps, "b": draw.normal(size=ROWS), "shade": shade.tolist(), "label": label})


@contextmanager
def snapshot(world: World) -> Iterator[str]:
    """The rows in S3, below the namespace's own name."""
    key, body = f"{world.kube.namespace}/part-0.parquet", io.BytesIO()
    pq.write_table(table(), body)
    with _store(world.kube) as client:
        client.put_object(Bucket="datasets", Key=key, Body=body.getvalue())
    try:
        yield f"s3://datasets/{world.kube.namespace}/"
    finally:
        with _store(world.kube) as client:
            client.delete_object(Bucket="datasets", Key=key)


def asked(names: list[str | None]) -> dict[str, Any]:
    """An OIP request of so many rows; the first number is missing in each."""
    numbers = {"name": "input", "shape": [len(names), 2], "datatype": "FP32", "data": [[None, 0.0]] * len(names)}
    return {"inputs": [numbers, {"name": "categories", "shape": [len(names), 1], "datatype": "BYTES", "data": names}]}


def test_gaps_and_names_from_the_snapshot_to_an_answer(world: World) -> None:
    """Two sizes are traded for loss on the way: the status has the Pareto set, the artifact its winner."""
    search = {
        "method": "grid",
        "trials": 4,
        "space": {"regularizers.pruning.sparsity": {"choice": [0.1, 0.5]}, "engine.torch.epochs": {"choice": [2, 20]}},
        "secondObjective": {"metric": "nonzeroParameters"},
    }
    optimizer = {"adamw": {"learningRate": 0.02}}
    with snapshot(world) as uri:
        model = model_manifest(
            task={"type": "classification", "classes": ["0", "1", "2"]},
            data={
                "snapshot": {"uri": uri},
                "target": "label",
                "split": {"seed": 3},
                "preprocessing": PREPROCESSING,
            },
            engine=torch_engine(architecture={"mlp": {"hidden": [16]}}, optimizer=optimizer, batchSize=32, epochs=2),
            regularizers={"pruning": {"sparsity": 0.5, "fineTuneEpochs": 1}},
            search=search,
        )
        world.apply_rollout()
        world.apply(model)
        world.await_("v1 champion", lambda: world.champion() == "v1", 300)
    told = world.version("v1")["search"]
    assert (told["trials"], told["failed"], told["secondMetric"]) == (4, 0, "nonzeroParameters")
    front = [(point["value"], point["second"]) for point in told["pareto"]]
    assert front == sorted(front)
    assert [second for _, second in front] == sorted((second for _, second in front), reverse=True)
    assert (told["best"], told["second"]) == front[0]
    with world.kube.forward("svc/digits", 8080) as url:
        known = requests.get(f"{url}/v2/models/digits", timeout=30).json()["parameters"]["categories"]
        names = ["red", "green", "blue", "mauve", None]
        answer = requests.post(f"{url}/v2/models/digits/infer", json=asked(names), timeout=30)
        refused = requests.post(f"{url}/v2/models/digits/infer", json=asked([3]), timeout=30)  # type: ignore[list-item]
    assert known == [{"name": "shade", "values": ["blue", "green", "red"], "unknown": "ignore"}]
    labels = next(output["data"] for output in answer.json()["outputs"] if output["name"] == "label")
    assert labels[:3] == ["0", "1", "2"]
    assert (refused.status_code, "must be text" in refused.text) == (400, True)


def test_halving_promotes_one_of_three(world: World) -> None:
    """Three short fits and a whole one; the version is the whole one's."""
    search = {
        "method": "halving",
        "trials": 3,
        "halving": {"minimum": 0.33},
        "space": {"regularizers.l2.strength": {"logUniform": {"min": 1e-4, "max": 1}}},
    }
    world.apply(model_manifest(engine=torch_engine(batchSize=64, epochs=9), search=search))
    told = world.await_version("v1", "Candidate", timeout=300)["search"]
    assert (told["method"], told["trials"], told["failed"]) == ("halving", 4, 0)
