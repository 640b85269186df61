"""Other models: fetched by digest, refused when they answer another question, recorded in the lineage."""

from __future__ import annotations

import hashlib
import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import load

from espalier_api import artifact
from espalier_api.artifact import Manifest
from espalier_trainer import references
from espalier_trainer.errors import UNAVAILABLE, DataProblemError, InfrastructureError, InvalidConfigError
from espalier_trainer.preparing import prepare
from espalier_trainer.progress import Board
from espalier_trainer.run import World
from espalier_trainer.storage import FolderStore, ObjectStore
from tests.unit.trainer import jobs

if TYPE_CHECKING:
    from pathlib import Path

    from espalier_api.training import TrainingResult
    from espalier_trainer.prepared import Prepared
    from tests.conftest import Prove

STUDENT = "models/vision/student/v1"
RIDGE = {"sklearn": {"estimator": "ridge"}}
SHORT = {"engine": {"torch": {"architecture": {"mlp": {"hidden": [4]}}, "epochs": 1}}}
PLACE = {
    "model": {"namespace": "vision", "name": "student"},
    "artifact": {"uri": f"s3://{STUDENT}/"},
    "checkpoint": {"uri": "s3://models/vision/student/.checkpoints/v1/"},
}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One teacher for all tests: a job takes seconds."""
    folder = jobs.stage(tmp_path_factory.mktemp("teacher"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TERMINATION_LOG", str(folder / "term"))
        assert jobs.train(folder).exit_code == 0
    return folder


@pytest.fixture
def world(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TERMINATION_LOG", str(tmp_path / "term"))
    shutil.copytree(published, tmp_path, dirs_exist_ok=True)
    return tmp_path


def resolved(folder: Path, model: str = "tiny", version: str = "v1") -> dict[str, str]:
    """What the operator would write for a published version."""
    uri = f"models/vision/{model}/{version}/"
    digest = artifact.version_digest((folder / uri / artifact.MANIFEST).read_bytes())
    return {"model": model, "version": version, "uri": f"s3://{uri}", "digest": digest}


def follow(folder: Path, blocks: dict[str, Any], **changes: Any) -> TrainingResult:
    """Train a second model that refers to the first one."""
    return jobs.train(folder, **PLACE, regularizers=blocks, references={"tiny": resolved(folder)}, **changes)


def begin(folder: Path, blocks: dict[str, Any], **changes: Any) -> Prepared:
    """As far as the data, which is where references are read."""
    named = changes.pop("references", None)
    named = {"tiny": resolved(folder)} if named is None else named
    job = jobs.parsed(**PLACE, **changes, references=named, regularizers=blocks)
    return prepare(job, World(lambda uri, _: FolderStore(folder / uri.removeprefix("s3://")), Board(job)))


def test_a_prior_is_read_by_digest_and_recorded(world: Path) -> None:
    result = follow(world, {"functional": {"prior": "tiny"}, "distillation": {"teacher": "tiny"}})
    assert result.exit_code == 0, result.message
    lineage = json.loads((world / STUDENT / artifact.LINEAGE).read_bytes())
    assert lineage["references"] == {"tiny": resolved(world)}
    notes = json.loads((world / STUDENT / artifact.REGULARIZERS).read_bytes())["notes"]
    assert notes["functional.prior"] == notes["distillation.teacher"] == resolved(world)["digest"]


def test_scores_are_what_the_published_graph_answers(world: Path) -> None:
    prepared = begin(world, {"functional": {"prior": "tiny"}})
    told = prepared.fit.references["tiny"]
    assert set(told.scores) == {"train", "validation", "calibration", "test"}
    for name, scores in told.scores.items():
        expected = jobs.answer(world / jobs.VERSION, prepared.parts[name].x)["probabilities"]
        np.testing.assert_allclose(np.exp(scores), expected, rtol=1e-6)
    published = load((world / jobs.VERSION / artifact.MODEL_WEIGHTS).read_bytes())
    assert {name: w.shape for name, w in told.weights.items()} == {name: w.shape for name, w in published.items()}
    assert told.same_preprocessing  # the same rows gave the same moments


def test_values_are_standardized_like_ours(world: Path) -> None:
    shutil.rmtree(world / "models")
    jobs.stage(world, jobs.line())
    task = {"task": {"type": "regression"}}
    assert jobs.train(world, **task, regularizers={}, engine=RIDGE).exit_code == 0
    prepared = begin(world, {"functional": {"prior": "tiny"}}, **task)
    values = jobs.answer(world / jobs.VERSION, prepared.parts["test"].x)["value"][:, 0]
    ours = (values - prepared.parts["train"].y.mean()) / prepared.parts["train"].y.std()
    np.testing.assert_allclose(prepared.fit.references["tiny"].scores["test"][:, 0], ours, rtol=1e-5, atol=1e-6)


def test_weights_come_with_their_preprocessing(world: Path) -> None:
    """Other rows, other moments: who holds on to weights keeps the moments that these were fitted with."""
    jobs.stage(world, jobs.gaussians(seed=7))
    told = json.loads((world / jobs.VERSION / artifact.PREPROCESSING).read_bytes())
    kept = begin(world, {"functional": {"prior": "tiny", "kind": "l2sp"}})
    assert kept.preprocessor.to_json() == {key: told[key] for key in kept.preprocessor.to_json()}
    assert kept.fit.references["tiny"].same_preprocessing
    with pytest.raises(InvalidConfigError, match=r"R33: data.preprocessing: it is not that of references.tiny"):
        begin(
            world,
            {"functional": {"prior": "tiny", "kind": "l2sp"}},
            data={**jobs.job()["data"], "preprocessing": {"scaling": "minMax"}},
        )
    fitted = begin(world, {"functional": {"prior": "tiny"}})
    assert fitted.preprocessor.to_json()["digest"] != told["digest"]
    assert not fitted.fit.references["tiny"].same_preprocessing


def test_a_previous_model_that_is_none_yet_lets_the_block_rest(world: Path) -> None:
    """The same bits as without the block, and the notes say why."""
    assert jobs.train(world, **PLACE, **SHORT, regularizers={"functional": {}}).exit_code == 0
    notes = json.loads((world / STUDENT / artifact.REGULARIZERS).read_bytes())["notes"]
    assert notes["functional.prior"] == "none: this is the first version"
    rested = load((world / STUDENT / artifact.MODEL_WEIGHTS).read_bytes())
    shutil.rmtree(world / STUDENT)
    assert jobs.train(world, **PLACE, **SHORT, regularizers={}).exit_code == 0
    for name, weight in load((world / STUDENT / artifact.MODEL_WEIGHTS).read_bytes()).items():
        np.testing.assert_array_equal(weight, rested[name])


def test_a_previous_model_that_the_operator_did_not_resolve_is_refused(world: Path) -> None:
    with pytest.raises(InvalidConfigError, match=r"R33.*functional"):
        begin(world, {"functional": {}}, references={}, parent="v3")


@pytest.mark.parametrize("file", [artifact.MANIFEST, artifact.MODEL_ONNX, artifact.MODEL_WEIGHTS])
@pytest.mark.parametrize("how", ["missing", "tampered"])
def test_a_missing_or_tampered_reference_is_a_data_problem(file: str, how: str, world: Path) -> None:
    named = {"tiny": resolved(world)}
    path = world / jobs.VERSION / file
    path.unlink() if how == "missing" else path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(DataProblemError, match=rf"references\.tiny.*{file}"):
        begin(world, {"functional": {"prior": "tiny"}}, references=named)


def _other_classes(folder: Path) -> dict[str, Any]:
    jobs.stage(folder, jobs.gaussians(classes=2))
    return {}


def _other_features(folder: Path) -> dict[str, Any]:
    jobs.stage(folder, jobs.gaussians().drop_columns(["f4"]))
    return {}


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "classes": (_other_classes, {"functional": {"prior": "tiny"}}, "classes"),
    "features": (_other_features, {"functional": {"prior": "tiny"}}, "features"),
    "features of weights": (_other_features, {"functional": {"prior": "tiny", "kind": "l2sp"}}, "features"),
    "architecture": (
        lambda _: {"engine": {"torch": {"architecture": {"mlp": {"hidden": [9]}}, "epochs": 1}}},
        {"functional": {"prior": "tiny", "kind": "l2sp"}},
        "architecture",
    ),
    "not resolved": (lambda _: {}, {"functional": {"prior": "big"}}, "no version to read"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_of_another_question_is_refused(name: str, world: Path) -> None:
    change, blocks, word = REFUSED[name]
    with pytest.raises(InvalidConfigError, match=f"R33.*{word}"):
        begin(world, blocks, **change(world))


def test_a_smoothed_teacher_is_refused(world: Path) -> None:
    """The teacher's own job is in its lineage."""
    told = json.loads((world / jobs.VERSION / artifact.LINEAGE).read_bytes())["job"]
    manifest = Manifest.model_validate_json((world / jobs.VERSION / artifact.MANIFEST).read_bytes())
    assert references.facts(manifest, told, {}).label_smoothing == 0
    told["regularizers"]["labelSmoothing"] = {"epsilon": 0.2}
    assert references.facts(manifest, told, {}).label_smoothing == 0.2
    told["regularizers"] |= {"labelSmoothing": {}, "privacy": {}}
    facts = references.facts(manifest, told, {})
    assert (facts.label_smoothing, facts.private) == (0.1, True)  # the API's default


LEANING: dict[str, dict[str, Any]] = {
    "distillation": {"teacher": "tiny"},
    "functional": {"prior": "tiny"},
    "ewc": {"reference": "tiny"},
    "trustRegion": {"reference": "tiny"},
    "modelSoup": {"candidates": ["tiny", "twin"]},
}


@pytest.mark.parametrize("block", LEANING)
def test_a_private_fit_hears_no_model_that_was_trained_in_the_open(block: str, world: Path, proof: Prove) -> None:
    """R5: refused before the reference's graph answers a row; one that was trained with privacy itself is heard."""

    def resolve() -> dict[str, Any]:
        return {"references": {name: resolved(world) for name in ("tiny", "twin")}}

    blocks = {block: LEANING[block], "privacy": {"epsilon": 8.0}}
    heard: list[object] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(references, "ready", lambda *told: heard.append(told) or {})
        with pytest.raises(InvalidConfigError, match=rf"R5: .*{block}.*without privacy"):
            begin(world, blocks, **resolve())
    proof("R5", "definition: references without privacy that a private fit hears", len(heard), at_most=0)
    _retold(world, "privacy", {"epsilon": 8.0})
    assert "tiny" in begin(world, blocks, **resolve()).fit.references


def _retold(folder: Path, block: str, config: dict[str, Any]) -> None:
    """The published version as if it had been trained with one more block: its lineage tells so, its manifest the new digest."""
    version = folder / jobs.VERSION
    lineage = json.loads((version / artifact.LINEAGE).read_bytes())
    lineage["job"]["regularizers"][block] = config
    content = json.dumps(lineage).encode()
    (version / artifact.LINEAGE).write_bytes(content)
    manifest = json.loads((version / artifact.MANIFEST).read_bytes())
    manifest["files"][artifact.LINEAGE] |= {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    (version / artifact.MANIFEST).write_bytes(json.dumps(manifest).encode())


def test_a_forest_teaches_a_network(world: Path) -> None:
    """A teacher is its graph; what made it does not matter. It has no weights to hold on to."""
    shutil.rmtree(world / "models")
    forest = {"sklearn": {"estimator": "randomForest", "params": {"n_estimators": 20}}}
    assert jobs.train(world, engine=forest, regularizers={}).exit_code == 0
    assert np.isfinite(begin(world, {"distillation": {"teacher": "tiny"}}).fit.references["tiny"].scores["train"]).all()
    with pytest.raises(InvalidConfigError, match=r"R33.*architecture"):
        begin(world, {"functional": {"prior": "tiny", "kind": "l2sp"}})


def test_a_silent_store_is_tried_again(world: Path) -> None:
    class Silent(FolderStore):
        def read(self, key: str) -> bytes | None:
            raise InfrastructureError(f"S3: cannot read {key}: timeout")

    job = jobs.parsed(
        **PLACE,
        regularizers={"functional": {"prior": "tiny"}},
        references={"tiny": {"model": "tiny", "version": "v1", "uri": "s3://m/v1/", "digest": f"sha256:{'0' * 64}"}},
    )

    def opened(_: str, field: str) -> ObjectStore:
        assert field == "references.tiny.uri"
        return Silent(world)

    with pytest.raises(InfrastructureError) as failure:
        references.fetch(job, opened)
    assert failure.value.exit_code == UNAVAILABLE
