"""Tags are content hashes: what changes an image changes its tag, and nothing else does."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from images import catalog, recipe
from images.catalog import IMAGES, Image, Made
from images.errors import ImageError

if TYPE_CHECKING:
    from pathlib import Path

DOCKERFILE = """\
ARG BASE_IMAGE=python:3.13-slim
ARG DEPS=deps
FROM ${BASE_IMAGE} AS deps
COPY requirements/demo.txt /tmp/

FROM ${DEPS}
COPY api/pkg /app/pkg
COPY images/demo/tool /bin/
"""


@pytest.fixture
def image(tmp_path: Path) -> Image:
    for name, text in {
        "images/demo/Dockerfile": DOCKERFILE,
        "requirements/demo.txt": "a==1\n",
        "api/pkg/one.py": "x = 1\n",
        "api/pkg/deep/two.py": "y = 2\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Image("demo", {"images/demo/tool": Made(lambda: "key", lambda: tmp_path / "tool")}, tmp_path)


def test_a_tag_is_stable_and_independent_of_times_and_leftovers(image: Image) -> None:
    before = image.digest("base")
    for path in image.root.rglob("*.py"):
        os.utime(path, (1, 1))
    (image.root / "api/pkg/__pycache__").mkdir()
    (image.root / "api/pkg/__pycache__/one.cpython-313.pyc").write_bytes(b"\0")
    (image.root / "api/pkg/.one.py.swp").write_text("an editor's")
    (image.root / "README.md").write_text("not copied")
    assert image.digest("base") == before
    assert len(before) == 12


@pytest.mark.parametrize(
    "name", ["images/demo/Dockerfile", "requirements/demo.txt", "api/pkg/one.py", "api/pkg/deep/two.py"]
)
def test_every_file_that_is_copied_changes_the_tag(image: Image, name: str) -> None:
    before = image.digest("base")
    with (image.root / name).open("a") as file:
        file.write("# changed\n")
    assert image.digest("base") != before


def test_names_modes_base_and_made_files_change_the_tag(image: Image) -> None:
    before = image.digest("base")
    assert image.digest("another") != before
    assert (
        Image("demo", {"images/demo/tool": Made(lambda: "new", lambda: image.root)}, image.root).digest("base")
        != before
    )
    (image.root / "api/pkg/one.py").chmod(0o755)
    executable = image.digest("base")
    assert executable != before
    (image.root / "api/pkg/one.py").rename(image.root / "api/pkg/three.py")
    assert image.digest("base") not in {before, executable}


def test_content_cannot_move_between_files_unseen(image: Image) -> None:
    one, two = image.root / "api/pkg/one.py", image.root / "api/pkg/deep/two.py"
    before = image.digest("base")
    first, second = one.read_text(), two.read_text()
    one.write_text(second)
    two.write_text(first)
    assert image.digest("base") != before


def test_source_leaves_the_dependencies_alone(image: Image) -> None:
    before = image.dependencies_digest("base")
    (image.root / "api/pkg/one.py").write_text("x = 2\n")
    assert image.dependencies_digest("base") == before
    (image.root / "requirements/demo.txt").write_text("a==2\n")
    assert image.dependencies_digest("base") != before


def test_a_scratch_image_does_not_depend_on_the_base(image: Image) -> None:
    image.dockerfile.write_text("ARG BASE_IMAGE=scratch\nFROM ${BASE_IMAGE}\nCOPY api/pkg /app\n")
    assert image.digest("base") == image.digest("another")
    assert image.dependencies_digest("base") == ""


def test_a_missing_file_is_named_with_the_remedy(image: Image) -> None:
    (image.root / "requirements/demo.txt").unlink()
    with pytest.raises(ImageError, match=r"images/demo/Dockerfile copies requirements/demo\.txt.*\n.*images lock"):
        image.digest("base")


@pytest.mark.parametrize("name", list(IMAGES))
def test_each_of_our_dockerfiles_can_be_built_anywhere_and_runs_as_nobody(name: str) -> None:
    text = IMAGES[name].dockerfile.read_text()
    steps = list(recipe.instructions(text))
    assert ("USER", "65532:65532") in steps
    assert IMAGES[name].default_base
    assert any(step == "ENTRYPOINT" and rest.startswith("[") for step, rest in steps)
    assert "://" not in text
    assert "latest" not in text
    for source in recipe.copied(text, name=name):
        assert source in IMAGES[name].made or (catalog.REPO / source).exists()


@pytest.mark.parametrize("name", ["operator", "server", "trainer", "loadgen"])
def test_our_source_comes_after_the_dependencies(name: str) -> None:
    part = recipe.dependencies(IMAGES[name].dockerfile.read_text())
    assert set(recipe.copied(part, name=name)) - {"images/venv.sh"} == {f"requirements/{name}.txt"}


def test_references_round_trip() -> None:
    assert catalog.split_reference(catalog.reference("server", "0123456789ab")) == ("server", "0123456789ab")
    for other in ("server", "local.test/espalier/server", "docker.io/library/server:1", "local.test/espalier/:1"):
        with pytest.raises(ImageError, match="images refs"):
            catalog.split_reference(other)


def test_images_are_chosen_in_the_catalogs_order() -> None:
    assert [image.name for image in catalog.chosen(["envoy", "operator"])] == ["operator", "envoy"]
    assert [image.name for image in catalog.chosen([])] == list(IMAGES)
    with pytest.raises(ImageError, match="no image nginx"):
        catalog.chosen(["nginx", "operator"])
