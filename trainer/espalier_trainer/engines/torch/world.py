"""Working together through torch.distributed: gloo between CPUs, NCCL between GPUs.

Two things are shared per step: scores, before the objective, and gradients, after it. Each process computes the whole objective, but only
its own rows carry a gradient; by the chain rule the sum of the processes' gradients is the gradient of the objective of the whole batch,
whatever function of scores and batch it is (a mean of means would not be: R31).

A process that dies closes its connections, and the others end with 76 (PeerLostError) at their next exchange.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined] # torch's stubs do not say so

from espalier_trainer.errors import InfrastructureError, PeerLostError, PreemptedError
from espalier_trainer.peers import Peers, Place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

PATIENCE: Final = timedelta(minutes=5)
"""Longest exchange: the leader may save a checkpoint meanwhile."""
LOOK: Final = 0.2
"""Seconds between two looks at who is here."""


class Together(Peers):
    """One of several processes. The constructor returns when all are connected; PreemptedError when `told_to_leave` meanwhile."""

    def __init__(self, place: Place, told_to_leave: Callable[[], bool]) -> None:
        super().__init__(place)
        self._told_to_leave = told_to_leave
        self._store = self._open_store()
        self.meet("present")
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        with _watched("connecting"):
            dist.init_process_group(
                backend,
                store=PrefixStore("group", self._store),
                rank=place.rank,
                world_size=place.size,
                timeout=PATIENCE,
            )

    def _open_store(self) -> TCPStore:
        """Process 0 holds it, on all its addresses; the others knock until it is there, and its name with it."""
        host, _, port = self.place.meet.rpartition(":")
        while True:
            try:
                return TCPStore(
                    "localhost" if self.leads else host,
                    int(port),
                    is_master=self.leads,
                    timeout=timedelta(seconds=10),
                    wait_for_workers=False,
                    use_libuv=False,  # Debian's torch has none
                )
            except (dist.DistNetworkError, dist.DistStoreError) as error:
                if self.leads:
                    raise InfrastructureError(f"port {port} of this pod cannot be opened: {error}") from error
                self._pause("process 0")

    def _pause(self, whom: str) -> None:
        if self._told_to_leave():
            raise PreemptedError(f"SIGTERM while waiting for {whom}; the next attempt starts this phase again")
        time.sleep(LOOK)

    def whole(self, own: Tensor, rows: int) -> Tensor:
        """See Peers. A sum over zeros, so that shares may differ in size; x + 0 is x."""
        where = self.own(rows)
        shared = own.new_zeros((rows, *own.shape[1:]))
        shared[where] = own.detach()
        with _watched("sharing scores"):
            dist.all_reduce(shared)
        return torch.cat([shared[: where.start], own, shared[where.stop :]])

    def add(self, tensors: Sequence[Tensor]) -> None:
        """See Peers. In one exchange; every process gets the same bits."""
        if not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        with _watched("adding gradients"):
            dist.all_reduce(flat)
        for tensor, part in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def any(self, *, flag: bool) -> bool:
        """See Peers."""
        told = torch.tensor([float(flag)])
        with _watched("agreeing"):
            dist.all_reduce(told, dist.ReduceOp.MAX)
        return bool(told.item())

    def meet(self, name: str, told: str = "") -> None:
        """See Peers. Through the store, because the leader may judge a fit for as long as it likes."""
        with _watched(f"meeting for {name}"):
            self._store.set(f"{name}/{self.rank}", told)
            for rank in range(self.size):
                while not self._store.check([f"{name}/{rank}"]):
                    self._pause(f"process {rank}")
                theirs = self._store.get(f"{name}/{rank}").decode()
                if theirs != told:
                    raise InfrastructureError(
                        f"process {rank} and process {self.rank} begin differently ({theirs!r} and {told!r}); all start again"
                    )

    def leave(self) -> None:
        """Close connections; the store ends with its process."""
        if dist.is_initialized():
            dist.destroy_process_group()


@contextmanager
def _watched(doing: str) -> Iterator[None]:
    """Torch tells of a lost connection by a RuntimeError of one kind or another."""
    try:
        yield
    except RuntimeError as error:
        raise PeerLostError(f"another process was lost while {doing}: {str(error).splitlines()[0][:300]}") from error
