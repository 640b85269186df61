"""Is this process still doing its work? Asked by the liveness probe; the answer names what is stuck."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from espalier_operator.adapters.watches import Caches
    from espalier_operator.controllers.loop import Loops


class Health:
    """Looks at the loops' deadlines and the watches' connections."""

    def __init__(
        self, caches: Caches, loops: Loops, grace_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._caches = caches
        self._loops = loops
        self._grace = grace_seconds
        self._clock = clock

    def trouble(self) -> str | None:
        """What is wrong, or None. Every loop has a time by which it must move; every watch must be connected within the grace."""
        late, key = self._loops.overdue()
        if key is not None and late > self._grace:
            return f"the loop of {key.kind} {key.namespace}/{key.name} is {late:.0f} s late"
        if (blind := self._caches.unsynced_for(self._clock())) > self._grace:
            return f"a watch has had no answer from the API server for {blind:.0f} s"
        return None
