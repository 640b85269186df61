"""The images: their names, their Dockerfiles and the one file that is made rather than kept in the repository."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from images import recipe
from images.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

REPO = Path(__file__).resolve().parent.parent
REGISTRY = "local.test/espalier"
HASH_LENGTH = 12


@dataclass(frozen=True)
class Made:
    """A file of the context that is built, such as Contour's binary.

    Attributes:
        key: changes whenever the file would; cheaper than making it.
        path: makes the file if need be and returns where it is.

    """

    key: Callable[[], str]
    path: Callable[[], Path]


@dataclass(frozen=True)
class Image:
    """One image.

    Attributes:
        name: the folder under ``images/``, and the last part of the reference.
        made: path in the context -> how it comes about.
        root: the repository; tests use another one.

    """

    name: str
    made: Mapping[str, Made] = field(default_factory=dict)
    root: Path = REPO

    @property
    def dockerfile(self) -> Path:
        """Its Dockerfile; paths in it are relative to the repository's root."""
        return self.root / "images" / self.name / "Dockerfile"

    @property
    def default_base(self) -> str:
        """The public base that the Dockerfile names; ``scratch`` needs none."""
        return recipe.default_argument(self.dockerfile.read_text(), "BASE_IMAGE")

    def files(self, text: str | None = None) -> dict[str, Path]:
        """Path in the context -> file, for everything that the Dockerfile copies except what is made.

        Args:
            text: the part of the Dockerfile to look at; all of it by default.

        Raises:
            ImageError: something that is copied does not exist.

        """
        found: dict[str, Path] = {}
        for source in recipe.copied(self.dockerfile.read_text() if text is None else text, name=self.name):
            if source in self.made:
                continue
            path = self.root / source
            if not path.exists():
                raise ImageError(
                    f"images/{self.name}/Dockerfile copies {source}, which is not there",
                    remedy="requirements/*.txt come from `python -m images lock`; a source file belongs into git",
                )
            found |= {str(file.relative_to(self.root)): file for file in _plain_files(path)}
        return found

    def digest(self, base: str) -> str:
        """The content hash that is the image's tag.

        Args:
            base: what identifies the base: a recipe's hash, or a reference.

        """
        return self._digest(base, self.dockerfile.read_text(), self.made)

    def dependencies_digest(self, base: str) -> str:
        """The content hash of the ``deps`` stage; empty if the Dockerfile has none."""
        part = recipe.dependencies(self.dockerfile.read_text())
        return self._digest(base, part, {}) if part else ""

    def _digest(self, base: str, text: str, made: Mapping[str, Made]) -> str:
        total = hashlib.sha256()

        def add(*parts: str | bytes) -> None:
            for part in parts:
                data = part.encode() if isinstance(part, str) else part
                total.update(len(data).to_bytes(8, "big") + data)

        add("base", "" if self.default_base == "scratch" else base, "dockerfile", text)
        for inside, file in sorted(self.files(text).items()):
            add("file", inside, "x" if file.stat().st_mode & 0o100 else "-", file.read_bytes())
        for inside, each in sorted(made.items()):
            add("made", inside, each.key())
        return total.hexdigest()[:HASH_LENGTH]


def _plain_files(path: Path) -> Iterable[Path]:
    """A file itself, or what a folder holds, without what Python and editors leave behind."""
    if path.is_file():
        return [path]
    return [
        file
        for file in sorted(path.rglob("*"))
        if file.is_file()
        and "__pycache__" not in file.parts
        and not file.name.startswith(".")
        and file.suffix != ".pyc"
    ]


def reference(name: str, digest: str) -> str:
    """``local.test/espalier/<name>:<digest>``: `.test` is reserved, so no node ever pulls it from somewhere else."""
    return f"{REGISTRY}/{name}:{digest}"


def split_reference(ref: str) -> tuple[str, str]:
    """Name and tag of one of our references.

    Raises:
        ImageError: it is not one of ours.

    """
    path, _, tag = ref.rpartition(":")
    folder, _, name = path.rpartition("/")
    if folder != REGISTRY or not name or not tag:
        raise ImageError(f"{ref!r} is not {REGISTRY}/NAME:TAG", remedy="take references from `python -m images refs`")
    return name, tag


def _contour() -> Made:
    # Imported late: the cluster room needs Go, which only this image does.
    def key() -> str:
        from cluster.gobuild import toolchain  # noqa: PLC0415
        from cluster.parts import PARTS  # noqa: PLC0415

        return PARTS["contour"].key(toolchain())

    def path() -> Path:
        from cluster.gobuild import build  # noqa: PLC0415

        return build("contour")

    return Made(key, path)


IMAGES: Mapping[str, Image] = {
    image.name: image
    for image in (
        Image("operator"),
        Image("server"),
        Image("trainer"),
        Image("loadgen"),
        Image("prometheus"),
        Image("seaweedfs"),
        Image("contour", made={"images/contour/contour": _contour()}),
        Image("envoy"),
    )
}


def chosen(names: Iterable[str]) -> list[Image]:
    """The images of these names, in the catalog's order; all if there are no names.

    Raises:
        ImageError: there is no such image.

    """
    wanted = set(names)
    if unknown := wanted - set(IMAGES):
        raise ImageError(f"there is no image {', '.join(sorted(unknown))}", remedy=f"use one of: {', '.join(IMAGES)}")
    return [image for image in IMAGES.values() if not wanted or image.name in wanted]
