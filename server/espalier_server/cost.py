"""How long does the model compute? Measured at start on the golden inputs, to choose the lane of a request (see workers)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from espalier_server.model import Model, Rows

SMALL_SECONDS = 0.001
"""Longest work that may hold up the event loop."""
SMALL_BODY_BYTES = 16 << 10
"""Longest body that may: parsing it takes about a tenth of a millisecond."""
_REPEATS = 5
_BYTES_PER_NUMBER = 2


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds per call and per row of one model on this machine, from below: the fastest of a few runs."""

    call: float
    row: float
    features: int

    def is_small(self, body_bytes: int) -> bool:
        """Whether a request with a body of this length surely takes less than SMALL_SECONDS.

        The rows are not known before the body is parsed, but each number takes at least two bytes of it.
        """
        rows = body_bytes // (_BYTES_PER_NUMBER * self.features) + 1
        return body_bytes <= SMALL_BODY_BYTES and self.call + rows * self.row <= SMALL_SECONDS


def measure(model: Model, rows: Rows) -> Cost:
    """Run one row and all rows a few times. A machine busy with other things makes it too high: then threads, never wrong."""
    one, all_rows = _fastest(model, rows[:1]), _fastest(model, rows)
    row = max(all_rows - one, 0.0) / max(len(rows) - 1, 1)
    return Cost(call=one, row=row, features=rows.shape[1])


def _fastest(model: Model, rows: Rows) -> float:
    best = float("inf")
    for _ in range(_REPEATS):
        began = time.perf_counter()
        model.run(rows)
        best = min(best, time.perf_counter() - began)
    return best
