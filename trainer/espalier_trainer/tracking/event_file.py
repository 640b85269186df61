"""TensorBoard's event files: records of protobuf messages behind checksums. The format is small and has not changed since 2015.

A record is length, checksum of the length, message, checksum of the message, all little-endian; a checksum is CRC-32C, rotated and shifted
(TensorFlow, lib/io/record_writer.h). Messages are Event and Summary (util/event.proto, framework/summary.proto); field numbers are theirs.
The library that writes them would bring gRPC into the image; the reader of those who made the format is the oracle in tests.
"""

from __future__ import annotations

import struct
from typing import Final

_POLYNOMIAL: Final = 0x82F63B78  # Castagnoli's, bits reversed
_MASK: Final = 0xA282EAD8
_VARINT, _EIGHT_BYTES, _SIZED, _FOUR_BYTES = 0, 1, 2, 5  # wire types
_DT_STRING: Final = 7
_RGBA: Final = 4


def scalar(tag: str, value: float) -> bytes:
    """A Summary.Value with a 32-bit number."""
    return _text(1, tag) + _key(2, _FOUR_BYTES) + struct.pack("<f", value)


def image(tag: str, png: bytes) -> bytes:
    """A Summary.Value with a PNG as it is; width and height stand in its first chunk."""
    width, height = struct.unpack(">II", png[16:24])
    return _text(1, tag) + _sized(4, _number(1, height) + _number(2, width) + _number(3, _RGBA) + _sized(4, png))


def text(tag: str, words: str) -> bytes:
    """A Summary.Value with Markdown: a tensor of one string that the plugin `text` shows."""
    tensor = _number(1, _DT_STRING) + _sized(2, _sized(2, _number(1, 1))) + _text(8, words)
    return _text(1, tag) + _sized(8, tensor) + _sized(9, _sized(1, _text(1, "text")))


def summary(values: list[bytes], step: int, at: float) -> bytes:
    """A record with values of one step; `at` is seconds since 1970."""
    return _record(_event(at, step) + _sized(5, b"".join(_sized(1, value) for value in values)))


def header(at: float) -> bytes:
    """The first record of a file."""
    return _record(_event(at, 0) + _text(3, "brain.Event:2"))


def restart(step: int, at: float) -> bytes:
    """A record that takes back everything from `step` on: the one who tells was started again there (SessionLog START)."""
    return _record(_event(at, step) + _sized(7, _number(1, 1)))


# --- protobuf's wire format ------------------------------------------------------------------------------------------------
def _event(at: float, step: int) -> bytes:
    return _key(1, _EIGHT_BYTES) + struct.pack("<d", at) + _number(2, step)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:  # noqa: PLR2004 - seven bits a byte
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*found, value))


def _key(field: int, wire: int) -> bytes:
    return _varint(field << 3 | wire)


def _number(field: int, value: int) -> bytes:
    return _key(field, _VARINT) + _varint(value)


def _sized(field: int, content: bytes) -> bytes:
    return _key(field, _SIZED) + _varint(len(content)) + content


def _text(field: int, words: str) -> bytes:
    return _sized(field, words.encode())


# --- records ---------------------------------------------------------------------------------------------------------------
def _record(message: bytes) -> bytes:
    length = struct.pack("<Q", len(message))
    return length + _checksum(length) + message + _checksum(message)


def _checksum(content: bytes) -> bytes:
    crc = crc32c(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF)


def _entry(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (_POLYNOMIAL if byte & 1 else 0)
    return byte


_TABLE: Final = tuple(_entry(byte) for byte in range(256))


def crc32c(content: bytes) -> int:
    """Castagnoli's checksum (RFC 3720), a byte at a time: 0.1 us each, and files are small."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF
