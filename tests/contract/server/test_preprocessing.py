"""A version that the trainer made from gaps and names, served by the real process: its answers to HTTP are the trainer's own."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from espalier_api.artifact import MANIFEST, Manifest
from tests.contract.server.conftest import publish
from tests.unit.server.tiny import Version
from tests.unit.trainer import jobs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import httpx
    import pyarrow as pa

    from tests.contract.seaweedfs import S3
    from tests.contract.server.conftest import Served

PLACE = "models/vision/digits/v4"
STEPS = {"categories": {"columns": ["shade"]}, "imputation": {"strategy": "mean", "indicators": True}}


def table() -> pa.Table:
    """Gaussians with a name that tells the class, and gaps in one number and in the name."""
    base, draw = jobs.gaussians(), np.random.default_rng(1)
    label = base["label"].to_numpy()
    shade = np.array(["red", "green", "blue"], dtype=object)[label]
    first = base["f0"].to_numpy().copy()
    first[draw.random(len(label)) < 0.2], shade[draw.random(len(label)) < 0.1] = np.nan, None
    return base.set_column(0, "f0", [first]).append_column("shade", [shade.tolist()])


def trained(folder: Path, **steps: Any) -> Version:
    """As published, in memory."""
    jobs.stage(folder, table())
    data = {**jobs.job()["data"], "preprocessing": {**STEPS, **steps}}
    place = {"model": {"namespace": "vision", "name": "digits"}, "version": "v4", "artifact": {"uri": f"s3://{PLACE}/"}}
    assert jobs.train(folder, data=data, **place).exit_code == 0
    content = (folder / PLACE / MANIFEST).read_bytes()
    names = Manifest.model_validate_json(content).files
    made = Version(files={name: (folder / PLACE / name).read_bytes() for name in names})
    made.manifest = content
    return made


def ask(served: Served, numbers: list[list[float | None]], names: list[str | None]) -> httpx.Response:
    """Rows of five numbers and one name."""
    first = {"name": "input", "shape": [len(numbers), 5], "datatype": "FP32", "data": numbers}
    second = {"name": "categories", "shape": [len(names), 1], "datatype": "BYTES", "data": names}
    return served.client.post("/v2/models/digits/infer", json={"inputs": [first, second]})


@pytest.fixture
def version(s3: S3, serve: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Version:
    """Trained here and now, uploaded."""
    monkeypatch.setenv("TERMINATION_LOG", str(tmp_path / "term"))
    made = trained(tmp_path)
    publish(s3, made)
    return made


def test_null_and_unknown_names_get_the_trainers_answers(
    serve: Callable[..., Any], version: Version, tmp_path: Path
) -> None:
    golden = np.load(tmp_path / PLACE / "golden.npz")
    values = Manifest.model_validate_json(version.manifest).task.vocabulary["shade"]
    numbers = [[None if np.isnan(v) else float(v) for v in row[:5]] for row in golden["input"]]
    names = [None if np.isnan(c) else "mauve" if c < 0 else values[int(c)] for c in golden["input"][:, 5]]
    assert {None, "mauve"} < set(names)
    assert any(None in row for row in numbers)
    with serve(version.config()) as served:
        served.await_status("/v2/health/ready", 200)
        told = served.client.get("/v2/models/digits").json()
        answer = ask(served, numbers, names).json()
        metrics = served.client.get("/metrics").text
    assert [tensor["name"] for tensor in told["inputs"]] == ["input", "categories"]
    assert told["parameters"]["categories"] == [{"name": "shade", "values": list(values), "unknown": "ignore"}]
    label, probabilities = answer["outputs"]
    np.testing.assert_allclose(np.reshape(probabilities["data"], (-1, 3)), golden["probabilities"], atol=1e-4)
    assert label["data"] == [str(index) for index in golden["label"]]
    counted = [line for line in metrics.splitlines() if line.startswith("model_feature_observations_total{")]
    shades = [float(line.rpartition(" ")[2]) for line in counted if 'feature="shade"' in line]
    other, missing = names.count("mauve"), names.count(None)
    assert (sum(shades), shades[-2:]) == (len(names), [other, missing])


def test_refusals_name_the_field(serve: Callable[..., Any], version: Version) -> None:
    row: list[list[float | None]] = [[1.0, 2.0, 3.0, 4.0, 5.0]]
    with serve(version.config()) as served:
        served.await_status("/v2/health/ready", 200)
        post = served.client.post
        for answer, field in (
            (ask(served, row, ["red", "red"]), "inputs[1].shape: has 2 rows, input has 1"),
            (ask(served, row, [3]), "inputs[1].data[0]: must be text (a value of shade), is 3"),  # type: ignore[list-item]
            (ask(served, [["x", 2.0, 3.0, 4.0, 5.0]], ["red"]), "inputs[0].data[0]: must be a number of FP32"),  # type: ignore[list-item]
            (post("/v2/models/digits/infer", json={"inputs": []}), "inputs: must be a list with one tensor each named"),
        ):
            assert answer.status_code == 400
            assert json.loads(answer.text)["error"].startswith(field), answer.text
