"""The cache key of a part changes with everything that its binaries depend on."""

from __future__ import annotations

import dataclasses
import re
import shutil
from typing import TYPE_CHECKING

import pytest

from cluster import gobuild, parts
from cluster.errors import ClusterError
from cluster.parts import PARTS
from cluster.paths import GO_PARTS

if TYPE_CHECKING:
    from pathlib import Path

GO = "go version go1.26.8 linux/amd64"


def test_every_part_has_a_module_and_every_module_with_programs_a_part() -> None:
    folders = {file.parent.name for file in GO_PARTS.glob("*/go.mod")}
    assert folders - set(PARTS) == {"gatewayapi"}  # sources only: its CRDs
    assert set(PARTS) <= folders


@pytest.mark.parametrize("part", sorted(PARTS))
def test_main_is_a_program_and_tools_are_pinned(part: str) -> None:
    known = PARTS[part]
    assert known.main in known.programs
    text = (known.folder / "go.mod").read_text()
    for package in known.programs.values():
        assert package in text  # a tool line, or the module's own main package
    if known.module:
        assert re.fullmatch(r"v\d+\.\d+\.\d+", known.version())


def test_the_key_is_stable_and_moves_with_sums_flags_and_toolchain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(GO_PARTS / "etcd", tmp_path / "etcd")
    monkeypatch.setattr(parts, "GO_PARTS", tmp_path)
    part = PARTS["etcd"]
    key = part.key(GO)
    assert part.key(GO) == key
    assert part.key(GO.replace("8", "9")) != key
    assert dataclasses.replace(part, tags=("x",)).key(GO) != key
    (tmp_path / "etcd/README.md").write_text("not compiled")
    assert part.key(GO) == key
    with (tmp_path / "etcd/go.sum").open("a") as sums:
        sums.write("x v1 h1:x=\n")
    assert part.key(GO) != key


def test_kubernetes_is_stamped_in_both_places() -> None:
    flags = PARTS["kube"].ldflags()
    version = PARTS["kube"].version()
    for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version"):
        assert f"-X {package}.gitVersion={version}" in flags


def test_the_minor_stamp_agrees_with_the_version() -> None:
    minor = PARTS["kube"].version().split(".")[1]
    assert f"gitMinor={minor} " in PARTS["kube"].ldflags()


def test_staging_modules_agree_with_kubernetes() -> None:
    text = (GO_PARTS / "kube/go.mod").read_text()
    wanted = PARTS["kube"].version().replace("v1.", "v0.")
    assert set(re.findall(r"^\s*k8s\.io/\S+ => k8s\.io/\S+ (v\S+)", text, re.MULTILINE)) == {wanted}


def test_gateway_api_is_pinned_apart_from_contour() -> None:
    assert parts.required_version("gatewayapi", "sigs.k8s.io/gateway-api") == "v1.4.1"


def test_an_unknown_part_names_the_known_ones() -> None:
    with pytest.raises(ClusterError, match=r"(?s)'helm5'.*remedy: use one of: .*helm4"):
        gobuild.build("helm5")


def test_a_finished_build_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESPALIER_CACHE", str(tmp_path))
    monkeypatch.setattr(gobuild, "toolchain", lambda: GO)
    compiled: list[str] = []

    def fake(part: parts.Part, target: Path) -> None:
        compiled.append(part.name)
        target.mkdir(parents=True)
        for program in part.programs:
            (target / program).touch()

    monkeypatch.setattr(gobuild, "_compile", fake)
    first = gobuild.build("contour")
    assert gobuild.build("contour") == first
    assert first.name == "contour"
    assert compiled == ["contour"]


SHARING = ("helm", "helm4", "coredns", "containerd", "contour", "etcd")
# These are not made for this Kubernetes (Contour does not compile against its client): they share the rest.
OTHER_KUBERNETES = ("containerd", "contour", "etcd")
_KUBERNETES = re.compile(r"(?:sigs\.)?k8s\.io/")


def _versions(part: str) -> dict[str, str]:
    text = (GO_PARTS / part / "go.mod").read_text()
    required = dict(re.findall(r"^\s*(?:require )?(\S+/\S+) (v\S+)", text, re.MULTILINE))
    replaced = dict(re.findall(r"^\s*(\S+) => \S+ (v\S+)", text, re.MULTILINE))
    return required | replaced


def _differing(part: str, other: str) -> set[str]:
    """What ``part`` has to get to share its libraries with ``other``."""
    theirs = _versions(other)
    return {
        f"{module}@{theirs[module]}"
        for module, version in _versions(part).items()
        if theirs.get(module, version) != version
    }


@pytest.mark.parametrize("part", SHARING)
def test_libraries_have_the_version_that_kubernetes_is_built_with(part: str) -> None:
    """Go's build cache then has them already (docs/cluster.md)."""
    differing = _differing(part, "kube")
    if part in OTHER_KUBERNETES:
        differing = {module for module in differing if not _KUBERNETES.match(module)}
    assert not differing, f"cd cluster/go/{part} && go get {' '.join(sorted(differing))} && go mod tidy"
    assert set(parts._SHARED_TAGS) <= set(PARTS[part].tags)


def test_contour_and_containerd_share_the_older_client() -> None:
    differing = _differing("containerd", "contour")
    assert not differing, f"cd cluster/go/containerd && go get {' '.join(sorted(differing))} && go mod tidy"
