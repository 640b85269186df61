"""What is locked: pyproject's extras, without what a base holds, without a host's name."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from images import locks
from images.errors import ImageError
from images.locks import LOCKS, Lock

PROJECT: dict[str, Any] = {
    "name": "espalier",
    "dependencies": ["pydantic>=2"],
    "optional-dependencies": {
        "trainer": ["torch>=2.6", "numpy"],
        "cli": ["rich"],
        "dev": ["espalier[trainer, cli]", "ruff==1"],
    },
}


def test_extras_bring_the_projects_own_dependencies_and_each_other() -> None:
    assert locks.requirements(Lock("dev", extras=("dev",)), PROJECT) == [
        "numpy",
        "pydantic>=2",
        "rich",
        "ruff==1",
        "torch>=2.6",
    ]


def test_what_the_base_holds_is_not_even_resolved() -> None:
    assert locks.requirements(Lock("t", extras=("trainer",), left_out=("torch",)), PROJECT) == ["numpy", "pydantic>=2"]


def test_pins_alone_bring_nothing_else() -> None:
    assert locks.requirements(Lock("weed", pins=("weed==1",)), PROJECT) == ["weed==1"]


def test_a_bare_lock_names_its_extras_and_nothing_that_they_need() -> None:
    bare = Lock("t", extras=("trainer",), bare=True)
    assert locks.requirements(bare, PROJECT) == ["numpy", "torch>=2.6"]
    assert "--no-deps" in locks.command(bare, upgrade=None, program="uv", constraints=Path("c"))
    assert "--no-deps" not in locks.command(LOCKS[0], upgrade=None, program="uv", constraints=Path("c"))


def test_an_unknown_extra_is_named() -> None:
    with pytest.raises(ImageError, match=r"'gpu', needed for requirements/x\.txt"):
        locks.requirements(Lock("x", extras=("gpu",)), PROJECT)


@pytest.mark.parametrize(
    "upgrade, flags",
    [(None, []), ([], ["--upgrade"]), (["boto3"], ["--upgrade-package=boto3"])],
)
def test_pins_are_kept_unless_told(upgrade: list[str] | None, flags: list[str]) -> None:
    argv = locks.command(LOCKS[0], upgrade=upgrade, program="uv", constraints=Path("c"))
    assert [flag for flag in argv if flag.startswith("--upgrade")] == flags
    assert {"--generate-hashes", "--no-emit-index-url", "--no-config"} <= set(argv)


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: str(lock.name))
def test_the_committed_locks_are_whole(lock: Lock) -> None:
    text = lock.path.read_text()
    pinned = dict(re.findall(r"^([a-z0-9-]+)(?:\[[^]]*\])?==(\S+)", text, re.MULTILINE))
    project = tomllib.loads((locks.REPO / "pyproject.toml").read_text())["project"]
    asked = {
        found.name.lower()
        for found in map(Requirement, locks.requirements(lock, project))
        if found.marker is None or found.marker.evaluate({"sys_platform": "linux"})  # what an image runs on
    }
    assert asked <= set(pinned), f"run `python -m images lock {lock.name}`: {sorted(asked - set(pinned))} are missing"
    assert not set(lock.left_out) & set(pinned)
    assert "://" not in text
    assert text.count("--hash=sha256:") >= len(pinned)


def test_the_image_with_trackers_has_the_trainers_pins() -> None:
    """So that what its tests ran with is what it runs with, too."""
    trainer, more = set(locks.pins("trainer")), set(locks.pins("trainer-trackers"))
    assert len(trainer) > 20
    assert trainer < more
    assert locks.pins("") == []
