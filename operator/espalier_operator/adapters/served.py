"""Which digest a serving pod says it serves: `GET /v2/models/<model>` at the pod's own address.

A Service would answer for any pod; a rollout must know it of each. An answer is kept for the life of the container: what
a server has loaded does not change.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from espalier_api.names import PORT_SERVER

if TYPE_CHECKING:
    from collections.abc import Iterable

    from espalier_operator.adapters.kube import Object

LOG = logging.getLogger(__name__)

TIMEOUT: Final = aiohttp.ClientTimeout(total=2.0)
KEPT: Final = 4096
"""Containers remembered; beyond it the oldest are asked again."""


class ServedDigests:
    """Asks pods, and remembers their answers."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._known: dict[tuple[str, int], str] = {}

    async def of(self, model: str, pods: Iterable[Object]) -> dict[str, str | None]:
        """Digest by pod uid; None for a pod that is not ready, or gave no answer."""
        ready = [pod for pod in pods if _is_ready(pod)]
        answers = await asyncio.gather(*(self._digest(model, pod) for pod in ready))
        return {pod["metadata"]["uid"]: digest for pod, digest in zip(ready, answers, strict=True)}

    async def close(self) -> None:
        """Close the session."""
        if self._session is not None:
            await self._session.close()

    async def _digest(self, model: str, pod: Object) -> str | None:
        key = _container(pod)
        if (known := self._known.get(key)) is not None:
            return known
        digest = await self._ask(model, pod["status"].get("podIP", ""))
        if digest is not None:
            while len(self._known) >= KEPT:
                del self._known[next(iter(self._known))]
            self._known[key] = digest
        return digest

    async def _ask(self, model: str, address: str) -> str | None:
        if not address:
            return None
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=TIMEOUT)
        host = f"[{address}]" if ":" in address else address
        try:
            async with self._session.get(f"http://{host}:{PORT_SERVER}/v2/models/{model}") as answer:
                answer.raise_for_status()
                told: Any = await answer.json()
                digest = told["parameters"]["digest"]
                return str(digest)
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError) as error:
            LOG.info("pod at %s does not tell its digest yet: %s: %s", host, type(error).__name__, error)
            return None


def _container(pod: Object) -> tuple[str, int]:
    statuses = pod["status"].get("containerStatuses") or [{}]
    return pod["metadata"]["uid"], int(statuses[0].get("restartCount") or 0)


def _is_ready(pod: Object) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions) and not pod["metadata"].get(
        "deletionTimestamp"
    )
