"""Which engine builds, and with which commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.paths import state_root
from images import bases, engines
from images.engines import Buildah, Daemon, Job
from images.errors import ImageError

JOB = Job("local.test/espalier/demo:1", Path("D"), Path("C"), {"B": "2", "A": "1"}, Path("log"), target="deps")


def test_buildah_keeps_to_its_own_storage_and_lends_the_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_CERTIFICATES", Path("/"))
    argv = Buildah(Path("/cache")).build_argv(JOB)
    assert argv[:7] == ["buildah", "--root", "/cache/storage", "--runroot", "/cache/run", "--storage-driver", "overlay"]
    assert argv[argv.index("--isolation") :][:2] == ["--isolation", "chroot"]
    assert argv[argv.index("--volume") + 1] == "/:/:ro"
    assert argv[-11:] == [
        "--build-arg", "A=1", "--build-arg", "B=2", "--target", "deps", "--file", "D", "--tag", JOB.ref, "C",
    ]  # fmt: skip


def test_no_certificates_no_volume(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_CERTIFICATES", Path("/nonexistent"))
    assert "--volume" not in Buildah(Path("/cache")).build_argv(JOB)


def test_docker_takes_the_same_flags() -> None:
    assert Daemon("docker").build_argv(JOB) == ["docker", "build", *JOB.flags()]


@pytest.mark.parametrize(
    "wanted, running, expected",
    [
        ("auto", set(), "buildah"),
        ("auto", {"docker", "podman"}, "docker"),
        ("auto", {"podman"}, "podman"),
        ("buildah", {"docker"}, "buildah"),
        ("podman", set(), "podman"),
    ],
)
def test_the_engine_is_what_runs_unless_told(wanted: str, running: set[str], expected: str) -> None:
    assert engines.decide(wanted, answers=running.__contains__) == expected


def test_the_private_engine_of_a_test_cluster_never_builds() -> None:
    inside = f"unix://{state_root()}/espalier/docker-run/docker.sock"
    assert engines.decide("auto", answers={"docker"}.__contains__, docker_host=inside) == "buildah"
    assert engines.decide("auto", answers={"docker"}.__contains__, docker_host="unix:///run/docker.sock") == "docker"


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(ImageError, match=r"'kaniko'.*\n.*buildah, docker, podman"):
        engines.decide("kaniko", answers=bool)


def test_the_base_follows_the_engine_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(bases.VARIABLE, raising=False)
    local, public = bases.choose(None, "buildah"), bases.choose(None, "docker")
    assert (local.kind, public.kind) == ("local", "public")
    assert local.arguments("python:3.13-slim") == {"BASE_IMAGE": f"localhost/espalier-base:{bases.recipe_digest()}"}
    assert local.arguments("scratch") == {}
    assert public.arguments("python:3.13-slim") == {}
    given = bases.choose("example.test/cuda-torch:1", "buildah")
    assert given.arguments("debian:trixie-slim") == {"BASE_IMAGE": "example.test/cuda-torch:1"}
    monkeypatch.setenv(bases.VARIABLE, "public")
    assert bases.choose(None, "buildah").kind == "public"
    assert len({local.identity, public.identity, given.identity}) == 3
