"""Signs a version with the tenant's key: OpenSSF Model Signing, key mode.

The key stays in this process; errors name the file, never its content.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from espalier_api import artifact, signature
from espalier_api.names import SIGNING_KEY, SIGNING_PUBLIC_KEY
from espalier_trainer.errors import InvalidConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from espalier_api.artifact import Manifest
    from espalier_api.training import JobSigning

FIELD: Final = "artifacts.signing.keySecretRef"
REMEDY: Final = (
    "make a pair with `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out cosign.key` and "
    "`openssl pkey -in cosign.key -pubout -out cosign.pub`"
)
_HASHES: Final[Mapping[str, hashes.HashAlgorithm]] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}


class Signer:
    """An elliptic-curve private key and what the standard makes of it."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        self._hash = _HASHES[signature.HASH_OF_CURVE[key.curve.name]]
        pem = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        self.hint = signature.key_hint(pem)

    def sign(self, manifest: Manifest, content: bytes) -> bytes:
        """model.sig over every file that the manifest lists and over the manifest itself, whose bytes are `content`."""
        files = {name: entry.sha256 for name, entry in manifest.files.items()}
        files[artifact.MANIFEST] = hashlib.sha256(content).hexdigest()
        payload = signature.statement(f"{manifest.namespace}/{manifest.model}/{manifest.version}", files)
        signed = self._key.sign(signature.pae(payload), ec.ECDSA(self._hash))
        return signature.bundle(payload, signed, self.hint)


def read_signer(signing: JobSigning) -> Signer:
    """The pair as the Job mounts it, checked before anything is trained. Raises InvalidConfigError: a retry would end the same."""
    signer = Signer(_private_key(_read(signing, signing.key_path, SIGNING_KEY), signing))
    try:
        public = serialization.load_pem_public_key(
            _first_pem(_read(signing, signing.public_key_path, SIGNING_PUBLIC_KEY))
        )
    except (ValueError, UnsupportedAlgorithm):
        raise _refused(signing, SIGNING_PUBLIC_KEY, f"is not a PEM public key; {REMEDY}") from None
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    if signature.key_hint(pem) != signer.hint:
        raise _refused(
            signing,
            SIGNING_PUBLIC_KEY,
            f"begins with another key than {SIGNING_KEY}'s; no server would accept what this Job signs. Put the public half first",
        )
    return signer


def _private_key(pem: bytes, signing: JobSigning) -> ec.EllipticCurvePrivateKey:
    if (
        b"ENCRYPTED" in pem
    ):  # PKCS#8's, OpenSSL's older form and cosign's own: a password beside the key would protect nothing
        raise _refused(
            signing, SIGNING_KEY, f"is encrypted (cosign's own format or PKCS#8), which is not supported: {REMEDY}"
        )
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _refused(signing, SIGNING_KEY, f"is not a PEM private key (PKCS#8 or SEC1); {REMEDY}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in signature.HASH_OF_CURVE:
        raise _refused(signing, SIGNING_KEY, f"is not an elliptic-curve key on P-256, P-384 or P-521; {REMEDY}")
    return key


def _first_pem(content: bytes) -> bytes:
    """The file may hold older keys below the present one, for versions that they signed."""
    end = b"-----END PUBLIC KEY-----"
    head, found, _ = content.partition(end)
    return head + found


def _read(signing: JobSigning, path: str, key: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise _refused(signing, key, f"cannot be read from {path} ({error.strerror}); add it") from None


def _refused(signing: JobSigning, key: str, problem: str) -> InvalidConfigError:
    return InvalidConfigError(f"{FIELD}: key {key} of Secret {signing.secret!r} {problem}")
