"""A job that declares quantization: what is judged, published and served is the graph in integers. And golden inputs under privacy."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from espalier_api import artifact
from espalier_api.artifact import Manifest
from espalier_api.training import TrainingJob
from espalier_server import golden as server_golden
from espalier_server import model as server_model
from espalier_server.artifact import fetch
from espalier_trainer.evaluation import rounded, size
from espalier_trainer.evaluation.latency import Runtime
from espalier_trainer.export import package
from espalier_trainer.preprocessing import Preprocessor
from tests.unit.server.tiny import Version
from tests.unit.trainer import jobs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Prove

WIDE = {
    "torch": {"architecture": {"mlp": {"hidden": [256, 256]}}, "optimizer": {"adamw": {}}, "epochs": 3, "batchSize": 32}
}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERMINATION_LOG", str(tmp_path / "term"))
    jobs.stage(tmp_path)


class Folder:
    """A published version as the server's store."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, name: str) -> Iterator[bytes]:
        yield (self.path / name).read_bytes()


def operators(content: bytes) -> set[str]:
    return {node.op_type for node in onnx.load_model_from_string(content).graph.node}


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("mode", ["static", "dynamic", "qat"])
def test_the_graph_in_integers_is_judged_and_served(mode: str, task: str, tmp_path: Path, proof: Prove) -> None:
    if task == "regression":
        jobs.stage(tmp_path, jobs.line())
    blocks: dict[str, Any] = {"quantization": {"mode": mode}, "weightDecay": {}}
    if task == "classification":
        blocks["calibration"] = {}
    result = jobs.train(tmp_path, engine=WIDE, regularizers=blocks, task={"type": task})
    assert result.exit_code == 0, result.message
    folder = tmp_path / jobs.VERSION
    manifest = Manifest.model_validate_json((folder / artifact.MANIFEST).read_bytes())
    assert manifest.task.served == artifact.MODEL_INT8
    served, twin = ((folder / name).read_bytes() for name in (artifact.MODEL_INT8, artifact.MODEL_ONNX))
    assert "MatMulInteger" in operators(served)
    assert not operators(twin) & {"MatMulInteger", "QuantizeLinear"}
    note = json.loads((folder / artifact.METRICS).read_bytes())["notes"]["quantization"]
    proof(
        "quantization", "wide mlp: bytes of the graph in integers per byte of its twin", note["sizeRatio"], at_most=0.35
    )
    assert note["sizeRatio"] == len(served) / len(twin)
    assert 0 <= note["disagreement"] < 0.1
    assert note["rowsBetweenSteps"] == 0
    assert manifest.metrics["artifactBytes"].value == len(served)
    assert note["latencySeconds"][artifact.MODEL_INT8].keys() == manifest.metrics.keys() & {
        "latencyP50Seconds", "latencyP95Seconds", "latencyP99Seconds",
    }  # fmt: skip
    with np.load(folder / artifact.GOLDEN) as recorded:
        found = Runtime(served)(recorded["input"])
        for name in set(recorded.files) - {"input"}:
            assert np.array_equal(found[name], recorded[name])


def test_the_server_loads_the_graph_that_the_manifest_names(tmp_path: Path) -> None:
    assert jobs.train(tmp_path, engine=WIDE, regularizers={"quantization": {}}).exit_code == 0
    folder = tmp_path / jobs.VERSION
    digest = artifact.version_digest((folder / artifact.MANIFEST).read_bytes())
    config = Version().config(
        namespace="vision", model="tiny", version="v1", artifact_uri=f"s3://{jobs.VERSION}/", digest=digest
    )
    fetched = fetch(Folder(folder), config, tmp_path / "local")  # type: ignore[arg-type]
    assert fetched.model_path.name == artifact.MODEL_INT8
    assert not (tmp_path / "local" / artifact.MODEL_ONNX).exists()
    assert fetched.model_bytes == (folder / artifact.MODEL_INT8).stat().st_size
    report = server_golden.check(server_model.load(fetched), tmp_path / "local" / artifact.GOLDEN)
    assert report.max_abs_diff <= 1e-6


def test_plain_jobs_serve_what_they_always_did(tmp_path: Path) -> None:
    assert jobs.train(tmp_path).exit_code == 0
    folder = tmp_path / jobs.VERSION
    manifest = Manifest.model_validate_json((folder / artifact.MANIFEST).read_bytes())
    assert manifest.task.served == artifact.MODEL_ONNX
    assert artifact.MODEL_INT8 not in manifest.files


# --- pure parts -----------------------------------------------------------------------------------------------------------
def test_disagreement_and_drop_by_hand() -> None:
    labels, others, y = np.array([0, 1, 1, 0]), np.array([0, 0, 1, 0]), np.array([0, 1, 1, 1])
    p, q = np.full((4, 2), 0.5), np.full((4, 2), 0.6)
    told = rounded.compare({"label": labels, "probabilities": p}, {"label": others, "probabilities": q}, y)
    assert told == {"disagreement": 0.25, "largestDifference": pytest.approx(0.1), "accuracyDrop": 0.25}
    one, other, y = np.array([[1.0], [3.0]]), np.array([[2.0], [3.0]]), np.array([1.0, 3.0])
    told = rounded.compare({"value": one}, {"value": other}, y)
    assert told == pytest.approx({"disagreement": 0.5**0.5, "largestDifference": 1.0, "rmseRise": 0.5**0.5})


def test_rows_that_lie_between_two_steps_are_told_apart() -> None:
    expected = {"label": np.array([0, 1]), "probabilities": np.array([[0.9, 0.1], [0.2, 0.8]])}
    found = {"label": np.array([0, 1]), "probabilities": np.array([[0.9, 0.1], [0.201, 0.799]])}
    assert rounded.steady(expected, found, 1.0).tolist() == [True, False]
    assert rounded.steady({"value": np.array([[50.0]])}, {"value": np.array([[50.004]])}, 100.0).tolist() == [True]


def test_only_the_served_graph_of_a_quantized_version_counts() -> None:
    graph = onnx.helper.make_graph([], "g", [], [])
    content = onnx.helper.make_model(graph).SerializeToString()
    files = {"model.onnx": content * 1, "model.int8.onnx": content, "model.safetensors": b"1234"}
    assert size.model_bytes(files, "model.int8.onnx") == len(content)
    assert size.model_bytes(files) == 2 * len(content) + 4


# --- privacy --------------------------------------------------------------------------------------------------------------
def test_golden_inputs_under_privacy_are_nobodys(proof: Prove) -> None:
    """R37: drawn from the preprocessor's moments, a function of the seed; without privacy they are rows of the test split."""
    draw = np.random.default_rng(0)
    x = (draw.normal(size=(500, 4)) * [1, 2, 30, 0] + [0, 5, -100, 7]).astype(np.float32)
    factor = np.array([1, 1 / 2, 1 / 30, 0], dtype=np.float32)
    preprocessor = Preprocessor(("a", "b", "c", "d"), np.array([0, 5, -100, 7], dtype=np.float32), factor)
    drawn = package.drawn_rows(preprocessor, 4000, 3)
    assert np.array_equal(drawn, package.drawn_rows(preprocessor, 4000, 3))
    assert not np.array_equal(drawn, package.drawn_rows(preprocessor, 4000, 4))
    assert not (drawn[:, None, :3] == x[None, :, :3]).all(axis=2).any()
    moments = np.abs((drawn.mean(0) - preprocessor.location) / np.maximum(preprocessor.spread, 1)).max()
    proof("R37", "closed form: mean of drawn golden inputs, in standard deviations", float(moments), at_most=0.06)
    assert drawn.std(0) == pytest.approx(preprocessor.spread, rel=0.05)


def test_a_private_job_takes_its_golden_inputs_from_there() -> None:
    told: dict[str, Any] = jobs.job()
    x = np.arange(300, dtype=np.float32).reshape(100, 3)
    preprocessor = Preprocessor(("a", "b", "c"), x.mean(0), np.ones(3, dtype=np.float32))

    class Test:
        def __len__(self) -> int:
            return len(self.x)

    test: Any = Test()
    test.x = x
    plain = TrainingJob.model_validate(told)
    private = TrainingJob.model_validate(told | {"regularizers": {"privacy": {}}})
    assert package._inputs(test, preprocessor, plain) is x
    found = package._inputs(test, preprocessor, private)
    assert found.shape == (100, 3)
    assert not {tuple(row) for row in found.tolist()} & {tuple(row) for row in x.tolist()}
