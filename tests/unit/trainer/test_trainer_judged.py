"""Whole jobs: what is asked about a fit reaches the manifest, the status and the pictures."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pyarrow as pa
import pytest
from onnx import TensorProto, helper

from espalier_api import artifact
from espalier_api.artifact import Manifest
from espalier_trainer.errors import ParityError
from espalier_trainer.evaluation import latency, size
from tests.unit.trainer import jobs

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERMINATION_LOG", str(tmp_path / "term"))
    jobs.stage(tmp_path)


def published(folder: Path, version: str = jobs.VERSION) -> tuple[Manifest, dict[str, Any]]:
    found = folder / version
    recorded: dict[str, Any] = json.loads((found / artifact.METRICS).read_bytes())
    return Manifest.model_validate_json((found / "manifest.json").read_bytes()), recorded


def test_what_gates_may_ask_is_in_the_manifest(tmp_path: Path) -> None:
    gaussians = jobs.gaussians(1800, seed=2)
    jobs.stage(tmp_path, gaussians.set_column(5, "label", pa.array(np.minimum(gaussians["label"].to_numpy(), 1))))
    jobs.train(
        tmp_path,
        robustness={"epsilon": 0.1, "steps": 5},
        groupMetrics=["g"],
        seeds=2,
        budgets={"artifactBytes": 100.0},
    )
    manifest, recorded = published(tmp_path)
    expected = {
        *("falsePositiveRate", "averagePrecision", "adaptiveCalibrationError", "classwiseCalibrationError", "aurc"),
        *("rejectRate", "selectiveRisk", "corruptionAccuracy", "robustAccuracy", "predictionVariance"),
        *("mutualInformation", "latencyP50Seconds", "latencyP99Seconds", "peakMemoryBytes"),
        *("demographicParityDifference", "equalizedOddsDifference", "demographicParityDifference/g=*"),
        *("recall/g=u", "falsePositiveRate/g=v", "rejectRate/g=u"),
    }
    assert expected <= set(manifest.metrics)
    told = manifest.metrics
    assert told["robustAccuracy"].value <= told["accuracy"].value
    assert told["latencyP50Seconds"].value <= told["latencyP95Seconds"].value <= told["latencyP99Seconds"].value
    assert told["demographicParityDifference"].value == told["demographicParityDifference/g=*"].value
    assert not recorded["notes"]["robustness"]["gradientMasking"]
    assert recorded["notes"]["robustness"]["losses"] == sorted(recorded["notes"]["robustness"]["losses"])
    assert [d["mode"] for d in recorded["diagnosis"] if d["mode"] == "F5"] == ["F5"]
    files = {n for n in manifest.files if n.startswith(artifact.PICTURES)}
    assert files == {f"pictures/{n}.png" for n in ("curves", "contributions", "reliability", "risk-coverage")}
    card = (tmp_path / jobs.VERSION / artifact.MODEL_CARD).read_text()
    assert all(f"]({name})" in card for name in files)


def test_a_version_is_compared_with_the_one_before(tmp_path: Path) -> None:
    jobs.train(tmp_path)
    second = "models/vision/tiny/v2"
    parent = {"parent": "v1", "parentArtifact": {"uri": f"s3://{jobs.VERSION}/"}}
    result = jobs.train(tmp_path, version="v2", artifact={"uri": f"s3://{second}/"}, **parent)
    manifest, recorded = published(tmp_path, second)
    assert manifest.metrics["churn"].value == 0.0  # the same job once more
    assert recorded["notes"]["churn"] == "beside v1"
    assert "F8" not in [d.mode for d in result.diagnosis]
    third = "models/vision/tiny/v3"
    jobs.train(
        tmp_path,
        version="v3",
        artifact={"uri": f"s3://{third}/"},
        regularizers={"l2": {"strength": 1.0}},
        **parent,
    )
    assert published(tmp_path, third)[0].metrics["churn"].value > 0.0


def test_a_predecessor_that_is_gone_or_changed_is_no_obstacle(tmp_path: Path) -> None:
    sklearn = {"sklearn": {"estimator": "logisticRegression"}}
    asked = {"parent": "v0", "parentArtifact": {"uri": "s3://models/vision/tiny/v0/"}, "engine": sklearn}
    jobs.train(tmp_path, regularizers={"l2": {}}, robustness={"epsilon": 0.1}, **asked)
    manifest, recorded = published(tmp_path)
    assert "churn" not in manifest.metrics
    if "robustAccuracy" not in manifest.metrics:
        assert "reason" in recorded["notes"]["robustness"]
    (tmp_path / jobs.VERSION / artifact.MODEL_ONNX).write_bytes(b"changed")
    second = "models/vision/tiny/v2"
    parent = {"parent": "v1", "parentArtifact": {"uri": f"s3://{jobs.VERSION}/"}}
    jobs.train(
        tmp_path, version="v2", artifact={"uri": f"s3://{second}/"}, regularizers={"l2": {}}, engine=sklearn, **parent
    )
    assert "churn" not in published(tmp_path, second)[0].metrics


# --- M6, M7 -----------------------------------------------------------------------------------------------------------
def test_weights_beside_the_graph_are_counted_and_missed() -> None:
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value="weights.bin")
    graph = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["y"])],
        "g",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
        [weight],
    )
    model = helper.make_model(graph).SerializeToString()
    assert size.sidecars(model) == {"weights.bin"}
    files = {"model.onnx": model, "weights.bin": b"12345678", "golden.npz": b"no model"}
    assert size.model_bytes(files) == len(model) + 8
    with pytest.raises(ParityError, match=r"model\.onnx keeps weights in 'weights\.bin'"):
        size.model_bytes({"model.onnx": model})
    assert onnx.load_model_from_string(model).graph.initializer[0].name == "w"


def test_quantiles_have_order_statistic_intervals() -> None:
    times = np.arange(1, 1001) / 1000
    told = latency.quantile(times, 0.95)
    assert told.value == pytest.approx(np.quantile(times, 0.95))
    assert (told.low, told.high, told.n) == (pytest.approx(0.937), pytest.approx(0.965), 1000)
    assert size.peak_memory_bytes() > 50e6  # numpy and onnx alone
