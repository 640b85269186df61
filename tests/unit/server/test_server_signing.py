"""A pod that asks for a signature serves nothing else; OpenSSF's own signer is what made the good ones."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from espalier_server.artifact import fetch
from espalier_server.errors import ArtifactError, ConfigError, MissingObjectError, SignatureError
from tests.unit.server.tiny import Version
from tests.unit.signing import PUBLIC, SIG, key_pair, official_sign, write_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Signed(Version):
    """A version with a signature beside its files, which its manifest does not list."""

    __slots__ = ("signature",)

    signature: bytes | None

    def read(self, name: str) -> Iterator[bytes]:
        if name != SIG:
            yield from super().read(name)
            return
        self.reads.append(name)
        if self.signature is None:
            raise MissingObjectError(f"{name} does not exist")
        yield self.signature


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return key_pair(tmp_path / "keys")


def signed(folder: Path, keys: Path, **fields: Any) -> Signed:
    version = Signed(**fields)
    place = write_all(folder / f"{version.name}-{keys.name}", {**version.files, "manifest.json": version.manifest})
    version.signature = official_sign(place, keys)
    return version


def load(version: Version, keys: Path, tmp_path: Path) -> None:
    fetch(version, version.config(public_key_path=str(keys / PUBLIC)), tmp_path / "artifact")


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_what_the_reference_signs_is_served(tmp_path: Path, curve: ec.EllipticCurve) -> None:
    keys = key_pair(tmp_path / "keys", curve)
    version = signed(tmp_path, keys)
    load(version, keys, tmp_path)
    assert version.reads[:2] == ["manifest.json", SIG]  # nothing else is read before the signature holds


def test_without_a_key_nobody_asks_for_a_signature(tmp_path: Path) -> None:
    version = Version()
    fetch(version, version.config(), tmp_path / "artifact")
    assert SIG not in version.reads


def test_a_missing_signature_is_refused(tmp_path: Path, keys: Path) -> None:
    version = signed(tmp_path, keys)
    version.signature = None
    with pytest.raises(SignatureError, match=r"v4/model\.sig does not exist, and spec\.artifacts\.signing asks"):
        load(version, keys, tmp_path)
    assert version.reads == ["manifest.json", SIG]


def test_another_key_is_refused_and_named_by_its_fingerprint(tmp_path: Path, keys: Path) -> None:
    version = signed(tmp_path, key_pair(tmp_path / "other"))
    with pytest.raises(SignatureError, match=r"signed by key [0-9a-f]{12}, cosign\.pub holds [0-9a-f]{12}"):
        load(version, keys, tmp_path)


def test_claiming_our_key_does_not_help_another(tmp_path: Path, keys: Path) -> None:
    hint = _told(signed(tmp_path, keys))["verificationMaterial"]["publicKey"]["hint"]
    version = signed(tmp_path, key_pair(tmp_path / "other"))
    for claimed in (hint, "", None):
        told = _told(version)
        told["verificationMaterial"]["publicKey"]["hint"] = claimed
        version.signature = json.dumps(told).encode()
        with pytest.raises(SignatureError, match="the signature is wrong"):
            load(version, keys, tmp_path)


def test_an_older_key_in_the_file_still_counts(tmp_path: Path, keys: Path) -> None:
    new = key_pair(tmp_path / "new")
    version = signed(tmp_path, keys)
    with (new / PUBLIC).open("ab") as file:
        file.write((keys / PUBLIC).read_bytes())
    load(version, new, tmp_path)
    load(signed(tmp_path, new), new, tmp_path)


def test_the_signature_of_another_version_is_refused(tmp_path: Path, keys: Path) -> None:
    version, other = signed(tmp_path, keys), signed(tmp_path, keys, name="v3")
    version.signature = other.signature
    with pytest.raises(SignatureError, match=r"over other files: manifest\.json differ"):
        load(version, keys, tmp_path)


@pytest.mark.parametrize("seed", range(3))
def test_a_consistent_forgery_without_the_key_is_refused(tmp_path: Path, keys: Path, seed: int) -> None:
    """Who may write to the bucket and even choose the digest (a version that is adopted) still lacks the key."""
    version = signed(tmp_path, keys)
    version.files["model.onnx"] += b"\x00"
    version.seal(seed=seed)
    with pytest.raises(SignatureError, match=r"manifest\.json, model\.onnx differ"):
        load(version, keys, tmp_path)


def test_a_file_more_or_less_than_signed_is_refused(tmp_path: Path, keys: Path) -> None:
    version = signed(tmp_path, keys)
    version.files["extra.json"] = b"{}"
    version.seal()
    with pytest.raises(SignatureError, match=r"extra\.json, manifest\.json differ"):
        load(version, keys, tmp_path)


@pytest.mark.parametrize("name", [*Version().files])
def test_one_flipped_byte_of_any_file_is_refused(tmp_path: Path, keys: Path, name: str) -> None:
    version = signed(tmp_path, keys)
    content = bytearray(version.files[name])
    content[len(content) // 2] ^= 1
    version.files[name] = bytes(content)
    with pytest.raises(ArtifactError, match=name.replace(".", r"\.")):
        load(version, keys, tmp_path)


def test_no_flipped_byte_of_the_signature_serves_something_else(tmp_path: Path, keys: Path) -> None:
    """A byte that still leaves a good signature can only be one that means nothing (a space, an ignored field)."""
    version = signed(tmp_path, keys)
    good, refused = version.signature or b"", 0
    told = _told(version)
    payload, raw = told["dsseEnvelope"]["payload"], told["dsseEnvelope"]["signatures"][0]["sig"]
    for position in range(0, len(good), 7):
        version.signature = good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :]
        try:
            load(version, keys, tmp_path)
        except SignatureError:
            refused += 1
            continue
        kept = _told(version)["dsseEnvelope"]
        assert base64.b64decode(kept["payload"]) == base64.b64decode(payload)
        assert base64.b64decode(kept["signatures"][0]["sig"]) == base64.b64decode(raw)
    assert refused > 0.9 * len(good) / 7


@pytest.mark.parametrize(
    "change",
    [
        lambda told: told.update(mediaType="application/json"),
        lambda told: told["dsseEnvelope"].update(payloadType="text/plain"),
        lambda told: told["dsseEnvelope"].update(signatures=[]),
        lambda told: told["dsseEnvelope"].update(payload="%%"),
        lambda told: told["dsseEnvelope"].update(payload=None),
        lambda told: told["verificationMaterial"].pop("publicKey"),
        lambda told: told.pop("dsseEnvelope"),
        lambda told: told["verificationMaterial"].update(publicKey=7),
    ],
)
def test_what_is_no_bundle_is_refused(tmp_path: Path, keys: Path, change: Callable[[Any], object]) -> None:
    version = signed(tmp_path, keys)
    _edit(version, change)
    with pytest.raises(SignatureError, match=r"model\.sig: .*sign the version again"):
        load(version, keys, tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff", b"[" * 100_000])
def test_rubbish_is_refused(tmp_path: Path, keys: Path, content: bytes) -> None:
    version = signed(tmp_path, keys)
    version.signature = content
    with pytest.raises(SignatureError, match=r"model\.sig"):
        load(version, keys, tmp_path)


def test_an_endless_signature_is_refused(tmp_path: Path, keys: Path) -> None:
    version = signed(tmp_path, keys)
    version.signature = b" " * (2 << 20)
    with pytest.raises(ArtifactError, match=r"model\.sig: longer than"):
        load(version, keys, tmp_path)


def test_a_key_file_that_is_none_is_the_configurations_fault(tmp_path: Path, keys: Path) -> None:
    version = signed(tmp_path, keys)
    wrong = rsa.generate_private_key(65537, 2048).public_key()
    weak = ec.generate_private_key(ec.SECP256K1()).public_key()
    pems = {
        name: key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        for name, key in (("rsa", wrong), ("secp256k1", weak))
    }
    cases = {
        b"not a key": "holds no PEM public key",
        (keys / "cosign.key").read_bytes(): "holds no PEM public key",
        b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n": "is not a PEM public key",
        pems["rsa"]: "is not an elliptic-curve key",
        pems["secp256k1"]: "is not an elliptic-curve key",
    }
    for content, message in cases.items():
        (keys / PUBLIC).write_bytes(content)
        with pytest.raises(ConfigError, match=message) as refused:
            load(version, keys, tmp_path)
        assert "PRIVATE" not in str(refused.value)
    (keys / PUBLIC).unlink()
    with pytest.raises(ConfigError, match="add it to the Secret"):
        load(version, keys, tmp_path)


def _told(version: Signed) -> Any:
    return json.loads(version.signature or b"")


def _edit(version: Signed, change: Callable[[Any], object]) -> None:
    told = _told(version)
    change(told)
    version.signature = json.dumps(told).encode()
