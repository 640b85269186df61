"""Counter-based randomness: every draw is a function of (seed, purpose, counters), so a checkpoint needs no generator state.

The mixer is SplitMix64 (Steele, Lea, Flood 2014), written here because the draws must be equal on every platform and on every
version of numpy and torch.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

_MASK: Final = (1 << 64) - 1
_GOLDEN: Final = 0x9E3779B97F4A7C15
_M1: Final = 0xBF58476D1CE4E5B9
_M2: Final = 0x94D049BB133111EB


def mix(value: int) -> int:
    """SplitMix64's finalizer: one 64-bit word in, one well-mixed 64-bit word out."""
    z = (value + _GOLDEN) & _MASK
    z = ((z ^ (z >> 30)) * _M1) & _MASK
    z = ((z ^ (z >> 27)) * _M2) & _MASK
    return z ^ (z >> 31)


def derive(seed: int, *counters: int | str) -> int:
    """A 63-bit seed for (seed, counters); words are purposes, numbers are steps, epochs or ranks."""
    state = mix(seed & _MASK)
    for counter in counters:
        word = int.from_bytes(counter.encode()[:8].ljust(8, b"\0"), "little") if isinstance(counter, str) else counter
        state = mix(state ^ (word & _MASK))
    return state >> 1


def keys(seed: int, n: int) -> npt.NDArray[np.uint64]:
    """One 64-bit key per row 0..n-1, shape (n,). Sorting by it is a permutation that no library version can change."""
    with np.errstate(over="ignore"):
        z = (np.arange(n, dtype=np.uint64) + np.uint64(mix(seed & _MASK))) * np.uint64(_GOLDEN)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(_M1)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(_M2)
    return z ^ (z >> np.uint64(31))


def permutation(seed: int, n: int) -> npt.NDArray[np.int64]:
    """A permutation of 0..n-1, shape (n,)."""
    return np.argsort(keys(seed, n), kind="stable").astype(np.int64)
