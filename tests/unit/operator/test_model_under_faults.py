"""A machine that tries to break the model controller: random trainings, edits, outages, crashes, stale caches,
restarts and re-creations, in any order.

The controller is the real one with the real executor; only the API server and the store are in memory.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from espalier_api.artifact import Manifest
from espalier_operator.adapters.events import Recorder
from espalier_operator.adapters.kube import KubeError, UnavailableError
from espalier_operator.adapters.objectstore import StoreDownError
from espalier_operator.adapters.resources import CHILDREN, OWN
from espalier_operator.adapters.watches import SELECTOR, Caches
from espalier_operator.controllers.execute import Executor
from espalier_operator.controllers.loop import Key
from espalier_operator.controllers.model.controller import ModelController
from espalier_operator.controllers.model.observe import ModelObserver
from espalier_operator.decisions.plan import ObjectRef
from espalier_operator.settings import Settings
from tests.unit.operator.fakes import FakeKube, FakeStore
from tests.unit.operator.samples import SNAPSHOT, finished_job, manifest, model, pod_of, result, terminated

KEY = Key("RegularizedModel", "vision", "digits")
REF = ObjectRef("espalier.dev/v1alpha1", "RegularizedModel", "vision", "digits")
START = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)


class Operator:
    """One life of the operator: everything it remembers dies with it."""

    def __init__(self, kube: FakeKube, store: FakeStore, clock: list[datetime]) -> None:
        options = Settings("trainer:1", "server:1")
        self.caches = Caches(kube, options, lambda _: None)
        recorder = Recorder(kube)
        executor = Executor(kube, self.caches, recorder, store)

        async def no_progress(pod_ip: str) -> None:
            return None

        self.controller = ModelController(
            caches=self.caches,
            executor=executor,
            observer=ModelObserver(self.caches, store, no_progress),
            store=store,
            recorder=recorder,
            settings=options,
            clock=lambda: clock[0],
        )
        self._kube = kube

    async def refresh(self) -> None:
        """What the watches would bring."""
        for resource in (*OWN, *CHILDREN):
            selector = SELECTOR if resource in CHILDREN else ""
            objects, version = await self._kube.list(resource, "", selector)
            self.caches.of(resource).replace("", objects, version)

    async def act(self) -> bool:
        """One pass; False when it failed, which a loop would back off from."""
        try:
            await self.controller.reconcile(KEY)
        except KubeError:
            return False
        return True


class ModelUnderFaults(RuleBasedStateMachine):
    """Random faults; the invariants of design/training.md."""

    def __init__(self) -> None:
        super().__init__()
        self.kube, self.store, self.clock = FakeKube(), FakeStore(), [START]
        self.store.objects[f"{SNAPSHOT}part-0.parquet"] = b"rows"
        self.operator = Operator(self.kube, self.store, self.clock)
        self.hashes: dict[str, str] = {}
        self.digests: dict[str, str] = {}
        self.spec: dict[str, Any] = {"artifacts": {"uri": "s3://models/", "retention": {"keep": 50}}}

    # --- people ------------------------------------------------------------------------------------------------------
    @initialize()
    def create(self) -> None:
        self.kube.put(model(**self.spec))

    @rule(strength=st.sampled_from([0.01, 0.1, 1.0]))
    def edit(self, strength: float) -> None:
        self.spec["regularizers"] = {"l2": {"strength": strength}}
        self._edit()

    @rule(nodes=st.sampled_from([1, 2]))
    def change_the_pods(self, nodes: int) -> None:
        """Also in the middle of an attempt, whose Service then belongs to what the spec no longer says."""
        self.spec |= {"engine": {"torch": {"architecture": {"mlp": {}}}}, "training": {"nodes": nodes}}
        self._edit()

    @rule(bound=st.sampled_from([0.5, 0.99]))
    def change_the_gate(self, bound: float) -> None:
        self.spec["evaluation"] = {"gates": [{"metric": "accuracy", "min": bound}]}
        self._edit()

    @rule(identity=st.sampled_from(["a", "b"]))
    def ask_for_a_retrain(self, identity: str) -> None:
        self._edit({"espalier.dev/request": f"retry@{identity}"})

    @rule()
    def recreate(self) -> None:
        """Versions and their numbers live in the store; what was only in status is forgotten."""
        asyncio.run(self.kube.delete(REF))
        complete = {each["version"] for each in self._stored()}
        self.hashes = {version: value for version, value in self.hashes.items() if version in complete}
        self.digests = {version: value for version, value in self.digests.items() if version in complete}
        self.kube.put(model(**self.spec))

    @rule(champion=st.sampled_from(["v1", "v2"]), quarantined=st.sampled_from(["v1", "v2", "v3"]))
    def a_rollout_moves(self, champion: str, quarantined: str) -> None:
        moment = "2026-11-22T12:00:00Z"
        status = {
            "aliases": {"champion": champion},
            "quarantined": [{"version": quarantined, "at": moment, "message": "errors"}],
        }
        self.kube.put({"apiVersion": "espalier.dev/v1alpha1", "kind": "CanaryRollout", "metadata": {"name": "r", "namespace": "vision"},
                       "spec": {"modelRef": {"name": "digits"}}, "status": status})  # fmt: skip

    # --- the cluster -------------------------------------------------------------------------------------------------
    @precondition(lambda self: self._jobs())
    @rule(accuracy=st.sampled_from([0.6, 0.95]))
    def training_succeeds(self, accuracy: float) -> None:
        job = self._jobs()[0]
        self._publish(job, accuracy)
        self._end(job, "Complete", terminated(0, result()))

    @precondition(lambda self: self._jobs())
    @rule(code=st.sampled_from([0, 1, 42, 43, 44, 75, 137]))
    def training_ends_without_an_artifact(self, code: int) -> None:
        self._end(self._jobs()[0], "Complete" if code == 0 else "Failed", terminated(code))

    @precondition(lambda self: self._jobs())
    @rule()
    def training_begins(self) -> None:
        job = self._jobs()[0]
        self.kube.put({**job, "status": {"startTime": "2026-11-22T12:00:00Z"}})
        self.kube.put(pod_of(job, "Running", podIP="10.0.0.7"))

    @precondition(lambda self: self._jobs())
    @rule()
    def somebody_deletes_the_job(self) -> None:
        asyncio.run(self.kube.delete(ObjectRef.of(self._jobs()[0])))

    @rule(down=st.booleans())
    def the_store(self, down: bool) -> None:
        self.store.down = StoreDownError("timeout") if down else None

    @rule(minutes=st.sampled_from([1, 30]))
    def time_passes(self, minutes: int) -> None:
        self.clock[0] += timedelta(minutes=minutes)

    # --- the operator ------------------------------------------------------------------------------------------------
    @rule()
    def a_pass(self) -> None:
        """A pass that sees everything and ends well: what is quarantined is not offered afterwards."""
        if asyncio.run(self._pass()):
            rollouts = self.kube.of_kind("CanaryRollout")
            doomed = {each["version"] for rollout in rollouts for each in rollout["status"]["quarantined"]}
            assert not [each for each in self._versions() if each["state"] == "Candidate" and each["version"] in doomed]

    @rule()
    def a_pass_on_stale_caches(self) -> None:
        asyncio.run(self.operator.act())

    @rule(after=st.integers(0, 4))
    def a_pass_that_dies(self, after: int) -> None:
        """The API server refuses everything after some requests, or the process is killed there: the same thing."""

        class Dying(list[KubeError]):
            left = after

            def __bool__(self) -> bool:
                self.left -= 1
                return self.left < 0

            def pop(self, index: Any = 0) -> KubeError:
                return UnavailableError(503, "killed")

        asyncio.run(self.operator.refresh())
        self.kube.fail = Dying()
        asyncio.run(self.operator.act())
        self.kube.fail = []

    @rule()
    def restart(self) -> None:
        self.operator = Operator(self.kube, self.store, self.clock)

    # --- invariants --------------------------------------------------------------------------------------------------
    @invariant()
    def a_version_is_trained_for_one_spec_only(self) -> None:
        for version in self._versions():
            if "specHash" in version:
                assert self.hashes.setdefault(version["version"], version["specHash"]) == version["specHash"]

    @invariant()
    def a_published_version_is_never_lost_or_changed(self) -> None:
        known = {version["version"]: version for version in self._versions()}
        if not known:
            return
        for version in known.values():
            if "digest" in version:
                assert self.digests.setdefault(version["version"], version["digest"]) == version["digest"]
        assert known.keys() >= self.digests.keys()

    @invariant()
    def two_jobs_never_train_the_same_version(self) -> None:
        alive = [job["metadata"]["labels"]["espalier.dev/version"] for job in self._jobs()]
        assert len(alive) == len(set(alive))

    def teardown(self) -> None:
        """Everything is well again: the model must come to rest with a version for its spec, whatever happened before."""
        if REF not in self.kube.objects:
            return
        self.store.down, self.kube.fail = None, []
        for _ in range(60):
            asyncio.run(self._pass())
            self.clock[0] += timedelta(minutes=30)
            for job in self._jobs():
                self._publish(job, 0.95)
                self._end(job, "Complete", terminated(0, result()))
        status = self.kube.objects[REF]["status"]
        assert "training" not in status
        assert self.kube.of_kind("Job") == []
        assert self.kube.of_kind("ConfigMap") == []
        assert self.kube.of_kind("Service") == []
        assert status["observedGeneration"] == self.kube.objects[REF]["metadata"]["generation"]
        before = self.kube.objects[REF]["metadata"]["resourceVersion"]
        asyncio.run(self._pass())
        assert self.kube.objects[REF]["metadata"]["resourceVersion"] == before  # at rest nothing is written

    # --- helpers -----------------------------------------------------------------------------------------------------
    async def _pass(self) -> bool:
        await self.operator.refresh()
        return await self.operator.act()

    def _edit(self, annotations: dict[str, str] | None = None) -> None:
        found = self.kube.objects[REF]
        changed = model(**self.spec)
        changed["metadata"]["annotations"] = annotations or found["metadata"].get("annotations") or {}
        self.kube.put({**found, **changed})

    def _jobs(self) -> list[dict[str, Any]]:
        return [job for job in self.kube.of_kind("Job") if not job.get("status", {}).get("conditions")]

    def _versions(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (self.kube.objects.get(REF, {}).get("status") or {}).get("versions", [])
        return found

    def _stored(self) -> list[dict[str, Any]]:
        return [
            Manifest.model_validate_json(content).dump()
            for key, content in self.store.objects.items()
            if key.endswith("manifest.json")
        ]

    def _publish(self, job: dict[str, Any], accuracy: float) -> None:
        """The trainer writes its manifest last, and never over another one."""
        version = job["metadata"]["labels"]["espalier.dev/version"]
        entry = next((each for each in self._versions() if each["version"] == version), None)
        if entry is not None and entry["state"] == "Training":
            content = manifest(version, entry["specHash"], accuracy)
            self.store.objects.setdefault(f"s3://models/vision/digits/{version}/manifest.json", content)

    def _end(self, job: dict[str, Any], type_: str, pod_status: dict[str, Any]) -> None:
        self.kube.put(finished_job(job, type_, "PodFailurePolicy" if type_ == "Failed" else ""))
        self.kube.put(pod_of(job, "Succeeded" if type_ == "Complete" else "Failed", **pod_status))


ModelUnderFaults.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestModelUnderFaults = ModelUnderFaults.TestCase
