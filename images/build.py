"""From names to archives: what is there is left alone, what is missing is built, what is old goes."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cluster import lock
from images import bases, catalog, engines, store

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from cluster.progress import Progress
    from images.bases import Base
    from images.catalog import Image
    from images.engines import Engine


@dataclass(frozen=True)
class Workshop:
    """An engine and a base: together with an image's content they decide the tag."""

    engine: Engine
    base: Base

    @classmethod
    def open(cls, engine: str | None = None, base: str | None = None) -> Workshop:
        """Choose both; None leaves it to the environment and to what runs.

        Raises:
            ImageError: there is no such engine.

        """
        found = engines.find(store.folder(), engine)
        return cls(found, bases.choose(base, found.name))

    def archive(self, image: Image) -> store.Archive:
        """Where the image of the present content is, or would be."""
        return store.archive(image.name, image.digest(self.base.identity))

    def refs(self, names: Iterable[str] = ()) -> dict[str, str]:
        """Name -> reference of the present content; nothing is built.

        Raises:
            ImageError: there is no such image, or a file that it copies is missing.

        """
        return {image.name: self.archive(image).ref for image in catalog.chosen(names)}

    def build(self, names: Iterable[str], progress: Progress) -> list[store.Archive]:
        """Build what is missing and return the archives of ``names`` (all when empty).

        Raises:
            ImageError: a build failed.

        """
        archives = []
        built = False
        for image in catalog.chosen(names):
            archive = self.archive(image)
            if not archive.path.exists():
                archive = self._build(image, progress)
                built = True
            store.touch(archive)
            archives.append(archive)
        if built:
            self.prune(progress)
        return archives

    def _build(self, image: Image, progress: Progress) -> store.Archive:
        """Build an image from a copy of its files: they may change while it builds, its tag must not lie.

        Processes that build different images don't wait for each other.
        """
        self.engine.prepare(progress)
        with staged(image) as context:
            copy = replace(image, root=context)
            archive = self.archive(copy)
            with lock.held(store.folder() / "locks" / image.name, what=f"image {image.name}", wait=True):
                if not archive.path.exists():  # another process may have built it while this one waited
                    if image.default_base != "scratch":
                        bases.ensure(self.base, self.engine, progress)
                    with progress.step(f"image {archive.ref}"):
                        self._run(copy, archive, progress)
        return archive

    def _run(self, image: Image, archive: store.Archive, progress: Progress) -> None:
        log = store.folder() / "logs" / f"{image.name}.log"
        log.unlink(missing_ok=True)
        job = engines.Job(archive.ref, image.dockerfile, image.root, self.base.arguments(image.default_base), log)
        if deps := self._dependencies(image, job, progress):
            job = replace(job, arguments={**job.arguments, "DEPS": deps})
        self.engine.build(job, progress)
        fresh = archive.path.with_name(f"new-{image.name}.part")
        fresh.unlink(missing_ok=True)
        self.engine.save(archive.ref, fresh, log)
        fresh.rename(archive.path)

    def _dependencies(self, image: Image, job: engines.Job, progress: Progress) -> str:
        """Build the image that holds all but our source, if it is missing; empty if there is no such stage.

        A layer cache alone would do, but it hashes 500 MB of Python packages to find that nothing changed.
        """
        digest = image.dependencies_digest(self.base.identity)
        if not digest:
            return ""
        path = f"localhost/espalier-deps-{image.name}"
        ref = f"{path}:{digest}"
        if not self.engine.has(ref):
            self.engine.build(replace(job, ref=ref, target="deps"), progress)
            for old in self.engine.tags(path):
                if old != ref:
                    self.engine.remove(old)
        return ref

    def tidy(self, progress: Progress) -> None:
        """Keep one archive of each image, and of the builder's storage only what images that have a name need.

        Waits for builds in other processes: what they have no name for yet must not go.
        """
        with ExitStack() as builds, progress.step("tidy"):
            for name in catalog.IMAGES:
                builds.enter_context(lock.held(store.folder() / "locks" / name, what=f"image {name}", wait=True))
            self.prune(progress, kept=1)
            self.engine.tidy()

    def prune(self, progress: Progress, kept: int = store.KEPT) -> None:
        """Delete archives and images that newer ones have replaced."""
        for old in store.superfluous(store.archives(), kept):
            progress.say(f"remove {old.path.name} ({old.size / 1e6:.0f} MB), replaced by newer ones")
            self.engine.remove(old.ref)
            old.path.unlink(missing_ok=True)


@contextmanager
def staged(image: Image) -> Iterator[Path]:
    """A folder with the Dockerfile and exactly what it copies, so that nothing else can get into an image.

    Yields:
        The folder, which is gone afterwards.

    """
    with tempfile.TemporaryDirectory(dir=store.folder(), prefix="context-") as name:
        folder = Path(name)
        made = {inside: each.path() for inside, each in image.made.items()}
        recipe = {f"images/{image.name}/Dockerfile": image.dockerfile}
        for inside, file in {**image.files(), **made, **recipe}.items():
            target = folder / inside
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
            # The same bits everywhere: a checkout's umask must not decide what 65532 may read.
            target.chmod(0o755 if os.access(file, os.X_OK) else 0o644)
        for path in [folder, *(each for each in folder.rglob("*") if each.is_dir())]:
            path.chmod(0o755)
        yield folder
