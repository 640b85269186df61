"""What one fit among several sees of the world: its share of the progress, and its own place in the checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from espalier_trainer.errors import PreemptedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from espalier_trainer.session import Preemption, Progress, Session


class Part:
    """Fit `index` of `count` inside a fit. Its state names it; the fits before it are repeated on resume, to the same bits."""

    def __init__(self, outer: Session, index: int, count: int) -> None:
        self._outer, self._index, self._count = outer, index, count

    def restore(self) -> Mapping[str, Any] | None:
        """The state, when it is this fit's."""
        state = self._outer.restore()
        return state["inner"] if state is not None and state["part"] == self._index else None

    def wants_checkpoint(self) -> bool:
        """When the whole wants one."""
        return self._outer.wants_checkpoint()

    def save(self, state: Mapping[str, Any]) -> None:
        """With the number of this fit."""
        self._outer.save({"part": self._index, "inner": state, "step": state["step"]})

    def stop_if_preempted(self) -> None:
        """As the whole."""
        self._outer.stop_if_preempted()

    def progress(self, now: Progress) -> None:
        """A part of the whole."""
        self._outer.progress(now.part(self._index, self._count))


class Short:
    """A trial or a fold: saves nothing of its own, because what it comes to is saved when it ends."""

    def __init__(self, preemption: Preemption, tell: Callable[[Progress], None], index: int, count: int) -> None:
        self._preemption, self._tell, self._index, self._count = preemption, tell, index, count

    def restore(self) -> Mapping[str, Any] | None:
        """Starts fresh."""
        return None

    def wants_checkpoint(self) -> bool:
        """Never."""
        return False

    def save(self, state: Mapping[str, Any]) -> None:
        """Nothing: see the class."""

    def stop_if_preempted(self) -> None:
        """Exit 75; what ended before is saved by the loop."""
        if self._preemption.together():
            raise PreemptedError("SIGTERM in the middle of a trial or fold; the next attempt repeats this one alone")

    def progress(self, now: Progress) -> None:
        """A part of all trials or folds."""
        self._tell(now.part(self._index, self._count))
