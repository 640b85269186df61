"""docker-archive files, and which of them a node already holds."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest

from cluster import archive, images
from cluster.errors import ClusterError
from cluster.handle import Cluster

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "bin").mkdir(parents=True)
    (root / "bin/app").write_text("#!")
    (root / "bin/app").chmod(0o755)
    (root / "bin/link").symlink_to("app")
    return root


def test_an_archive_depends_on_content_only(tmp_path: Path, tree: Path) -> None:
    for name in ("a.tar", "b.tar"):
        (tree / "bin/app").touch()  # another time
        archive.write(tmp_path / name, "local.test/app:1", {"Entrypoint": ["/app"]}, {"": tree})
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_an_archive_is_what_docker_reads(tmp_path: Path, tree: Path) -> None:
    file = tmp_path / "a.tar"
    archive.write(file, "local.test/app:1", {"Entrypoint": ["/app"]}, {"": tree, "opt/app": tree / "bin/app"})
    with tarfile.open(file) as opened:
        manifest = json.loads(opened.extractfile("manifest.json").read())  # type: ignore[union-attr]
        config = opened.extractfile(manifest[0]["Config"]).read()  # type: ignore[union-attr]
        layer = opened.extractfile("layer.tar").read()  # type: ignore[union-attr]
    assert json.loads(config)["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}"]
    assert json.loads(config)["config"] == {"Entrypoint": ["/app"]}
    (tmp_path / "layer.tar").write_bytes(layer)
    with tarfile.open(tmp_path / "layer.tar") as opened:
        names = opened.getnames()
        assert sorted(names) == ["bin", "bin/app", "bin/link", "opt", "opt/app"]
        assert opened.getmember("bin/link").linkname == "app"
        assert opened.getmember("opt/app").mode == 0o755
        assert {(member.uid, member.mtime) for member in opened} == {(0, 0)}
    expected = f"sha256:{hashlib.sha256(config).hexdigest()}"
    assert archive.read(file) == [archive.Image(("local.test/app:1",), expected)]


@pytest.mark.parametrize("content", [None, b"", b"not a tar file"])
def test_another_file_is_refused_by_name(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "x.tar"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ClusterError, match=r"(?s)x\.tar is not a docker-archive.*remedy: "):
        archive.read(file)


TABLE = """\
REF                  TYPE                                                 DIGEST        SIZE    PLATFORMS   LABELS
local.test/app:1     application/vnd.docker.distribution.manifest.v2+json sha256:aaa    1.0 MiB linux/amd64 -
host/library/tool:2  application/vnd.oci.image.index.v1+json              sha256:bbb    1.0 MiB linux/amd64 -
"""


def test_the_nodes_table() -> None:
    assert images.parse_image_list(TABLE) == {"local.test/app:1": "sha256:aaa", "host/library/tool:2": "sha256:bbb"}


def test_a_short_name_has_a_host_in_front_on_the_node() -> None:
    names = images.parse_image_list(TABLE)
    assert images.stored_names("tool:2", names) == ["host/library/tool:2"]
    assert images.stored_names("ool:2", names) == []


class Nodes:
    """Answers for the commands of `load`; records what was sent."""

    def __init__(self, config: str) -> None:
        self.config = config
        self.sent: list[str] = []

    def run(self, cluster: Cluster, *argv: str, **_: object) -> subprocess.CompletedProcess[str]:
        if argv[:3] == ("kind", "get", "nodes"):
            answer = "demo-worker\ndemo-control-plane\n"
        elif argv[-2:] == ("images", "ls"):
            answer = TABLE
        else:
            assert argv[-3:] == ("content", "get", "sha256:aaa")
            answer = json.dumps({"config": {"digest": self.config}})
        return subprocess.CompletedProcess(argv, 0, answer, "")

    def send(self, cluster: Cluster, node: str, file: Path) -> None:
        self.sent.append(node)


@pytest.mark.parametrize(
    "same, all_nodes, sent",
    [
        (True, False, []),
        (False, False, ["demo-worker"]),
        (False, True, ["demo-control-plane", "demo-worker"]),
    ],
)
def test_only_what_is_missing_is_sent_and_only_where_it_is_needed(
    tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch, same: bool, all_nodes: bool, sent: list[str]
) -> None:
    file = tmp_path / "a.tar"
    archive.write(file, "local.test/app:1", {}, {"": tree})
    nodes = Nodes(archive.read(file)[0].config_digest if same else "sha256:other")
    monkeypatch.setattr(Cluster, "run", lambda self, *argv, **_: nodes.run(self, *argv))
    monkeypatch.setattr(images, "_send", nodes.send)
    images.load(Cluster("demo", "engine", "docker", "kind-demo"), [file], all_nodes=all_nodes)
    assert nodes.sent == sent


def test_a_context_that_is_not_kinds_can_take_no_images() -> None:
    with pytest.raises(ClusterError, match="not a kind cluster"):
        images.kind_name(Cluster("demo", "context", "", "prod"))
    assert images.kind_name(Cluster("demo", "context", "", "kind-mine")) == "mine"
