"""What served inputs are compared with: the training data's bins of every version in use, as gauges (drift, M8).

Read once per version from `reference.json`, beside the pass, so that a slow store delays nothing. At most
`MAX_FEATURES` features, in the artifact's order, as the server counts them; only champion and canary, so that series follow what serves.
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Final

from espalier_api.artifact import REFERENCE
from espalier_api.metrics import MAX_FEATURES
from espalier_operator import telemetry
from espalier_operator.adapters.objectstore import StoreError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from espalier_operator.adapters.objectstore import ObjectStore
    from espalier_operator.controllers.loop import Key

LOG = logging.getLogger(__name__)

Bins = dict[tuple[str, str], float]
"""(feature, bin) -> share of training rows."""
SERVING: Final = frozenset({"Champion", "Canary"})
"""States of versions that get traffic."""


class ReferenceGauges:
    """Knows which versions' references are shown."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._shown: dict[Key, dict[str, Bins]] = {}
        self._reading: dict[tuple[Key, str], asyncio.Task[None]] = {}

    def show(self, key: Key, prefixes: Mapping[str, str]) -> None:
        """Show exactly the versions in `prefixes` (version -> artifact prefix); missing ones are read in the background."""
        shown = self._shown.setdefault(key, {})
        for version in shown.keys() - prefixes.keys():
            self._remove(key, version)
        for version in prefixes.keys() - shown.keys():
            if (key, version) not in self._reading:
                reading = asyncio.create_task(self._read(key, version, prefixes[version] + REFERENCE))
                self._reading[key, version] = reading

    def forget(self, key: Key) -> None:
        """The object is gone."""
        for reading in [task for (owner, _), task in self._reading.items() if owner == key]:
            reading.cancel()
        for version in list(self._shown.get(key, ())):
            self._remove(key, version)
        self._shown.pop(key, None)

    async def _read(self, key: Key, version: str, uri: str) -> None:
        """A failure is logged and counted by the store's metric; the next pass tries again."""
        try:
            self._add(key, version, parse(await self._store.read(uri)))
        except (StoreError, ValueError) as error:
            LOG.warning("%s/%s: no drift reference of %s: %s", key.namespace, key.name, version, error)
        finally:
            self._reading.pop((key, version), None)

    def _add(self, key: Key, version: str, bins: Bins) -> None:
        for (feature, index), ratio in bins.items():
            telemetry.FEATURE_REFERENCE.labels(key.namespace, key.name, version, feature, index).set(ratio)
        self._shown.setdefault(key, {})[version] = bins

    def _remove(self, key: Key, version: str) -> None:
        for feature, index in self._shown[key].pop(version):
            telemetry.FEATURE_REFERENCE.remove(key.namespace, key.name, version, feature, index)


def parse(content: bytes) -> Bins:
    """reference.json to bins. Raises ValueError when it is not one."""
    document = json.loads(content)
    features = document.get("features") if isinstance(document, dict) else None
    if not isinstance(features, dict):
        raise ValueError(f"{REFERENCE}: features must be an object")  # noqa: TRY004 - the content of a file
    bins: Bins = {}
    for feature in list(features)[:MAX_FEATURES]:
        ratios = features[feature].get("ratios") if isinstance(features[feature], dict) else None
        if not isinstance(ratios, list) or not all(isinstance(ratio, int | float) for ratio in ratios):
            raise ValueError(f"{REFERENCE}: features.{feature}.ratios must be numbers")
        bins |= {(feature, str(index)): float(ratio) for index, ratio in enumerate(ratios)}
    return bins
