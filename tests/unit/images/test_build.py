"""From names to archives, with an engine that only writes down what it is asked."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from io import StringIO
from typing import TYPE_CHECKING

import pytest

from cluster.progress import Progress
from images import bases, build, catalog, command, store
from images.build import Workshop
from images.catalog import Image
from images.errors import ImageError

if TYPE_CHECKING:
    from pathlib import Path

    from images.engines import Job


@dataclass
class Notes:
    """An engine that builds by writing down."""

    name: str = "buildah"
    held: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    contexts: list[dict[str, str]] = field(default_factory=list)

    def prepare(self, progress: Progress) -> None:
        self.asked.append("prepare")

    def has(self, ref: str) -> bool:
        return ref in self.held

    def import_root(self, root: Path, ref: str, log: Path) -> None:
        raise AssertionError

    def build(self, job: Job, progress: Progress) -> None:
        self.asked.append(f"build {job.target or 'all'} {job.ref} {sorted(job.arguments)}")
        self.held.add(job.ref)
        files = (path for path in job.context.rglob("*") if path.is_file())
        self.contexts.append({str(path.relative_to(job.context)): oct(path.stat().st_mode)[-3:] for path in files})

    def save(self, ref: str, target: Path, log: Path) -> None:
        self.asked.append(f"save {ref}")
        target.write_text(ref)

    def tags(self, path: str) -> list[str]:
        return sorted(ref for ref in self.held if ref.rpartition(":")[0] == path)

    def remove(self, ref: str) -> None:
        self.asked.append(f"remove {ref}")
        self.held.discard(ref)

    def tidy(self) -> None:
        self.asked.append("tidy")


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Workshop, Notes, Path]:
    monkeypatch.setenv("ESPALIER_CACHE", str(tmp_path / "cache"))
    store.folder().mkdir(parents=True)
    root = tmp_path / "repo"
    for name, text in {
        "images/demo/Dockerfile": "ARG BASE_IMAGE=x\nFROM ${BASE_IMAGE} AS deps\nCOPY req.txt /\n"
        "\nFROM ${DEPS}\nCOPY src /\n",
        "req.txt": "a",
        "src/run.sh": "b",
        "secret.txt": "never in a context",
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o600)
    (root / "src/run.sh").chmod(0o700)
    monkeypatch.setattr(catalog, "IMAGES", {"demo": Image("demo", root=root)})
    engine = Notes()
    return Workshop(engine, bases.Base("given", "base:1", "given base:1")), engine, root


def quiet() -> Progress:
    return Progress(stream=StringIO())


def test_the_second_build_does_nothing_and_a_source_change_keeps_the_dependencies(
    workshop: tuple[Workshop, Notes, Path],
) -> None:
    shop, engine, root = workshop
    (first,) = shop.build([], quiet())
    assert first.path.read_text() == first.ref == shop.refs()["demo"]
    assert [line.split()[:2] for line in engine.asked] == [
        ["prepare"], ["build", "deps"], ["build", "all"], ["save", first.ref],
    ]  # fmt: skip
    assert engine.asked[2].endswith("['BASE_IMAGE', 'DEPS']")
    engine.asked.clear()
    assert shop.build(["demo"], quiet()) == [first]
    assert engine.asked == []
    (root / "src/run.sh").write_text("c")
    (second,) = shop.build([], quiet())
    assert second != first
    assert [line.split()[0] for line in engine.asked] == ["prepare", "build", "save"]
    engine.asked.clear()
    (root / "req.txt").write_text("b")
    shop.build([], quiet())
    assert sum(line.startswith("remove localhost/espalier-deps-demo:") for line in engine.asked) == 1


def test_a_context_holds_what_is_copied_and_its_modes_do_not_depend_on_the_umask(
    workshop: tuple[Workshop, Notes, Path],
) -> None:
    shop, engine, _ = workshop
    shop.build([], quiet())
    assert engine.contexts[-1] == {"images/demo/Dockerfile": "644", "req.txt": "644", "src/run.sh": "755"}
    assert not list(store.folder().glob("context-*"))


def test_a_file_that_changes_during_the_build_does_not_make_the_tag_lie(
    workshop: tuple[Workshop, Notes, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, engine, root = workshop
    before = shop.refs()["demo"]
    seen = []

    def build_while_somebody_edits(job: Job, progress: Progress) -> None:
        (root / "src/run.sh").write_text("edited meanwhile")
        seen.append((job.context / "src/run.sh").read_text())

    monkeypatch.setattr(engine, "build", build_while_somebody_edits)
    (archive,) = shop.build([], quiet())
    assert archive.ref == before
    assert seen == ["b", "b"]
    assert shop.refs()["demo"] != before


def test_old_archives_go_and_used_ones_stay(workshop: tuple[Workshop, Notes, Path]) -> None:
    shop, engine, root = workshop
    for number in range(store.KEPT + 2):
        (root / "src/run.sh").write_text(str(number))
        (newest,) = shop.build([], quiet())
    kept = list(store.archives())
    assert len(kept) == store.KEPT
    assert newest in kept
    assert sum(line.startswith("remove local.test/espalier/demo:") for line in engine.asked) == 2


def test_tidy_keeps_the_newest_of_each(workshop: tuple[Workshop, Notes, Path]) -> None:
    shop, engine, root = workshop
    for number in range(2):
        (root / "src/run.sh").write_text(str(number))
        (newest,) = shop.build([], quiet())
    shop.tidy(quiet())
    assert list(store.archives()) == [newest]
    assert engine.asked[-1] == "tidy"


def test_superfluous_counts_each_image_for_itself() -> None:
    found = [store.archive(name, digest) for name, digest in (("a", "3"), ("b", "1"), ("a", "2"), ("a", "1"))]
    assert store.superfluous(found, kept=2) == [store.archive("a", "1")]


def test_archives_of_names_with_dashes_are_read_back(tmp_path: Path) -> None:
    (tmp_path / "load-gen-abc.tar").touch()
    (found,) = store.archives(tmp_path)
    assert (found.name, found.digest) == ("load-gen", "abc")


def test_a_failed_build_leaves_no_archive_and_quotes_its_end(tmp_path: Path) -> None:
    log = tmp_path / "log"
    argv = [sys.executable, "-c", "print('STEP 1/2: RUN pip install'); print('no space left'); raise SystemExit(4)"]
    told = StringIO()
    with pytest.raises(ImageError, match=r"(?s)build of x failed \(4\); log: .*no space left.*remedy: make room"):
        command.run(argv, log=log, what="build of x", remedy="make room", progress=Progress(stream=told))
    assert "RUN pip install" in told.getvalue()
    assert "no space left" in log.read_text()


@pytest.mark.parametrize(
    "line, title",
    [
        ("[2/3] STEP 4/9: RUN pip   install -r x", "RUN pip install -r x"),
        ("STEP 2/3: COPY --from=build /a /a", "COPY --from=build /a /a"),
        ("#7 [build 3/4] RUN apt-get update", "RUN apt-get update"),
        ("STEP 1/3: FROM x", ""),
        ("Collecting pip", ""),
    ],
)
def test_only_slow_steps_are_told(line: str, title: str) -> None:
    assert command.step_title(line) == title


def test_staged_is_gone_after_an_error(workshop: tuple[Workshop, Notes, Path]) -> None:
    _, _, root = workshop
    with pytest.raises(ZeroDivisionError), build.staged(Image("demo", root=root)) as folder:
        _ = 1 / 0
    assert not folder.exists()
