"""Nothing that was changed, cut, lost or swapped is ever served."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from espalier_server.artifact import fetch
from espalier_server.errors import ArtifactError
from espalier_server.golden import check
from espalier_server.model import OnnxModel, load
from tests.unit.server.tiny import (
    Version,
    classifier_files,
    classifier_graph,
    golden_rows,
    npz,
    regressor_files,
    regressor_graph,
    softmax,
    task,
)

if TYPE_CHECKING:
    from pathlib import Path


def test_a_good_version_is_verified_and_only_what_is_needed_is_kept(tmp_path: Path) -> None:
    version = Version()
    (tmp_path / "leftover").write_text("of a container that was killed")
    artifact = fetch(version, version.config(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["golden.npz", "model.onnx", "reference.json"]
    assert artifact.manifest.model == "digits"
    assert artifact.model_bytes == len(version.files["model.onnx"])
    assert sorted(version.reads) == sorted([*version.files, "manifest.json"])


@pytest.mark.parametrize("name", sorted(classifier_files()))
@pytest.mark.parametrize("tamper", ["flip", "cut", "extend", "empty"])
def test_every_changed_file_is_found(tmp_path: Path, name: str, tamper: str) -> None:
    version = Version()
    config = version.config()
    content = version.files[name]
    flipped = bytes([content[0] ^ 1]) + content[1:]
    version.files[name] = {"flip": flipped, "cut": content[:-1], "extend": content + b"x", "empty": b""}[tamper]
    with pytest.raises(ArtifactError, match=name.replace(".", r"\.")):
        fetch(version, config, tmp_path)
    assert not (tmp_path / name).exists()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(st.integers(0), st.integers(1, 255))
def test_any_changed_byte_of_the_manifest_is_found(tmp_path: Path, position: int, change: int) -> None:
    version = Version()
    config = version.config()
    changed = bytearray(version.manifest)
    changed[position % len(changed)] ^= change
    version.manifest = bytes(changed)
    with pytest.raises(ArtifactError, match="is not the intended"):
        fetch(version, config, tmp_path)
    assert version.reads == ["manifest.json"]


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"namespace": "other"}, "namespace is 'other'"),
        ({"model": "other"}, "model is 'other'"),
        ({"version": "v9"}, "version is 'v9'"),
        ({"kind": "Other"}, "kind"),
        ({"files": {}}, r"model\.onnx, .* not listed"),
        ({"files": {"model.onnx": {"sha256": "x", "size": 1}}}, r"files\.model\.onnx\.sha256"),
        ({"task": None}, "task"),
    ],
)
def test_a_manifest_of_something_else_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    version = Version()
    version.seal(**changes)
    with pytest.raises(ArtifactError, match=message):
        fetch(version, version.config(), tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "/etc/passwd",
        "a/b",
        "pictures/../a",
        "pictures/.a",
        ".hidden",
        "",
        "manifest.json",
        "x" * 200,
        "a\x00b",
    ],
)
def test_file_names_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    version = Version()
    version.files[name] = b"evil"
    version.seal()
    with pytest.raises(ArtifactError, match="not a plain file name"):
        fetch(version, version.config(), tmp_path / "version")
    assert list(tmp_path.iterdir()) == [tmp_path / "version"]


def test_a_manifest_with_absurd_sizes_is_refused_before_any_download(tmp_path: Path) -> None:
    version = Version()
    files = json.loads(version.manifest)["files"]
    version.seal(files=files | {"model.onnx": {"sha256": "0" * 64, "size": 2**50}})
    with pytest.raises(ArtifactError, match="at most"):
        fetch(version, version.config(), tmp_path)
    assert version.reads == ["manifest.json"]


def test_an_endless_manifest_is_refused(tmp_path: Path) -> None:
    version = Version()
    config = version.config()
    version.manifest = b" " * (5 << 20)
    with pytest.raises(ArtifactError, match="longer than"):
        fetch(version, config, tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"[" * 100_000])
def test_a_broken_reference_is_refused(tmp_path: Path, content: bytes) -> None:
    version = Version()
    version.files["reference.json"] = content
    version.seal()
    with pytest.raises(ArtifactError, match=r"reference\.json"):
        fetch(version, version.config(), tmp_path).reference()


# --- the graph -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("content", [b"", b"not a graph", classifier_graph()[:100]])
def test_a_broken_graph_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"model\.onnx"):
        OnnxModel(str(path), task())


@pytest.mark.parametrize(
    "graph,kind,classes,message",
    [
        (regressor_graph(), "classification", ("a", "b", "c"), "output label, probabilities is missing"),
        (classifier_graph(), "regression", (), "output value is missing"),
        (classifier_graph(), "classification", ("a", "b"), "has 2 classes"),
    ],
)
def test_a_graph_that_is_not_what_the_manifest_promises(
    tmp_path: Path, graph: bytes, kind: str, classes: tuple[str, ...], message: str
) -> None:
    (tmp_path / "model.onnx").write_bytes(graph)
    with pytest.raises(ArtifactError, match=message):
        OnnxModel(str(tmp_path / "model.onnx"), task(kind, classes))


def test_other_features_than_the_manifests(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(classifier_graph())
    with pytest.raises(ArtifactError, match=r"one float tensor 'input' \[rows, 2\]"):
        OnnxModel(str(tmp_path / "model.onnx"), task().model_copy(update={"features": ("a", "b")}))


# --- golden inputs ---------------------------------------------------------------------------------------------------
def model_of(version: Version, folder: Path) -> OnnxModel:
    return load(fetch(version, version.config(), folder))


def test_golden_inputs_are_answered_as_in_training(tmp_path: Path) -> None:
    report = check(model_of(Version(), tmp_path), tmp_path / "golden.npz")
    assert report.n == 64
    assert 0 <= report.max_abs_diff < 1e-6
    assert report.cost.is_small(200)
    assert not report.cost.is_small(1 << 20)


def test_large_values_of_a_regression_may_differ_by_their_float32_spacing(tmp_path: Path) -> None:
    rows = golden_rows() * 1e6
    exact = rows.astype(np.float64) @ np.array([[1.0], [2.0], [3.0]])
    files = regressor_files() | {"golden.npz": npz(input=rows, value=exact)}
    assert (
        check(model_of(Version(files=files, kind="regression"), tmp_path), tmp_path / "golden.npz").max_abs_diff > 1e-4
    )


ROWS = golden_rows()
PROBABILITIES = softmax(ROWS)
LABEL = PROBABILITIES.argmax(axis=1)


@pytest.mark.parametrize(
    "arrays,message",
    [
        ({"label": LABEL, "probabilities": PROBABILITIES + 2e-4}, "differs by 0.0002"),
        ({"label": LABEL, "probabilities": PROBABILITIES * np.nan}, "differs"),
        ({"label": (LABEL + 1) % 3, "probabilities": PROBABILITIES}, "label of row 0 differs"),
        ({"probabilities": PROBABILITIES}, "'label' is missing"),
        ({"label": LABEL}, "'probabilities' is missing"),
        ({"label": LABEL[:5], "probabilities": PROBABILITIES}, "label is"),
        ({"label": LABEL.astype(str), "probabilities": PROBABILITIES}, "label is"),
        ({"input": ROWS[:, :2], "label": LABEL, "probabilities": PROBABILITIES}, r"needs \[n, 3\]"),
        ({"input": ROWS[:0], "label": LABEL, "probabilities": PROBABILITIES}, "n > 0"),
        ({"input": ROWS.astype(object), "label": LABEL, "probabilities": PROBABILITIES}, "cannot be read"),
    ],
)
def test_another_answer_than_in_training_is_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    files = classifier_files() | {"golden.npz": npz(**({"input": ROWS} | arrays))}
    with pytest.raises(ArtifactError, match=message):
        check(model_of(Version(files=files), tmp_path), tmp_path / "golden.npz")


def test_a_tie_may_be_decided_either_way(tmp_path: Path) -> None:
    rows = np.array([[1.0, 1.0, 0.0]], dtype=np.float32)
    for label, fits in ((1, True), (2, False)):
        golden = npz(input=rows, label=np.array([label]), probabilities=softmax(rows))
        model = model_of(Version(files=classifier_files() | {"golden.npz": golden}), tmp_path)
        if fits:
            assert check(model, tmp_path / "golden.npz").n == 1
        else:
            with pytest.raises(ArtifactError, match="label of row 0"):
                check(model, tmp_path / "golden.npz")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", npz(input=ROWS)[:200]])
def test_a_broken_golden_file_is_refused(tmp_path: Path, content: bytes) -> None:
    files = classifier_files() | {"golden.npz": content}
    with pytest.raises(ArtifactError, match=r"golden\.npz"):
        check(model_of(Version(files=files), tmp_path), tmp_path / "golden.npz")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(st.integers(0), st.integers(1, 255))
def test_a_changed_golden_file_is_refused_or_harmless(tmp_path: Path, position: int, change: int) -> None:
    """Even with a manifest that agrees: never a crash, never another kind of error."""
    content = bytearray(npz(input=ROWS, label=LABEL, probabilities=PROBABILITIES))
    content[position % len(content)] ^= change
    files = classifier_files() | {"golden.npz": bytes(content)}
    model = model_of(Version(files=files), tmp_path)
    with suppress(ArtifactError):
        check(model, tmp_path / "golden.npz")


def test_pictures_may_lie_in_a_folder_and_are_verified_but_not_kept(tmp_path: Path) -> None:
    version = Version()
    version.files["pictures/curves.png"] = b"png"
    version.seal()
    fetched = fetch(version, version.config(), tmp_path)
    assert not (fetched.folder / "pictures").exists()
    version.files["pictures/curves.png"] = b"other"
    with pytest.raises(ArtifactError, match=r"pictures/curves\.png"):
        fetch(version, version.config(), tmp_path)
