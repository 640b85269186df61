"""The one exception of this room."""

from __future__ import annotations


class ClusterError(Exception):
    """Something that a person has to act on.

    Args:
        what: the object and what was wrong with it.
        remedy: what to do about it, in the imperative.

    """

    def __init__(self, what: str, *, remedy: str) -> None:
        super().__init__(f"{what}\n  remedy: {remedy}")
        self.what = what
        self.remedy = remedy
