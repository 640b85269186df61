"""What crossValidation and the label audit know so far, as plain JSON values: it rides in every checkpoint, so that no finished fold is
repeated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from espalier_trainer.session import Clock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SECONDS: Final = 5.0
"""Between checkpoints after short folds; one that takes longer is saved when it ends."""


class Memory:
    """Records of folds, and the audit's findings. `write` saves the checkpoint of a moment between two fits."""

    def __init__(self, saved: Mapping[str, Any] | None, write: Callable[[], None]) -> None:
        found = saved or {}
        self.folds: list[dict[str, Any]] = list(found.get("folds", ()))
        self.audit: dict[str, Any] | None = found.get("audit")
        self._write, self._clock = write, Clock(SECONDS)

    def state(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"folds": self.folds, "audit": self.audit}

    def changed(self) -> None:
        """Save, if the last time is long ago."""
        if self._clock.due():
            self.save()

    def save(self) -> None:
        """Save now."""
        self._write()
