"""Prediction ids that carry what feedback needs, so that any pod of any version can take a label and no store is
needed.

An id is urlsafe base64 of: format, time (ms), fingerprint of the classes, predicted (class index or value),
confidence, flags, nonce, version, HMAC-SHA256 cut to 12 bytes. The key is the UID of the RegularizedModel: an id of
another model does not verify. That is integrity, not authentication: whoever may ask the model may also label its
predictions.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import re
import secrets
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from hashlib import _Hash as Hash

_FORMAT = 1
_HEAD = struct.Struct(">BQ4sdfBQ")
_TAG_BYTES = 12
_REJECTED = 1
_TEXT = re.compile(r"[A-Za-z0-9_-]{60,160}")


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answered row. `predicted` is a class index or, for a regression, the value; `confidence` is 1.0 for a
    regression.
    """

    version: str
    at_ms: int
    """Unix time in milliseconds."""
    predicted: float
    confidence: float
    rejected: bool
    """The server abstained: a label for it says nothing about quality."""
    classes: bytes
    """`fingerprint` of the class list that `predicted` indexes."""


class InvalidIdError(ValueError):
    """Not an id of this model: cut, changed, or made with another model's key."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def fingerprint(classes: Sequence[str]) -> bytes:
    """Four bytes that tell two class lists apart; an index means nothing under another list."""
    return hashlib.sha256("\x00".join(classes).encode()).digest()[:4]


class PredictionIds:
    """Makes ids for one version and reads ids of every version of the model."""

    def __init__(self, key: str, version: str, classes: Sequence[str]) -> None:
        self._inner, self._outer = _keyed(key.encode())
        self._version = version
        self._suffix = version.encode()
        self.classes = fingerprint(classes)
        self._nonces = itertools.count(secrets.randbits(63))  # starts anywhere: two pods do not meet

    def issue(self, at_ms: int, predicted: float, confidence: float, *, rejected: bool) -> str:
        """An id that no other prediction has. About two microseconds."""
        flags = _REJECTED if rejected else 0
        nonce = next(self._nonces) & 0xFFFFFFFFFFFFFFFF
        body = _HEAD.pack(_FORMAT, at_ms, self.classes, predicted, confidence, flags, nonce) + self._suffix
        return base64.urlsafe_b64encode(body + self._tag(body)).rstrip(b"=").decode()

    def read(self, text: str) -> tuple[Prediction, bytes]:
        """The prediction and the 12 bytes that name it. Raises InvalidIdError with reason `malformed` or `foreign`."""
        if not _TEXT.fullmatch(text):
            raise InvalidIdError("malformed")
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)) if len(text) % 4 != 1 else b""
        body, tag = raw[:-_TAG_BYTES], raw[-_TAG_BYTES:]
        if len(body) <= _HEAD.size or body[0] != _FORMAT:
            raise InvalidIdError("malformed")
        if not hmac.compare_digest(tag, self._tag(body)):
            raise InvalidIdError("foreign")
        _, at_ms, classes, predicted, confidence, flags, _ = _HEAD.unpack_from(body)
        version = body[_HEAD.size :].decode()
        return Prediction(version, at_ms, predicted, confidence, bool(flags & _REJECTED), classes), tag

    def _tag(self, body: bytes) -> bytes:
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(body)
        outer.update(inner.digest())
        return outer.digest()[:_TAG_BYTES]


def _keyed(key: bytes) -> tuple[Hash, Hash]:
    """The two hashes of HMAC-SHA256 (RFC 2104) that have read the key: going on from copies is five times faster than
    hmac.digest, which starts from the key each time.
    """
    block = hashlib.sha256().block_size
    padded = (hashlib.sha256(key).digest() if len(key) > block else key).ljust(block, b"\0")
    return hashlib.sha256(bytes(byte ^ 0x36 for byte in padded)), hashlib.sha256(bytes(byte ^ 0x5C for byte in padded))
