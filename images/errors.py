"""The one exception of this room."""

from __future__ import annotations

from cluster.errors import RemedyError


class ImageError(RemedyError):
    """An image, or what it is made of."""
