"""Configuration, waiting for the store, and the last words of a version that is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from espalier_server.config import read_config
from espalier_server.errors import ArtifactError, ConfigError, StorageDeniedError, StorageUnavailableError
from espalier_server.loading import load
from espalier_server.process import report
from tests.unit.server.tiny import Version

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def serving_json(**changes: Any) -> dict[str, Any]:
    return Version().config().dump() | changes


def test_a_good_configuration_is_read(tmp_path: Path) -> None:
    path = tmp_path / "serving.json"
    path.write_text(json.dumps(serving_json()))
    assert read_config(path) == Version().config()


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"fallback": {"modelRef": {"name": "rules"}}}, "fallback"),
        ({"digest": "latest"}, "digest"),
        ({"artifactUri": "http://models/x/"}, "artifactUri"),
        ({"latencyBuckets": []}, "latencyBuckets"),
        ({"latencyBuckets": [0.1, 0.1]}, "latencyBuckets"),
        ({"latencyBuckets": [-1.0, 0.1]}, "latencyBuckets"),
        ({"limits": {"concurrency": 0}}, "limits.concurrency"),
        ({"drainSeconds": -1}, "drainSeconds"),
        ({"feedback": {}}, "feedback.key"),
        ({"outputGuards": {"minConfidence": 1.5}}, "outputGuards.minConfidence"),
    ],
)
def test_a_bad_configuration_is_refused_by_field(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "serving.json"
    path.write_text(json.dumps(serving_json(**changes)))
    with pytest.raises(ConfigError, match=message):
        read_config(path)


@pytest.mark.parametrize("content", ["", "{", "[]", "\x00"])
def test_what_is_no_configuration(tmp_path: Path, content: str) -> None:
    path = tmp_path / "serving.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"serving\.json"):
        read_config(path)
    with pytest.raises(ConfigError, match="mount the version's ConfigMap"):
        read_config(tmp_path / "missing.json")


class AwayFor:
    """A store that is away for some reads, then there."""

    def __init__(self, version: Version, times: int) -> None:
        self.version = version
        self.left = times

    def read(self, name: str) -> Iterator[bytes]:
        """See espalier_server.storage.Store."""
        if self.left:
            self.left -= 1
            raise StorageUnavailableError(f"{name}: connection refused")
        return self.version.read(name)


def test_a_store_that_is_away_is_waited_for_with_growing_pauses(tmp_path: Path) -> None:
    version = Version()
    store = AwayFor(version, 8)
    pauses: list[float] = []
    reasons: list[str] = []
    loaded = load(version.config(), lambda _: store, tmp_path, wait=pauses.append, told=reasons.append)
    assert loaded.golden.n == 64
    assert len(pauses) == 8
    for pause, most in zip(pauses, [1, 2, 4, 8, 16, 30, 30, 30], strict=True):
        assert most / 2 <= pause <= most
    assert all("connection refused" in reason for reason in reasons)


def test_a_store_that_goes_away_in_the_middle_is_asked_again_from_the_start(tmp_path: Path) -> None:
    version = Version()
    interrupted = [True]

    class Flaky(Version):
        def read(self, name: str) -> Iterator[bytes]:
            yield from super().read(name)
            if name == "model.onnx" and interrupted.pop():
                interrupted.append(False)
                raise StorageUnavailableError("reset by peer")

    store = Flaky()
    load(version.config(), lambda _: store, tmp_path, wait=lambda _: None, told=lambda _: None)
    assert store.reads.count("model.onnx") == 2


@pytest.mark.parametrize("error", [ArtifactError("changed"), StorageDeniedError("AccessDenied")])
def test_everything_else_is_final(tmp_path: Path, error: Exception) -> None:
    class Broken(Version):
        def read(self, name: str) -> Iterator[bytes]:
            raise error

    with pytest.raises(type(error)):
        load(Version().config(), lambda _: Broken(), tmp_path, wait=_never, told=_never)


def _never(_: object) -> None:
    raise AssertionError("must not be tried again")


@pytest.mark.parametrize(
    "error,code", [(ArtifactError("x"), 44), (ConfigError("x"), 42), (StorageDeniedError("x"), 42), (KeyError("x"), 1)]
)
def test_the_last_words_say_why(tmp_path: Path, error: Exception, code: int) -> None:
    words = tmp_path / "termination-log"
    words.write_text("from the container before, and longer than what follows" * 3)
    assert report(error, words) == code
    assert words.read_text() == f"{type(error).__name__}: {error}"
    assert report(ArtifactError("x" * 10_000), words) == 44
    assert words.stat().st_size == 4096


def test_without_kubernetes_there_is_no_termination_log(tmp_path: Path) -> None:
    assert report(ArtifactError("x"), tmp_path / "absent") == 44
    assert not (tmp_path / "absent").exists()
