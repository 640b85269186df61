"""Key pairs, and OpenSSF's own implementation as the oracle: it signs what we verify and verifies what we sign."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from model_signing import hashing
from model_signing import signing as official_signing
from model_signing import verifying as official_verifying

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PRIVATE, PUBLIC, SIG = "cosign.key", "cosign.pub", "model.sig"


def key_pair(folder: Path, curve: ec.EllipticCurve | None = None) -> Path:
    """A new pair in `folder`, as openssl writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(curve or ec.SECP256R1())
    (folder / PRIVATE).write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (folder / PUBLIC).write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return folder


def official_sign(folder: Path, keys: Path) -> bytes:
    """What `model_signing sign key --signature <folder>/model.sig` writes for the files in `folder`."""
    config = official_signing.Config()  # type: ignore[no-untyped-call]
    config.use_elliptic_key_signer(private_key=keys / PRIVATE)
    digests = hashing.Config()  # type: ignore[no-untyped-call]
    config.set_hashing_config(digests.set_ignored_paths(paths=[SIG], ignore_git_paths=True))
    config.sign(folder, folder / SIG)
    return (folder / SIG).read_bytes()


def official_verify(folder: Path, keys: Path) -> None:
    """ValueError or InvalidSignature unless model.sig in `folder` is by the key and over every other file there."""
    config = official_verifying.Config()  # type: ignore[no-untyped-call]
    config.use_elliptic_key_verifier(public_key=keys / PUBLIC).verify(folder, folder / SIG)


def write_all(folder: Path, files: Mapping[str, bytes]) -> Path:
    """The files, in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder
