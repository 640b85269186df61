"""Aliases and history in the store: what a re-created rollout continues from, and what is too much for status.

Best effort: the truth is in status. A write that fails is tried again on later passes; it never delays or fails one.
"""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from espalier_api.durations import format_time
from espalier_api.names import API_VERSION
from espalier_operator.adapters.objectstore import NoSuchKeyError, ObjectStore, StoreError
from espalier_operator.decisions.plan import parse_time
from espalier_operator.decisions.rollout.memory import history_of
from espalier_operator.decisions.rollout.progress import Progress, Quarantined
from espalier_operator.decisions.rollout.report import aliases

if TYPE_CHECKING:
    from collections.abc import Mapping

    from espalier_operator.controllers.loop import Key

LOG = logging.getLogger(__name__)

AGAIN: Final = timedelta(seconds=30)
"""After a failed write."""


@dataclass(slots=True)
class _Written:
    """What this process knows to be in the store for one rollout."""

    documents: dict[str, str] = field(default_factory=dict)
    task: asyncio.Task[None] | None = None
    not_before: datetime | None = None


class Records:
    """Writes `aliases.json` and `history/<time>-<version>.json` below a model's prefix."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._written: dict[Key, _Written] = {}

    def keep(self, key: Key, prefix: str, progress: Progress, now: datetime) -> None:
        """Write what changed, beside the pass."""
        written = self._written.setdefault(key, _Written())
        if written.task is not None and not written.task.done():
            return
        if written.not_before is not None and now < written.not_before:
            return
        wanted = documents(prefix, progress)
        news = {uri: text for uri, text in wanted.items() if written.documents.get(uri) != text}
        if not news or (progress.stable is None and not progress.history):
            return
        written.task = asyncio.create_task(self._write(written, news, now), name=f"records {key.name}")

    async def _write(self, written: _Written, news: Mapping[str, str], now: datetime) -> None:
        for uri, text in news.items():
            try:
                await self._store.write(uri, text.encode())
            except StoreError as error:
                LOG.warning("%s was not written: %s; status has it, the store gets it later", uri, error)
                written.not_before = now + AGAIN
                return
            written.documents[uri] = text

    async def recall(self, prefix: str) -> tuple[str | None, tuple[Quarantined, ...]]:
        """(champion, quarantined) of a former life; nothing when there was none. Raises StoreError when nobody knows."""
        try:
            found = json.loads(await self._store.read(f"{prefix}aliases.json"))
            quarantined = tuple(
                Quarantined(q["version"], q.get("reason", ""), parse_time(q["at"]))
                for q in found.get("quarantined", ())
            )
            champion = (found.get("aliases") or {}).get("champion")
        except NoSuchKeyError:
            return None, ()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            LOG.warning("%saliases.json cannot be read (%r); going on without it", prefix, error)
            return None, ()
        return champion, quarantined

    def forget(self, key: Key) -> None:
        """The rollout is gone. A write under way may finish."""
        self._written.pop(key, None)


def documents(prefix: str, progress: Progress) -> dict[str, str]:
    """What the store shall hold, by URI."""
    roles: dict[str, Any] = {
        "apiVersion": API_VERSION,
        "kind": "Aliases",
        "aliases": aliases(progress).dump(),
        "quarantined": [
            {"version": q.version, "reason": q.reason, "at": format_time(q.at)} for q in progress.quarantined
        ],
    }
    written = {f"{prefix}aliases.json": json.dumps(roles, indent=1)}
    for ended, entry in zip(progress.history, history_of(progress), strict=True):
        stamp = ended.at.strftime("%Y%m%dT%H%M%S.%fZ")
        written[f"{prefix}history/{stamp}-{ended.version}.json"] = entry.to_json()
    return written
