"""A PATH with nothing on it but stand-ins for the programs that situations 1 and 2 call."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

STAND_IN = Path(__file__).with_name("stand_in.py")
PROGRAMS = ("kubectl", "kind", "helm", "docker", "podman")


@dataclass(frozen=True, slots=True)
class Machine:
    """What the stand-ins answer from and were asked.

    World: `engine` (the one that runs, or None), `clusters` (that kind knows), `contexts` (of the user's kubeconfig),
    `answers` (whether the API does), `may_not` ("verb resource" that the user may not), `unauthorized`,
    `create_fails`, `gpus`.
    """

    bin: Path
    state: Path

    def change(self, **changes: Any) -> None:
        """Change the world."""
        path = self.bin / "world.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    @property
    def clusters(self) -> list[str]:
        """Clusters that kind knows now."""
        found: list[str] = json.loads((self.bin / "world.json").read_text())["clusters"]
        return found

    def calls(self) -> list[dict[str, Any]]:
        """Every call so far: `argv` (with the program's name), KUBECONFIG, KIND_EXPERIMENTAL_PROVIDER."""
        log = self.bin / "calls.jsonl"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def forget_calls(self) -> None:
        """Start counting anew."""
        (self.bin / "calls.jsonl").unlink(missing_ok=True)

    def commands(self) -> list[str]:
        """The calls as a person would type them, with this machine's folders as STATE."""
        return [" ".join(call["argv"]).replace(str(self.state), "STATE") for call in self.calls()]

    def files(self, name: str) -> set[str]:
        """What is left of a cluster in the state folder."""
        root = self.state / name
        return {str(path.relative_to(root)) for path in root.rglob("*")} if root.exists() else set()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path / "bin", tmp_path / "state")
    made.bin.mkdir()
    for name in PROGRAMS:
        program = made.bin / name
        program.write_text(f"#!{Path(sys.executable).resolve()} -IS\n{STAND_IN.read_text()}")
        program.chmod(0o755)
    world: dict[str, Any] = {
        "engine": None,
        "clusters": [],
        "contexts": [],
        "answers": False,
        "may_not": [],
        "unauthorized": False,
    }
    (made.bin / "world.json").write_text(json.dumps({**world, "create_fails": False, "gpus": 0}))
    # Nothing else on it: a program that is not stood in for must not be found by chance.
    monkeypatch.setenv("PATH", str(made.bin))
    monkeypatch.setenv("ESPALIER_STATE", str(made.state))
    monkeypatch.setenv("ESPALIER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KUBECONFIG", "/the/users/own/kubeconfig")
    return made
