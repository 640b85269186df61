"""`espalier` as a person uses it, on a real canary: look, go on, end it, compare."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.harness import model_manifest

if TYPE_CHECKING:
    from tests.e2e.harness import World

pytestmark = pytest.mark.e2e
PAUSED = {"warmUp": "1s", "steps": [{"weight": 20, "pause": {}}, {"weight": 50, "pause": {}}]}


def espalier(world: World, *words: str) -> subprocess.CompletedProcess[str]:
    """The installed command, in the test's namespace."""
    program = shutil.which("espalier", path=str(Path(sys.executable).parent))
    assert program is not None
    return subprocess.run([program, *words, "-n", world.kube.namespace], capture_output=True, text=True, check=False)


def test_look_promote_abort_and_compare(world: World) -> None:
    world.apply_rollout(strategy=PAUSED)
    world.apply(model_manifest())
    world.await_("v1 champion", lambda: world.champion() == "v1")
    world.apply(model_manifest(regularizers={"l2": {"strength": 0.011}}))
    world.await_("v2 takes traffic", lambda: world.weight("v2") == 20)

    table = espalier(world, "get").stdout
    assert "digits" in table
    assert "v2" in table
    detail = espalier(world, "get", "digits").stdout
    assert "CanaryRollout digits" in detail
    assert "20% → 50% → 100%" in detail

    promoted = espalier(world, "promote", "digits")
    assert promoted.returncode == 0, promoted.stderr
    assert promoted.stdout.startswith("promote digits: ")
    world.await_("step 2", lambda: world.weight("v2") == 50, 60)

    aborted = espalier(world, "abort", "digits")
    assert aborted.returncode == 0, aborted.stderr
    world.await_("aborted", lambda: world.outcome("v2").get("outcome") == "Aborted", 60)
    assert world.weight("v2") == 0
    assert "v2 Aborted" in espalier(world, "get", "digits").stdout

    assert "accuracy" in espalier(world, "diff", "digits", "v1", "v2").stdout


def test_what_does_not_exist_is_one_line_with_the_names_there_are(world: World) -> None:
    answer = espalier(world, "get", "nope")
    assert answer.returncode == 1
    assert answer.stderr.startswith("error: RegularizedModel ")
    assert "does not exist" in answer.stderr
