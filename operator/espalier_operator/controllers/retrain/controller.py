"""Answers RetrainPolicies (see decisions/retraining.py for what that means in this release)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from espalier_api.kubernetes import ObjectMeta
from espalier_api.retrain import RetrainPolicyStatus
from espalier_operator.adapters.resources import RETRAINS
from espalier_operator.decisions.retraining import decide

if TYPE_CHECKING:
    from collections.abc import Callable

    from espalier_operator.adapters.kube import Object
    from espalier_operator.adapters.watches import Caches
    from espalier_operator.controllers.execute import Executor
    from espalier_operator.controllers.loop import Key


class RetrainController:
    """Controller for RetrainPolicy."""

    resource = RETRAINS

    def __init__(
        self, caches: Caches, executor: Executor, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._caches = caches
        self._executor = executor
        self._clock = clock

    def holds(self, obj: Object) -> bool:
        """Nothing outlives a policy."""
        return False

    async def reconcile(self, key: Key) -> timedelta | None:
        """See Controller."""
        obj = self._caches.of(RETRAINS).get(key.namespace, key.name)
        if obj is None:
            return None
        meta = ObjectMeta.model_validate(obj["metadata"])
        status = RetrainPolicyStatus.model_validate(obj.get("status") or {})
        plan = decide(meta, obj.get("spec") or {}, status, self._clock())
        await self._executor.execute(plan, obj)
        return plan.requeue_after

    async def finalize(self, key: Key) -> bool:
        """See Controller."""
        return True

    def forget(self, key: Key) -> None:
        """No series, no memory."""
