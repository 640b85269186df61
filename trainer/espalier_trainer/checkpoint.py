"""Checkpoints without pickle: the state's tensors in one safetensors file whose header carries the rest as JSON.

One object per checkpoint, one PUT, so a reader sees it whole or not at all; a digest in the header catches what storage breaks. The
header also names the configuration and the data that it belongs to: a state of another job is refused.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import safetensors
import torch
from safetensors.torch import load, save

from espalier_trainer.log import say

if TYPE_CHECKING:
    from collections.abc import Mapping

    from espalier_trainer.storage import ObjectStore

KEEP: Final = 2
_FORMAT: Final = "espalier-checkpoint/1"


@dataclass(frozen=True, slots=True)
class Identity:
    """What a state belongs to; a resumed fit must agree in every field."""

    config: str  # digest of the job without its attempt
    data: str  # snapshot digest
    fit: int  # which of evaluation.seeds
    world: str  # torch version, device and thread count: bit-equality is promised on the same one only


def encode(state: Mapping[str, Any], identity: Identity) -> bytes:
    """State to bytes."""
    tensors: dict[str, torch.Tensor] = {}
    skeleton = json.dumps(_take(state, tensors, ""), allow_nan=False)
    header = {
        "format": _FORMAT,
        "config": identity.config,
        "data": identity.data,
        "fit": str(identity.fit),
        "world": identity.world,
        "state": skeleton,
        "digest": _digest(skeleton, tensors),
    }
    return save(tensors, metadata=header)


def decode(data: bytes) -> tuple[dict[str, Any], Identity]:
    """Bytes to state. ValueError when they are torn, foreign or broken."""
    try:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])["__metadata__"]
        tensors = load(data)
        skeleton = header["state"]
        if header["format"] != _FORMAT or header["digest"] != _digest(skeleton, tensors):
            raise ValueError("digest does not match")
        identity = Identity(header["config"], header["data"], int(header["fit"]), header["world"])
    except (KeyError, UnicodeDecodeError, json.JSONDecodeError, safetensors.SafetensorError) as error:
        raise ValueError(f"not a whole checkpoint: {type(error).__name__}") from error
    state: dict[str, Any] = _give(json.loads(skeleton), tensors)
    return state, identity


def _take(value: Any, tensors: dict[str, torch.Tensor], path: str) -> Any:  # noqa: ANN401 - a tree of plain values
    """Replace tensors by references; dict keys become text."""
    if isinstance(value, torch.Tensor):
        tensors[path] = value.detach().cpu().contiguous().clone()
        return {"$tensor": path}
    if isinstance(value, dict):
        return {str(k): _take(v, tensors, f"{path}/{k}") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_take(v, tensors, f"{path}/{i}") for i, v in enumerate(value)]
    return value


def _give(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:  # noqa: ANN401 - a tree of plain values
    if isinstance(value, dict):
        return (
            tensors[value["$tensor"]] if set(value) == {"$tensor"} else {k: _give(v, tensors) for k, v in value.items()}
        )
    return [_give(v, tensors) for v in value] if isinstance(value, list) else value


def _digest(skeleton: str, tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256(skeleton.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class Checkpoints:
    """The states of one job's version, newest last; keeps KEEP of them."""

    def __init__(self, store: ObjectStore, identity: Identity) -> None:
        self.store, self.identity = store, identity

    def save(self, state: Mapping[str, Any], identity: Identity | None = None) -> None:
        """Write, then remove what is older than the newest KEEP."""
        number = max((self._number(key) for key in self._keys()), default=0) + 1
        self.store.write(f"{number:08d}.safetensors", encode(state, identity or self.identity))
        for key in self._keys()[:-KEEP]:
            self.store.delete(key)

    def newest(self) -> tuple[dict[str, Any], Identity] | None:
        """The newest whole state that belongs here. What is not used is said, and why."""
        for key in reversed(self._keys()):
            data = self.store.read(key)
            if data is None:
                continue
            try:
                state, found = decode(data)
            except ValueError as error:
                say("checkpoint-unreadable", key=key, why=str(error))
                continue
            differing = [f for f in ("config", "data", "world") if getattr(found, f) != getattr(self.identity, f)]
            if not differing:
                return state, found
            say("checkpoint-refused", key=key, why=f"it belongs to another {' and '.join(differing)}; starting fresh")
            return None
        return None

    def clear(self) -> None:
        """Remove all: the version is published."""
        for key in self._keys():
            self.store.delete(key)

    def _keys(self) -> list[str]:
        return sorted(e.key for e in self.store.entries() if e.key.endswith(".safetensors"))

    @staticmethod
    def _number(key: str) -> int:
        stem = key.removesuffix(".safetensors")
        return int(stem) if stem.isdigit() else 0
