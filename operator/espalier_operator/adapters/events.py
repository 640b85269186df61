"""Kubernetes Events about our objects: sent on transitions, never twice for the same news, never a reason to fail a
pass.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from espalier_operator.adapters.kube import Kube, KubeError, Object
from espalier_operator.decisions.plan import Event, rfc3339, shorten

if TYPE_CHECKING:
    from collections.abc import Callable

LOG = logging.getLogger(__name__)

COMPONENT = "espalier-operator"
REPEAT_SECONDS = 600.0
"""The same reason and message about the same object within this time is not news: a pass that was repeated after a
conflict sends nothing twice."""
REMEMBERED = 4096
MESSAGE_LIMIT = 1024
"""The API server's bound on an Event's message, in characters."""


class Recorder:
    """Sends Events and remembers, within bounds, what it sent."""

    def __init__(self, kube: Kube, clock: Callable[[], float] = time.monotonic) -> None:
        self._kube = kube
        self._clock = clock
        self._sent: OrderedDict[tuple[str, str, str], float] = OrderedDict()

    async def record(self, about: Object, event: Event) -> None:
        """Send `event` about `about`. A failure is logged and counted (API request metric), not raised: events are
        for people.
        """
        key = (about["metadata"].get("uid", ""), event.reason, event.message)
        now = self._clock()
        if now - self._sent.get(key, -REPEAT_SECONDS) < REPEAT_SECONDS:
            return
        LOG.log(
            logging.WARNING if event.type_ == "Warning" else logging.INFO,
            "%s %s/%s: %s: %s",
            *(about["kind"], *_name(about), event.reason, event.message),
        )
        try:
            await self._kube.create(_manifest(about, event))
        except KubeError as error:
            LOG.warning("event %s about %s/%s was not sent: %s", event.reason, *_name(about), error)
            return
        self._sent[key] = now
        self._sent.move_to_end(key)
        while len(self._sent) > REMEMBERED:
            self._sent.popitem(last=False)


def _name(about: Object) -> tuple[str, str]:
    return about["metadata"].get("namespace", ""), about["metadata"]["name"]


def _manifest(about: Object, event: Event) -> dict[str, object]:
    namespace, name = _name(about)
    now = rfc3339(datetime.now(UTC))
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": f"{name}-", "namespace": namespace},
        "involvedObject": {
            "apiVersion": about["apiVersion"],
            "kind": about["kind"],
            "namespace": namespace,
            "name": name,
            "uid": about["metadata"].get("uid", ""),
            "resourceVersion": about["metadata"].get("resourceVersion", ""),
        },
        "type": event.type_,
        "reason": event.reason,
        "message": shorten(event.message, MESSAGE_LIMIT),
        "source": {"component": COMPONENT},
        "reportingComponent": COMPONENT,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
