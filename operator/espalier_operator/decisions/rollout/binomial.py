"""The exact interval for a share: Clopper & Pearson (Biometrika 26, 1934), in plain floats.

The bounds are the shares at which the observed count, or a more extreme one, has probability alpha/2. No normal approximation: shares
near 0 and 1 and small counts are what a canary consists of.
"""

from __future__ import annotations

import math
from typing import Final

HALVINGS: Final = 50
"""Bisections: bounds to 2**-50."""
NEGLIGIBLE: Final = 1e-17


def interval(hits: int, of: int, alpha: float) -> tuple[float, float]:
    """Shares (0-1) that `hits` of `of` independent draws do not refute at level `alpha`; (0, 1) for no draws."""
    if of == 0:
        return 0.0, 1.0
    return _lower(hits, of, alpha / 2), 1.0 - _lower(of - hits, of, alpha / 2)


def _lower(hits: int, of: int, tail: float) -> float:
    """The share p below hits/of with P(X >= hits) = tail."""
    if hits == 0:
        return 0.0
    low, high = 0.0, hits / of
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if _at_least(hits, of, middle) < tail:
            low = middle
        else:
            high = middle
    return low


def _at_least(hits: int, of: int, share: float) -> float:
    """P(X >= hits), for hits >= of * share: the terms fall from the first one on."""
    log_term = (
        math.lgamma(of + 1)
        - math.lgamma(hits + 1)
        - math.lgamma(of - hits + 1)
        + hits * math.log(share)
        + (of - hits) * math.log1p(-share)
    ) if 0 < share < 1 else (0.0 if share else -math.inf)  # fmt: skip
    term = total = math.exp(log_term)
    odds = share / (1 - share) if share < 1 else 0.0
    for count in range(hits, of):
        term *= odds * (of - count) / (count + 1)
        total += term
        if term < NEGLIGIBLE * total:
            break
    return total
