"""model.sig: OpenSSF Model Signing v1.0 in key mode, as bytes. The form only: keys and ECDSA are the rooms' own (docs/adr/0050).

A Sigstore bundle holds a DSSE envelope, which holds an in-toto statement, which names every file with its sha256. What is signed is the
envelope's pre-authentication encoding, so the type cannot be swapped. Sources: model_signing/signature/v1.0 (model-transparency),
DSSE v1.0.0 protocol.md, in-toto Statement v1, Sigstore bundle v0.3.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from espalier_api.artifact import SIGNATURE

if TYPE_CHECKING:
    from collections.abc import Mapping

BUNDLE_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "https://model_signing/signature/v1.0"
HASH_OF_CURVE: Final = {"secp256r1": "sha256", "secp384r1": "sha384", "secp521r1": "sha512"}
"""Curves that the standard knows, each with the hash that is signed."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


class Bundle(NamedTuple):
    """What a signature file holds; nothing in it is trusted yet."""

    payload: bytes
    """The in-toto statement."""
    signature: bytes
    """ECDSA in DER over `pae(payload)`."""
    hint: str
    """`key_hint` of the key it claims; empty when it claims none."""


def key_hint(public_pem: bytes) -> str:
    """How a bundle names its key: sha256 of the public key's PEM (SubjectPublicKeyInfo), hexadecimal."""
    return hashlib.sha256(public_pem).hexdigest()


def statement(name: str, files: Mapping[str, str]) -> bytes:
    """The in-toto statement over `files` (name to sha256, hexadecimal). `name` informs; verifiers ignore it, as the standard says."""
    ordered = sorted(files.items())
    content = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": _root(ordered)}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            # The signature lies among the files and cannot sign itself.
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": [SIGNATURE],
            },
            "resources": [{"name": n, "algorithm": "sha256", "digest": digest} for n, digest in ordered],
        },
    }
    return json.dumps(content, separators=(",", ":")).encode()


def pae(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: what the key really signs."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def bundle(payload: bytes, signature: bytes, hint: str) -> bytes:
    """The signature file."""
    content = {
        "mediaType": BUNDLE_TYPE,
        "verificationMaterial": {"publicKey": {"hint": hint}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": _to64(payload),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": _to64(signature), "keyid": ""}],
        },
    }
    return (json.dumps(content, separators=(",", ":")) + "\n").encode()


def parse_bundle(content: bytes) -> Bundle:
    """Read a signature file; ValueError tells what is not as the standard says."""
    try:
        told = json.loads(content)
        if told["mediaType"] != BUNDLE_TYPE:
            raise ValueError(f"mediaType is not {BUNDLE_TYPE}")
        envelope, material = told["dsseEnvelope"], told["verificationMaterial"]
        if envelope["payloadType"] != PAYLOAD_TYPE:
            raise ValueError(f"dsseEnvelope.payloadType is not {PAYLOAD_TYPE}")
        if len(envelope["signatures"]) != 1 or "publicKey" not in material:
            raise ValueError("must hold one signature made with a key; keyless and certificate signatures are not read")
        payload, signature = envelope["payload"], envelope["signatures"][0]["sig"]
        return Bundle(_from64(payload), _from64(signature), str(material["publicKey"].get("hint") or ""))
    except (KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise ValueError(f"not a Sigstore bundle with a DSSE envelope ({type(error).__name__}: {error})") from error


def signed_files(payload: bytes) -> dict[str, str]:
    """Name to sha256 of every file that a (verified) statement vouches for; ValueError when it is no such statement."""
    try:
        told = json.loads(payload)
        if (told["_type"], told["predicateType"]) != (STATEMENT_TYPE, PREDICATE_TYPE):
            raise ValueError(f"the statement is not {PREDICATE_TYPE}")
        serialization, resources = told["predicate"]["serialization"], told["predicate"]["resources"]
        if (serialization["method"], serialization["hash_type"]) != ("files", "sha256"):
            raise ValueError("files must be signed whole and by sha256 (serialization files, hash_type sha256)")
        files = [_resource(each) for each in resources]
        if len(told["subject"]) != 1 or told["subject"][0]["digest"]["sha256"] != _root(files):
            raise ValueError("the subject's digest is not that of the resources")
    except (KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise ValueError(f"not a model_signing statement ({type(error).__name__}: {error})") from error
    if len(found := dict(files)) != len(files):
        raise ValueError("a file is named twice")
    return found


def _resource(resource: Mapping[str, Any]) -> tuple[str, str]:
    name, digest = resource["name"], resource["digest"]
    if resource["algorithm"] != "sha256" or not isinstance(name, str) or not _SHA256.fullmatch(digest):
        raise ValueError("a resource is not a name with a sha256")
    return name, digest


def _root(files: list[tuple[str, str]]) -> str:
    """One digest over all: sha256 of the raw digests in order."""
    return hashlib.sha256(b"".join(bytes.fromhex(digest) for _, digest in files)).hexdigest()


def _to64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _from64(content: str) -> bytes:
    return base64.b64decode(content, validate=True)
