"""Decides whether a version's signature is by a key that this pod trusts, and vouches for exactly the files of the manifest."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from espalier_api.artifact import MANIFEST, SIGNATURE
from espalier_api.names import SIGNING_PUBLIC_KEY
from espalier_api.signature import HASH_OF_CURVE, Bundle, key_hint, pae, parse_bundle, signed_files
from espalier_server.errors import ConfigError, SignatureError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from espalier_api.artifact import Manifest

MAX_SIGNATURE_BYTES = 1 << 20
FIELD = f"spec.artifacts.signing: key {SIGNING_PUBLIC_KEY}"
_PEM = re.compile(rb"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----\n?", re.DOTALL)
_HASHES: Mapping[str, hashes.HashAlgorithm] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}

Keys = dict[str, ec.EllipticCurvePublicKey]
"""Trusted keys by their hint."""


def read_keys(path: Path) -> Keys:
    """The file's keys: one, or several while versions signed by an older one still serve. Raises ConfigError."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{FIELD}: cannot be read from {path} ({error.strerror}); add it to the Secret") from None
    keys = [_key(found) for found in _PEM.findall(content)]
    if not keys:
        raise ConfigError(f"{FIELD}: holds no PEM public key; write it with `openssl pkey -in cosign.key -pubout`")
    return {_hint(key): key for key in keys}


def check(content: bytes, manifest: Manifest, manifest_sha256: str, keys: Keys) -> None:
    """Believe the manifest because a trusted key signed it, together with every file that it lists. Raises SignatureError."""
    try:
        bundle = parse_bundle(content)
    except ValueError as error:
        raise SignatureError(f"{SIGNATURE}: {error}; sign the version again") from error
    _verify(bundle, keys)
    try:
        signed = signed_files(bundle.payload)
    except ValueError as error:
        raise SignatureError(f"{SIGNATURE}: {error}; sign the version again") from error
    expected = {name: entry.sha256 for name, entry in manifest.files.items()} | {MANIFEST: manifest_sha256}
    if wrong := sorted(name for name in signed.keys() | expected.keys() if signed.get(name) != expected.get(name)):
        raise SignatureError(
            f"{SIGNATURE}: is a good signature over other files: {', '.join(wrong[:5])} differ; it belongs to another version"
        )


def _verify(bundle: Bundle, keys: Keys) -> None:
    """ECDSA by the key that the bundle names, else by any of ours."""
    if bundle.hint and bundle.hint not in keys:
        raise SignatureError(
            f"{SIGNATURE}: signed by key {bundle.hint[:12]}, {SIGNING_PUBLIC_KEY} holds {', '.join(h[:12] for h in keys)}: "
            "not this model's key; sign the version again, or add the older key to the file"
        )
    for key in [keys[bundle.hint]] if bundle.hint else keys.values():
        try:
            key.verify(bundle.signature, pae(bundle.payload), ec.ECDSA(_HASHES[HASH_OF_CURVE[key.curve.name]]))
        except InvalidSignature:
            continue
        return
    raise SignatureError(
        f"{SIGNATURE}: the signature is wrong: it or what it signs was changed; nothing of it is believed"
    )


def _key(pem: bytes) -> ec.EllipticCurvePublicKey:
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(f"{FIELD}: is not a PEM public key; write it with `openssl pkey -pubout`") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in HASH_OF_CURVE:
        raise ConfigError(f"{FIELD}: is not an elliptic-curve key on P-256, P-384 or P-521; make such a pair")
    return key


def _hint(key: ec.EllipticCurvePublicKey) -> str:
    return key_hint(key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
