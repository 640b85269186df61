"""When a write can be taken to have reached traffic: accepted by the router, and the router's known lag later.

A route's status was seen ahead of traffic by up to 1.7 s (references/gateway.md), so acceptance alone proves nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime, timedelta


class Settling:
    """Remembers when each object's present state was first seen accepted. A restart waits for the lag once more."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._first: dict[tuple[str, str], tuple[object, datetime]] = {}

    def accepted(self, key: tuple[str, str], state: object) -> datetime:
        """When `state` of `key` was first seen accepted; now, if it is news."""
        known = self._first.get(key)
        if known is None or known[0] != state:
            known = self._first[key] = (state, self._clock())
        return known[1]

    def settled(self, since: datetime, lag: timedelta) -> bool:
        """The lag has passed."""
        return self._clock() >= since + lag

    def forget(self, key: tuple[str, str]) -> None:
        """Drop what is known of `key`."""
        self._first.pop(key, None)
