"""The runc wrapper asks for less, never for more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster import runc_caps

WITHOUT_SYS_RESOURCE = "Name:\tx\nCapBnd:\t000001fffeffffff\n"


def test_the_kernels_numbering() -> None:
    assert runc_caps.NAMES[24] == "CAP_SYS_RESOURCE"
    assert runc_caps.NAMES[40] == "CAP_CHECKPOINT_RESTORE"
    assert len(runc_caps.NAMES) == 41


def test_bounding_set_of_a_host_without_sys_resource() -> None:
    assert set(runc_caps.NAMES) - runc_caps.bounding_set(WITHOUT_SYS_RESOURCE) == {"CAP_SYS_RESOURCE"}


def test_a_capability_that_was_not_asked_for_is_not_added() -> None:
    process = {"args": ["x"], "capabilities": {"bounding": ["CAP_CHOWN", "CAP_SYS_RESOURCE"], "ambient": []}}
    assert runc_caps.filtered(process, {"CAP_CHOWN", "CAP_KILL"}) == {
        "args": ["x"],
        "capabilities": {"bounding": ["CAP_CHOWN"], "ambient": []},
    }


@pytest.mark.parametrize(
    "argv, expected",
    [
        (["--root", "/r", "create", "--bundle", "/b", "id"], ("bundle", Path("/b/config.json"))),
        (["--log-format=json", "create", "--bundle=/b", "id"], ("bundle", Path("/b/config.json"))),
        (["run", "id"], ("bundle", Path("config.json"))),
        (["exec", "--process", "/p.json", "--detach", "id"], ("process", Path("/p.json"))),
        (["exec", "id", "sh"], None),
        (["delete", "--force", "id"], None),
        (["--version"], None),
    ],
)
def test_which_file_is_narrowed(argv: list[str], expected: tuple[str, Path] | None) -> None:
    assert runc_caps.target(argv) == expected


@pytest.mark.parametrize("kind", ["bundle", "process"])
def test_the_file_keeps_everything_else(tmp_path: Path, kind: str) -> None:
    process = {"capabilities": {"effective": ["CAP_KILL", "CAP_SYS_RESOURCE"]}, "cwd": "/"}
    file = tmp_path / "x.json"
    file.write_text(json.dumps({"process": process, "hostname": "h"} if kind == "bundle" else process))
    runc_caps.narrow(file, kind, {"CAP_KILL"})
    found = json.loads(file.read_text())
    wanted = {"capabilities": {"effective": ["CAP_KILL"]}, "cwd": "/"}
    assert found == ({"process": wanted, "hostname": "h"} if kind == "bundle" else wanted)
