"""What is seen before a RegularizedModel is decided on: caches first, then only the I/O that the decision asks for (`questions`)."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import aiohttp
from pydantic import ValidationError

from espalier_api import conditions as c
from espalier_api import names
from espalier_api.artifact import Manifest, version_digest
from espalier_api.hashing import snapshot_digest
from espalier_api.kubernetes import ObjectMeta
from espalier_api.model import RegularizedModelStatus
from espalier_api.rollout import CanaryRolloutStatus
from espalier_api.training import TrainingProgress
from espalier_operator.adapters import objectstore as s3
from espalier_operator.adapters.resources import CONFIG_MAPS, JOBS, MODELS, PODS, ROLLOUTS, SERVICES
from espalier_operator.decisions.attempts import observe_attempt
from espalier_operator.decisions.model_seen import (
    Absent,
    Holdings,
    Listing,
    Question,
    Seen,
    StoreTrouble,
    questions,
)
from espalier_operator.decisions.plan import ObjectRef, parse_time
from espalier_operator.decisions.references import PREVIOUS, Other, model_of, named
from espalier_operator.decisions.validation import judge_spec
from espalier_operator.decisions.versions import Rollout, Stored

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from espalier_api.model import RegularizedModelSpec
    from espalier_operator.adapters.kube import Object
    from espalier_operator.adapters.watches import Caches

T = TypeVar("T")
LOG = logging.getLogger(__name__)

PROGRESS_TIMEOUT: Final = aiohttp.ClientTimeout(total=2.0)
"""A training pod that is too busy to answer is asked again in the next pass."""
STRAY_AFTER: Final = timedelta(seconds=30)
"""Younger children may belong to an intent whose status this process has not seen yet: another operator wrote it."""
RETRY: Final = "retry"
"""The one request that a RegularizedModel understands in its annotation: train once more."""


class Progress(Protocol):
    """Asks a training pod how far it is."""

    async def __call__(self, pod_ip: str) -> TrainingProgress | None:
        """The pod's `/progress`; None when it does not answer in time or not in our words."""


class HttpProgress:
    """Progress over one shared aiohttp session."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, pod_ip: str) -> TrainingProgress | None:
        """See Progress."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=PROGRESS_TIMEOUT)
        host = f"[{pod_ip}]" if ":" in pod_ip else pod_ip
        try:
            async with self._session.get(f"http://{host}:{names.PORT_TRAINER}/progress") as answer:
                answer.raise_for_status()
                return TrainingProgress.model_validate(await answer.json())
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            LOG.debug("no progress from %s: %s", host, error)  # starting and ending pods do not listen
            return None

    async def close(self) -> None:
        """Close the session."""
        if self._session is not None:
            await self._session.close()


class ModelObserver:
    """Observes models."""

    def __init__(
        self,
        caches: Caches,
        store: s3.ObjectStore,
        progress: Progress,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._caches = caches
        self._store = store
        self._progress = progress
        self._clock = clock

    async def observe(self, obj: Object) -> Seen:
        """Everything that a decision about `obj` needs. Store troubles become part of what is seen, they are not raised."""
        seen = self.at_hand(obj)
        asked = questions(seen)
        listing, holdings, manifest, progress = await asyncio.gather(
            _ask(self._listing, seen, wanted=Question.LISTING in asked),
            _ask(self._holdings, seen, wanted=Question.HOLDINGS in asked),
            _ask(self._manifest, seen, wanted=Question.MANIFEST in asked),
            self._how_far(seen, wanted=Question.PROGRESS in asked),
        )
        return replace(seen, listing=listing, holdings=holdings, manifest=manifest, progress=progress)

    def at_hand(self, obj: Object) -> Seen:
        """What the caches know; no I/O."""
        meta = ObjectMeta.model_validate(obj["metadata"])
        status = RegularizedModelStatus.model_validate(obj.get("status") or {})
        spec, verdict = judge_spec(obj.get("spec") or {})
        job = status.training.job if status.training is not None else None
        cached = self._caches.of(JOBS).get(meta.namespace, job) if job is not None else None
        pods = self._caches.of(PODS).by_model(meta.namespace, meta.name)
        return Seen(
            meta=meta,
            status=status,
            spec=spec,
            verdict=verdict,
            attempt=observe_attempt(cached, pods, self._clock()),
            rollout=self._rollout(meta.namespace, meta.name),
            others=self._others(meta, spec),
            request=_request(obj),
            strays=self._strays(meta, job),
            has_service=job is not None and self._caches.of(SERVICES).get(meta.namespace, job) is not None,
        )

    def _others(self, meta: ObjectMeta, spec: RegularizedModelSpec | None) -> dict[str, Other]:
        """Models of this namespace that the spec names; what was never seen is left out."""
        found: dict[str, Other] = {}
        for name in {model_of(reference) for reference in named(spec)} - {PREVIOUS, meta.name}:
            if (obj := self._caches.of(MODELS).get(meta.namespace, name)) is not None:
                status = RegularizedModelStatus.model_validate(obj.get("status") or {})
                champion = self._rollout(meta.namespace, name).champion
                found[name] = Other(judge_spec(obj.get("spec") or {})[0], status, champion)
        return found

    def _rollout(self, namespace: str, model: str) -> Rollout:
        """The model's CanaryRollout; with several (a mistake that their controller reports) the first by name counts."""
        rollouts = self._caches.of(ROLLOUTS).by_model(namespace, model)
        if not rollouts:
            return Rollout()
        status = CanaryRolloutStatus.model_validate(rollouts[0].get("status") or {})
        return Rollout(
            champion=status.aliases.champion,
            previous=status.aliases.previous,
            canary=status.aliases.challenger,
            quarantined={each.version: each.message or each.reason or "" for each in status.quarantined},
        )

    def _strays(self, meta: ObjectMeta, current: str | None) -> tuple[ObjectRef, ...]:
        """Jobs with what belongs to them that a crash left behind between status and deletion."""
        kinds = (JOBS, CONFIG_MAPS, SERVICES)
        children = [child for kind in kinds for child in self._caches.of(kind).by_model(meta.namespace, meta.name)]
        old = self._clock() - STRAY_AFTER
        strays = (child for child in children if _is_ours(child, meta) and child["metadata"]["name"] != current)
        return tuple(ObjectRef.of(child) for child in strays if _created(child) < old)

    async def _how_far(self, seen: Seen, *, wanted: bool) -> TrainingProgress | None:
        return await self._progress(seen.attempt.pod_ip) if wanted and seen.attempt.pod_ip else None

    async def _listing(self, seen: Seen) -> Listing | StoreTrouble:
        uri = seen.valid_spec.data.snapshot.uri
        try:
            entries = await self._store.snapshot(uri)
        except ValueError as error:
            return StoreTrouble(c.SNAPSHOT_NOT_FOUND, f"spec.data.snapshot.uri: {error}")
        if not entries:
            words = f"no object lies below {uri}; upload the snapshot or correct spec.data.snapshot.uri"
            return StoreTrouble(c.SNAPSHOT_NOT_FOUND, words)
        return Listing(snapshot_digest(entries), len(entries), sum(entry.size for entry in entries))

    async def _holdings(self, seen: Seen) -> Holdings:
        root = names.model_prefix(seen.valid_spec.artifacts.uri, seen.meta.namespace, seen.meta.name)
        numbers = frozenset(number for name in await self._store.children(root) if (number := _number(name)))
        read = await asyncio.gather(*(self._read_manifest(f"{root}v{number}/") for number in sorted(numbers)))
        return Holdings(tuple(stored for stored in read if isinstance(stored, Stored)), numbers)

    async def _manifest(self, seen: Seen) -> Stored | Absent:
        training = seen.status.training
        if training is None or seen.spec is None:
            return Absent()
        place = (seen.meta.namespace, seen.meta.name, training.version)
        return await self._read_manifest(names.artifact_prefix(seen.spec.artifacts.uri, *place))

    async def _read_manifest(self, prefix: str) -> Stored | Absent:
        try:
            content = await self._store.read(f"{prefix}manifest.json")
        except s3.NoSuchKeyError:
            return Absent()
        try:
            return Stored(Manifest.model_validate_json(content), version_digest(content))
        except ValidationError as error:
            LOG.warning("%smanifest.json is not a manifest and is treated as absent: %s", prefix, error)
            return Absent()


async def _ask(question: Callable[[Seen], Awaitable[T]], seen: Seen, *, wanted: bool) -> T | StoreTrouble | None:
    """The answer of the store, or why there is none; None when the decision does not need it."""
    if not wanted:
        return None
    try:
        return await question(seen)
    except s3.StoreError as error:
        return _trouble(error)


def _is_ours(child: Object, meta: ObjectMeta) -> bool:
    """True for a training child of exactly this object (a re-created one has another uid) that is not on its way out."""
    metadata: Mapping[str, Any] = child["metadata"]
    labels = metadata.get("labels") or {}
    owners = metadata.get("ownerReferences") or []
    return (
        labels.get(names.LABEL_COMPONENT) == names.COMPONENT_TRAINER
        and any(owner.get("uid") == meta.uid for owner in owners)
        and not metadata.get("deletionTimestamp")
    )


def _created(child: Object) -> datetime:
    """When the API server made it; long ago when that is not told."""
    stamp = child["metadata"].get("creationTimestamp")
    return parse_time(stamp) if stamp else datetime.min.replace(tzinfo=UTC)


def _request(obj: Object) -> str | None:
    """Id of `espalier.dev/request: retry@<id>` on the model; other verbs belong to rollouts."""
    value = (obj["metadata"].get("annotations") or {}).get(names.ANNOTATION_REQUEST)
    if value is None:
        return None
    try:
        verb, identity = names.parse_request(value)
    except ValueError as error:
        LOG.info("%s/%s: %s", obj["metadata"].get("namespace"), obj["metadata"]["name"], error)
        return None
    return f"{RETRY}@{identity}" if verb == RETRY else None


def _number(name: str) -> int | None:
    try:
        return names.version_number(name)
    except ValueError:
        return None  # .checkpoints, aliases.json and whatever else lies there


def _trouble(error: s3.StoreError) -> StoreTrouble:
    reasons: Mapping[type[s3.StoreError], str] = {
        s3.AccessDeniedError: c.ACCESS_DENIED,
        s3.NoSuchBucketError: c.BUCKET_NOT_FOUND,
        s3.NoSuchKeyError: c.BUCKET_NOT_FOUND,
        s3.TooManyObjectsError: c.SNAPSHOT_TOO_LARGE,
    }
    return StoreTrouble(reasons.get(type(error), c.STORE_UNAVAILABLE), str(error))
