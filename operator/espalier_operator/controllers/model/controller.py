"""The RegularizedModel controller: observe, decide, execute. The only writer of RegularizedModel.status."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from espalier_api import conditions as c
from espalier_api import names
from espalier_operator.adapters.objectstore import ObjectStore, StoreError
from espalier_operator.adapters.resources import MODELS
from espalier_operator.controllers.model.gauges import ModelGauges
from espalier_operator.controllers.model.manifests import job_children
from espalier_operator.controllers.model.reference import SERVING, ReferenceGauges
from espalier_operator.decisions.model_summary import Decision, decide
from espalier_operator.decisions.plan import Event, Plan, parse_time

if TYPE_CHECKING:
    from collections.abc import Callable

    from espalier_operator.adapters.events import Recorder
    from espalier_operator.adapters.kube import Object
    from espalier_operator.adapters.watches import Caches
    from espalier_operator.controllers.execute import Executor
    from espalier_operator.controllers.loop import Key
    from espalier_operator.controllers.model.observe import ModelObserver
    from espalier_operator.decisions.model_seen import Seen
    from espalier_operator.settings import Settings

LOG = logging.getLogger(__name__)

PATIENCE: Final = timedelta(minutes=5)
"""How long a deletion waits for a silent store before it lets the object go and says what is left."""


class ModelController:
    """Controller for RegularizedModel."""

    resource = MODELS

    def __init__(
        self,
        *,
        caches: Caches,
        executor: Executor,
        observer: ModelObserver,
        store: ObjectStore,
        recorder: Recorder,
        settings: Settings,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._caches = caches
        self._executor = executor
        self._observer = observer
        self._store = store
        self._recorder = recorder
        self._settings = settings
        self._clock = clock
        self._gauges = ModelGauges()
        self._references = ReferenceGauges(store)

    def holds(self, obj: Object) -> bool:
        """Only artifacts that shall be deleted with the object need a finalizer; everything else the garbage collector does."""
        return _deletes_artifacts(obj)

    async def reconcile(self, key: Key) -> timedelta | None:
        """See Controller."""
        obj = self._caches.of(MODELS).get(key.namespace, key.name)
        if obj is None:
            return None
        seen = await self._observer.observe(obj)
        decision = decide(seen, self._clock())
        await self._executor.execute(self._plan(seen, decision), obj)
        self._gauges.show(key, seen, decision)
        self._references.show(key, _serving(seen, decision))
        return decision.plan.requeue_after

    async def finalize(self, key: Key) -> bool:
        """Delete the model's prefix when the spec says so; a store that stays silent delays this by `PATIENCE` at most."""
        obj = self._caches.of(MODELS).get(key.namespace, key.name)
        if obj is None or not _deletes_artifacts(obj):
            return True
        prefix = names.model_prefix(obj["spec"]["artifacts"]["uri"], key.namespace, key.name)
        try:
            await self._store.delete_prefix(prefix)
        except StoreError as error:
            since = self._clock() - parse_time(obj["metadata"]["deletionTimestamp"])
            LOG.warning("%s/%s: %s was not deleted: %s", key.namespace, key.name, prefix, error)
            if since < PATIENCE:
                return False
            words = f"{prefix} was not deleted because the store did not answer ({error}); delete it by hand"
            await self._recorder.record(obj, Event.warning(c.DELETION_INCOMPLETE, words))
        return True

    def forget(self, key: Key) -> None:
        """See Controller."""
        self._gauges.forget(key)
        self._references.forget(key)

    def _plan(self, seen: Seen, decision: Decision) -> Plan:
        """The decision's plan with the manifests of the Job that it starts."""
        start, spec = decision.start, seen.spec
        if start is None or spec is None:
            return decision.plan
        image = self._settings.trainer_image
        children = job_children(seen.meta, spec, start.version, start.attempt, image, start.references)
        return replace(decision.plan, apply=children)


def _serving(seen: Seen, decision: Decision) -> dict[str, str]:
    """Artifact prefix of every version that gets traffic."""
    if seen.spec is None or decision.plan.status is None:
        return {}
    place = (seen.spec.artifacts.uri, seen.meta.namespace, seen.meta.name)
    serving = [each["version"] for each in decision.plan.status.get("versions", ()) if each["state"] in SERVING]
    return {version: names.artifact_prefix(*place, version) for version in serving}


def _deletes_artifacts(obj: Object) -> bool:
    artifacts = (obj.get("spec") or {}).get("artifacts") or {}
    return bool(artifacts.get("deletionPolicy") == "Delete")
