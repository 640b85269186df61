"""A search that two pods share: both run trials, one is sent away and comes back, and the winner is the one that a person finds at home."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from typer.testing import CliRunner

from espalier_cli.demo.digits import load_digits, snapshot_parquet
from espalier_cli.main import app
from tests.e2e.harness import model_manifest, torch_engine

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.harness import World

pytestmark = pytest.mark.e2e
TRIALS = 8
INDEX = "batch.kubernetes.io/job-completion-index"


def searching() -> dict[str, Any]:
    """Trials of a second or two; the best strength is inside the range, and its neighbours are so much worse that any machine finds it."""
    training = {
        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"cpu": "1", "memory": "2Gi"}},
        "retries": 0,
        "deadline": "10m",
    }
    search = {
        "method": "grid",
        "trials": TRIALS,
        "parallelism": 2,
        "space": {"regularizers.l2.strength": {"logUniform": {"min": 1e-4, "max": 1}}},
    }
    engine = torch_engine(batchSize=64, epochs=100)
    return model_manifest(engine=engine, regularizers={"l2": {"strength": 0.01}}, search=search, training=training)


class Logs:
    """Trials that each pod told of, also of pods that are gone."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.trials: dict[str, set[int]] = {}
        self.index: dict[str, int] = {}

    def look(self) -> dict[str, set[int]]:
        """Read the logs of the pods that are there; {pod: numbers}."""
        for pod in self.world.job_pods():
            name = pod["metadata"]["name"]
            self.index[name] = int(pod["metadata"]["labels"][INDEX])
            text = self.world.kube.run("logs", name, check=False)
            events = [json.loads(line) for line in text.splitlines() if line.startswith('{"time"')]
            found = {event["number"] for event in events if event["event"] == "trial"}
            self.trials.setdefault(name, set()).update(found)
        return self.trials

    def pods(self, index: int) -> list[str]:
        """Names of the pods that had this index."""
        return [name for name, own in self.index.items() if own == index]


def at_home(manifest: dict[str, Any], folder: Path) -> dict[str, Any]:
    """search.json of `espalier train` on the same data."""
    (folder / "data").mkdir()
    (folder / "data/part-0.parquet").write_bytes(snapshot_parquet(load_digits()))
    (folder / "model.yaml").write_text(yaml.safe_dump(manifest))
    arguments = [
        "train",
        "-f",
        str(folder / "model.yaml"),
        "--data",
        str(folder / "data"),
        "--out",
        str(folder / "out"),
    ]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads((folder / "out/default/digits/v1/search.json").read_bytes())
    return found


def test_two_pods_share_a_search_and_one_of_them_is_sent_away(world: World, tmp_path: Path) -> None:
    """Indexed Job with two workers; the second one's pod is deleted after its first trial. Nothing that ended is run again."""
    manifest, logs = searching(), Logs(world)
    world.apply(manifest)
    world.await_("a trial of the second worker", lambda: logs.look() and any(logs.trials[p] for p in logs.pods(1)))
    (job,) = world.kube.items("jobs")
    assert (job["spec"]["completionMode"], job["spec"]["completions"], job["spec"]["parallelism"]) == ("Indexed", 2, 2)
    (victim,) = logs.pods(1)
    world.kube.run("delete", "pod", victim, "--wait=false")
    told = world.await_(
        "progress of the search", lambda: ((world.model().get("status") or {}).get("training") or {}).get("trials")
    )
    assert told["total"] == TRIALS
    world.await_(
        "all trials",
        lambda: len(set().union(*logs.look().values())) == TRIALS or world.version("v1").get("state") == "Candidate",
    )
    version = world.await_version("v1", "Candidate", timeout=300)
    assert len(logs.pods(1)) == 2, "the second worker came back"
    every = [number for numbers in logs.trials.values() for number in numbers]
    assert sorted(every) == list(range(TRIALS)), logs.trials  # each once, the killed one by its successor
    assert {number % 2 for name in logs.pods(1) for number in logs.trials[name]} == {1}
    assert {number % 2 for name in logs.pods(0) for number in logs.trials[name]} == {0}

    search = version["search"]
    assert (search["method"], search["trials"], search["failed"], search["metric"]) == ("grid", TRIALS, 0, "valLoss")
    assert "pictures/search.png" in version["pictures"]
    best = at_home(manifest, tmp_path)["best"]
    assert (search["number"], search["params"]) == (best["number"], best["params"])
    assert search["best"] == pytest.approx(best["objective"], rel=0.02)  # another build of torch
