"""The demo's story, as assertions: trained, promoted through a canary, and a bad version undone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from espalier_cli.demo.story import Story, accuracy, first_act, second_act, third_act, version_named
from tests.e2e.harness import ROLLOUT

if TYPE_CHECKING:
    from tests.e2e.harness import World

pytestmark = pytest.mark.e2e
QUICKSTART = Path(__file__).resolve().parents[2] / "examples" / "quickstart"


def test_story(world: World, tmp_path: Path) -> None:
    """Champion without a canary; the cocktail gains five points and is promoted; the rescaled one is rolled back."""
    hosted = _hosted(world, tmp_path)
    story = Story(world.kube, Console(width=150, soft_wrap=True), hosted)
    plain = first_act(story)
    with world.traffic(rps=60):
        good = second_act(story, plain)
        bad = third_act(story, good)
        model, rollout = story.look()
    gained = accuracy(version_named(model, good)) - accuracy(version_named(model, plain))
    assert gained >= 0.05
    entry = world.outcome(bad)
    assert entry["outcome"] == "RolledBack"
    assert entry["sli"] == "quality"
    assert "weight 0" in entry["reason"]
    assert rollout["status"]["aliases"]["champion"] == good
    assert world.weight(bad) == 0
    assert world.weight(good) == 100
    assert world.version(bad)["state"] == "Quarantined"
    assert world.condition(ROLLOUT, "Available")["status"] == "True"


def _hosted(world: World, folder: Path) -> Path:
    """The quickstart's manifests with this namespace's host name, so that a demo left running keeps its own route."""
    for path in sorted(QUICKSTART.glob("*.yaml")):
        (folder / path.name).write_text(path.read_text().replace("digits.example.com", world.host))
    return folder
