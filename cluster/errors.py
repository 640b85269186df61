"""The exceptions of this room and of the images room: each says what to do."""

from __future__ import annotations


class RemedyError(Exception):
    """Something that a person has to act on.

    Args:
        what: the object and what was wrong with it.
        remedy: what to do about it, in the imperative.

    """

    def __init__(self, what: str, *, remedy: str) -> None:
        super().__init__(f"{what}\n  remedy: {remedy}")
        self.what = what
        self.remedy = remedy


class ClusterError(RemedyError):
    """A cluster, or what it is made of."""
