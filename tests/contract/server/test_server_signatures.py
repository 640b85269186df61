"""The process against a real object store, with a key: what OpenSSF's signer signed is served, everything else ends with 44."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.server.conftest import PREFIX, publish
from tests.unit.server.tiny import Version
from tests.unit.signing import PRIVATE, PUBLIC, SIG, key_pair, official_sign, write_all

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.contract.seaweedfs import S3


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return key_pair(tmp_path / "keys")


def signature(version: Version, keys: Path, folder: Path) -> bytes:
    """What the reference signs over the version."""
    files = {**version.files, "manifest.json": version.manifest}
    return official_sign(write_all(folder / f"{version.name}-of-{keys.name}", files), keys)


def upload(s3: S3, version: Version, content: bytes) -> None:
    s3.client.put_object(Bucket="models", Key=f"{PREFIX}{version.name}/{SIG}", Body=content)


def test_a_signed_version_is_served(
    serve: Callable[..., Any], s3: S3, version: Version, keys: Path, tmp_path: Path
) -> None:
    upload(s3, version, signature(version, keys, tmp_path))
    with serve(version.config(public_key_path=str(keys / PUBLIC))) as served:
        served.await_status("/v2/health/ready", 200)
        assert served.infer().status_code == 200


@pytest.mark.parametrize("case", ["missing", "another key's", "another version's", "cut", "a forged model"])
def test_anything_else_is_never_ready(
    serve: Callable[..., Any], s3: S3, version: Version, keys: Path, tmp_path: Path, case: str
) -> None:
    match case:
        case "missing":
            expected = "does not exist, and spec.artifacts.signing asks for it"
        case "another key's":
            upload(s3, version, signature(version, key_pair(tmp_path / "other"), tmp_path))
            expected = "not this model's key"
        case "another version's":
            upload(s3, version, signature(Version(name="v3"), keys, tmp_path))
            expected = "belongs to another version"
        case "cut":
            upload(s3, version, signature(version, keys, tmp_path)[:-40])
            expected = "sign the version again"
        case _:  # model and manifest agree, and the digest that is asked for is the forged one's
            upload(s3, version, signature(version, keys, tmp_path))
            version.files["metrics.json"] += b" "
            version.seal()
            publish(s3, version)
            expected = "manifest.json, metrics.json differ"
    with serve(version.config(public_key_path=str(keys / PUBLIC))) as served:
        assert served.exit_code() == 44
        told = served.words() + served.log()
        assert served.words().startswith("SignatureError: ")
    assert expected in told
    assert "ready:" not in told
    assert (keys / PRIVATE).read_text().splitlines()[1] not in told


def test_a_public_key_that_is_none_is_the_configurations_fault(
    serve: Callable[..., Any], version: Version, keys: Path
) -> None:
    with serve(version.config(public_key_path=str(keys / PRIVATE))) as served:
        assert served.exit_code() == 42
        told = served.words() + served.log()
    assert "key cosign.pub: holds no PEM public key" in told
    assert (keys / PRIVATE).read_text().splitlines()[1] not in told
