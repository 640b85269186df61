"""Whole jobs that sign: OpenSSF's own verifier judges what they publish, and the server takes it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from espalier_api import artifact
from espalier_api.artifact import Manifest
from espalier_api.serving import FeedbackSettings, ServingConfig
from espalier_server.artifact import fetch
from tests.unit.signing import PRIVATE, PUBLIC, SIG, key_pair, official_sign, official_verify
from tests.unit.trainer import jobs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from espalier_api.training import TrainingResult

QUICK = {"engine": {"sklearn": {"estimator": "logisticRegression"}}, "regularizers": {"l2": {"strength": 1e-3}}}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERMINATION_LOG", str(tmp_path / "term"))
    jobs.stage(tmp_path)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return key_pair(tmp_path / "keys")


def train(folder: Path, keys: Path, **changes: Any) -> TrainingResult:
    signing = {"secret": "tiny-key", "keyPath": str(keys / PRIVATE), "publicKeyPath": str(keys / PUBLIC)}
    return jobs.train(folder, **QUICK, signing=signing, **changes)


class Folder:
    """A published version as a server's store."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, name: str) -> Iterator[bytes]:
        yield (self._folder / name).read_bytes()


def serve(folder: Path, digest: str | None, keys: Path, work: Path) -> None:
    config = ServingConfig(
        namespace="vision",
        model="tiny",
        version="v1",
        artifact_uri="s3://models/vision/tiny/v1/",
        digest=digest or "",
        public_key_path=str(keys / PUBLIC),
        feedback=FeedbackSettings(key="u"),
    )
    fetch(Folder(folder), config, work)


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1()], ids=lambda curve: curve.name)
def test_a_signed_version_satisfies_the_reference_and_the_server(tmp_path: Path, curve: ec.EllipticCurve) -> None:
    keys = key_pair(tmp_path / "keys", curve)
    result = train(tmp_path, keys)
    folder = tmp_path / jobs.VERSION
    official_verify(folder, keys)
    serve(folder, result.digest, keys, tmp_path / "served")
    with pytest.raises(ValueError, match="Key mismatch"):
        official_verify(folder, key_pair(tmp_path / "other"))


def test_the_reference_misses_no_file_and_no_byte(tmp_path: Path, keys: Path) -> None:
    """The signature covers everything in the prefix but itself: the manifest, too."""
    train(tmp_path, keys)
    folder = tmp_path / jobs.VERSION
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert {artifact.MANIFEST, artifact.SBOM, artifact.MODEL_ONNX, SIG} <= set(names)
    for name in names:
        good = (folder / name).read_bytes()
        changed = bytearray(good)
        changed[-20] ^= 1
        (folder / name).write_bytes(changed)
        with pytest.raises((ValueError, InvalidSignature)):
            official_verify(folder, keys)
        (folder / name).write_bytes(good)
    official_verify(folder, keys)


def test_the_signature_changes_no_digest_and_can_be_renewed(tmp_path: Path, keys: Path) -> None:
    """It is in no manifest: a version of before the key, or of an older key, is signed later with the reference's tool."""
    digest = jobs.train(tmp_path, **QUICK).digest
    folder, new = tmp_path / jobs.VERSION, key_pair(tmp_path / "new")
    assert not (folder / SIG).exists()
    for pair in (keys, new):
        (folder / SIG).unlink(missing_ok=True)
        official_sign(folder, pair)
        serve(folder, digest, pair, tmp_path / "served")
    manifest = Manifest.model_validate_json((folder / artifact.MANIFEST).read_bytes())
    assert SIG not in manifest.files
    assert artifact.SBOM in manifest.files


def test_a_leftover_signature_does_not_survive(tmp_path: Path) -> None:
    folder = tmp_path / jobs.VERSION
    folder.mkdir(parents=True)
    (folder / SIG).write_text("of a dead attempt")
    assert jobs.train(tmp_path, **QUICK).exit_code == 0
    assert not (folder / SIG).exists()


def pem(key: Any, form: serialization.PrivateFormat, password: bytes = b"") -> bytes:
    locked = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    content: bytes = key.private_bytes(serialization.Encoding.PEM, form, locked)
    return content


COSIGN = b"""-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----
eyJrZGYiOnsibmFtZSI6InNjcnlwdCJ9fQ==
-----END ENCRYPTED SIGSTORE PRIVATE KEY-----
"""
P256, FORM = ec.generate_private_key(ec.SECP256R1()), serialization.PrivateFormat
REFUSED = {
    "cosign's own": (COSIGN, "is encrypted"),
    "PKCS#8 with a password": (pem(P256, FORM.PKCS8, b"pw"), "is encrypted"),
    "OpenSSL's with a password": (pem(P256, FORM.TraditionalOpenSSL, b"pw"), "is encrypted"),
    "RSA": (pem(rsa.generate_private_key(65537, 2048), FORM.PKCS8), "is not an elliptic-curve key on P-256"),
    "Ed25519": (pem(ed25519.Ed25519PrivateKey.generate(), FORM.PKCS8), "is not an elliptic-curve key on P-256"),
    "secp256k1": (pem(ec.generate_private_key(ec.SECP256K1()), FORM.PKCS8), "is not an elliptic-curve key on P-256"),
    "another than cosign.pub's": (pem(P256, FORM.PKCS8), "begins with another key than cosign.key's"),
    "half a key": (pem(P256, FORM.PKCS8)[:90], "is not a PEM private key"),
    "rubbish": (b"\x00\xff", "is not a PEM private key"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_key_that_cannot_sign_ends_the_job_before_training(
    tmp_path: Path, keys: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    content, words = REFUSED[case]
    (keys / PRIVATE).write_bytes(content)
    result = train(tmp_path, keys)
    assert (result.exit_code, result.reason) == (42, "InvalidConfig")
    assert result.message.startswith("artifacts.signing.keySecretRef: key cosign.")
    assert words in result.message
    assert "'tiny-key'" in result.message
    told = capsys.readouterr().out + result.message
    assert '"event": "data"' not in told
    for line in content.splitlines():
        assert b"-----" in line or len(line) < 8 or line not in told.encode()


@pytest.mark.parametrize("name", [PRIVATE, PUBLIC])
def test_a_key_that_is_missing_is_named(tmp_path: Path, keys: Path, name: str) -> None:
    (keys / name).unlink()
    result = train(tmp_path, keys)
    assert result.exit_code == 42
    assert f"key {name} of Secret 'tiny-key' cannot be read" in result.message


def test_openssl_s_older_form_and_older_public_keys_are_fine(tmp_path: Path, keys: Path) -> None:
    key = serialization.load_pem_private_key((keys / PRIVATE).read_bytes(), None)
    (keys / PRIVATE).write_bytes(pem(key, FORM.TraditionalOpenSSL))
    with (keys / PUBLIC).open("ab") as file:
        file.write((key_pair(tmp_path / "old") / PUBLIC).read_bytes())
    result = train(tmp_path, keys)
    assert result.exit_code == 0
    serve(tmp_path / jobs.VERSION, result.digest, keys, tmp_path / "served")


def test_no_key_material_is_in_what_the_job_writes(
    tmp_path: Path, keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path, keys)
    secret = (keys / PRIVATE).read_bytes().splitlines()[1]
    written = b"".join(path.read_bytes() for path in (tmp_path / jobs.VERSION).rglob("*") if path.is_file())
    lineage = json.loads((tmp_path / jobs.VERSION / artifact.LINEAGE).read_bytes())
    assert lineage["job"]["signing"]["secret"] == "tiny-key"
    assert secret not in written + capsys.readouterr().out.encode() + (tmp_path / "term").read_bytes()
