"""The processes of one training, as each of them sees the others. No torch here: most jobs are alone, and classical engines go without.

Every process draws the same batch, forwards its own rows, and takes part in one objective over all rows; so everything that is decided
from scores, weights or gradients is decided alike everywhere. Process 0 leads: it saves, reports and publishes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process stands among all: `rank` of `size`, and `local` of `locals` in its pod."""

    rank: int = 0
    size: int = 1
    local: int = 0
    locals: int = 1
    meet: str = ""
    """host:port of process 0."""


class Sharing(Enum):
    """What a block needs so that several processes, each with its own rows of a batch, give what one process gives."""

    REFUSED = "refused"
    """Nobody has looked; or it passes rows through the network itself, or remembers activations."""
    EXACT = "exact"
    """Nothing: it is a function of the scores of all rows, of weights, or of gradients, and every process has those alike."""
    WHOLE = "whole"
    """Its terms are of weights alone: each process computes them whole, and takes its part of their gradient."""


class Peers:
    """A process that is alone; `engines.torch.world` has the one that is not."""

    def __init__(self, place: Place | None = None) -> None:
        self.place = place or Place()

    @property
    def rank(self) -> int:
        """From 0."""
        return self.place.rank

    @property
    def size(self) -> int:
        """How many there are, over all pods."""
        return self.place.size

    @property
    def leads(self) -> bool:
        """True for the one that saves, reports and publishes."""
        return self.place.rank == 0

    def own(self, rows: int) -> slice:
        """Which of a batch's rows this process forwards; sizes differ by one at most."""
        return slice(rows * self.rank // self.size, rows * (self.rank + 1) // self.size)

    def whole(self, own: Tensor, rows: int) -> Tensor:
        """Own rows (own, ...) to the rows of all (rows, ...), in order; only the own ones carry a gradient."""
        return own

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Each tensor becomes the sum over all processes, in place."""

    def any(self, *, flag: bool) -> bool:
        """True everywhere when it is true somewhere. Asked by all at the same point."""
        return flag

    def meet(self, name: str, told: str = "") -> None:
        """Wait until all are here, as long as it takes. Each name once. InfrastructureError when they tell different things."""

    def leave(self) -> None:
        """The end of working together."""


ALONE = Peers()
_now: list[Peers] = [ALONE]


def current() -> Peers:
    """The view of this process; there is one, as there is one process group."""
    return _now[0]


def join(peers: Peers) -> None:
    """From now on, work together."""
    _now[0] = peers
