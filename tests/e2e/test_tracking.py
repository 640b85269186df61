"""TensorBoard's files of a model on the cluster: in S3 while it trains, one curve over all attempts, found from the status."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from espalier_cli.demo.world import _store
from tests.e2e.harness import model_manifest, torch_engine

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.harness import World

pytestmark = pytest.mark.e2e


def keys(client: Any, prefix: str) -> list[str]:
    """Objects below a prefix of the bucket `models`."""
    found = client.list_objects_v2(Bucket="models", Prefix=prefix).get("Contents", ())
    return [item["Key"] for item in found]


def curve(client: Any, prefix: str, folder: Path) -> list[tuple[int, float]]:
    """The validation loss as TensorBoard's own reader sees it."""
    folder.mkdir(exist_ok=True)
    for key in keys(client, prefix):
        client.download_file("models", key, str(folder / key.rpartition("/")[2]))
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars("loss/validation")]


def test_curves_grow_in_the_store_and_go_on_after_a_preemption(world: World, tmp_path: Path) -> None:
    training = {
        **model_manifest()["spec"]["training"],
        "tracking": {"tensorboard": {}},
        "checkpoint": {"interval": "2s"},
    }
    world.apply(model_manifest(engine=torch_engine(), training=training))
    root = f"{world.kube.namespace}/digits"
    prefix = f"{root}/.tracking/v1/tensorboard/"
    with _store(world.kube) as client:
        world.await_("an event file", lambda: keys(client, prefix), 300)
        assert curve(client, prefix, tmp_path / "early")  # readable before the version is there
        assert not keys(client, f"{root}/v1/")
        (pod,) = world.job_pods()
        world.kube.run("delete", "pod", pod["metadata"]["name"], "--wait=false")
        version = world.await_version("v1", "Candidate", timeout=400)
        assert version["tracking"] == {"tensorboard": f"s3://models/{prefix}"}
        body = client.get_object(Bucket="models", Key=f"{root}/v1/metrics.json")["Body"].read()
        history = json.loads(body)["history"]
        assert curve(client, prefix, tmp_path / "whole") == [
            (int(entry["epoch"]) + 1, pytest.approx(entry["validation"], rel=1e-6)) for entry in history
        ]
        attempts = {key.rpartition(".a")[2].partition(".")[0] for key in keys(client, prefix)}
        assert attempts == {"1", "2"}
