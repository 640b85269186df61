"""What is observed: caches first, the store only when asked, its troubles as facts; and the gauges that follow."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web

from espalier_api import conditions as c
from espalier_api import names
from espalier_api.model import TrialsStatus
from espalier_api.training import TrainingProgress
from espalier_operator import telemetry
from espalier_operator.adapters import objectstore as s3
from espalier_operator.adapters.watches import Caches
from espalier_operator.controllers.loop import Key
from espalier_operator.controllers.model.gauges import ModelGauges
from espalier_operator.controllers.model.observe import HttpProgress, ModelObserver
from espalier_operator.controllers.model.reference import ReferenceGauges, parse
from espalier_operator.controllers.rollout.observe import observe_workloads
from espalier_operator.decisions.model_seen import Absent, Holdings, Listing, StoreTrouble
from espalier_operator.decisions.model_summary import decide
from espalier_operator.decisions.plan import rfc3339
from espalier_operator.settings import Settings
from tests.unit.operator.fakes import FakeKube, FakeStore
from tests.unit.operator.samples import SNAPSHOT, manifest, model, version_digest
from tests.unit.operator.test_models import NOW, RUNNING, seen, training

PROGRESS = TrainingProgress.model_validate(
    {"phase": "Training", "progress": 0.42, "epoch": 42, "epochs": 100, "loss": {"train": 0.3, "validation": 0.4},
     "regularizers": {"l2": {"coefficient": 0.01, "value": 3.0, "share": 0.1, "gradientRatio": 0.05}}}
)  # fmt: skip


async def no_progress(pod_ip: str) -> None:
    raise AssertionError(f"{pod_ip} must not be asked")


def observer(store: FakeStore | None = None) -> tuple[ModelObserver, Caches, FakeKube]:
    kube = FakeKube()
    caches = Caches(kube, Settings("t", "s"), lambda _: None)
    return ModelObserver(caches, store or FakeStore(), no_progress), caches, kube


async def test_listing_and_holdings_of_a_fresh_model() -> None:
    store = FakeStore()
    store.objects = {
        f"{SNAPSHOT}a.csv": b"rows",
        "s3://models/vision/digits/v2/manifest.json": (content := manifest("v2", "sha256:h")),
        "s3://models/vision/digits/v3/model.onnx": b"half-written",
        "s3://models/vision/digits/v4/manifest.json": b"{}",
        "s3://models/vision/digits/aliases.json": b"{}",
    }
    watched, _, kube = observer(store)
    view = await watched.observe(kube.put(model()))
    assert isinstance(view.listing, Listing)
    assert (view.listing.objects, view.listing.bytes) == (1, 4)
    assert isinstance(view.holdings, Holdings)
    assert view.holdings.numbers == {2, 3, 4}
    assert [(each.manifest.version, each.digest) for each in view.holdings.versions] == [
        ("v2", version_digest(content))
    ]


@pytest.mark.parametrize(
    "error,reason",
    [
        (s3.StoreDownError("x"), c.STORE_UNAVAILABLE),
        (s3.AccessDeniedError("x"), c.ACCESS_DENIED),
        (s3.NoSuchBucketError("x"), c.BUCKET_NOT_FOUND),
        (s3.TooManyObjectsError("x"), c.SNAPSHOT_TOO_LARGE),
    ],
)
async def test_troubles_of_the_store_are_facts(error: Exception, reason: str) -> None:
    store = FakeStore()
    store.down = error
    watched, _, kube = observer(store)
    view = await watched.observe(kube.put(model()))
    assert view.listing == StoreTrouble(reason, "x")
    assert view.holdings == StoreTrouble(reason, "x")


async def test_an_empty_prefix_is_told_with_the_remedy() -> None:
    watched, _, kube = observer()
    view = await watched.observe(kube.put(model()))
    assert isinstance(view.listing, StoreTrouble)
    assert view.listing.reason == c.SNAPSHOT_NOT_FOUND
    assert SNAPSHOT in view.listing.message


async def test_a_missing_manifest_is_absent_and_a_bad_one_too() -> None:
    store = FakeStore()
    watched, _, _ = observer(store)
    assert isinstance(await watched._read_manifest("s3://models/vision/digits/v1/"), Absent)
    store.objects["s3://models/vision/digits/v1/manifest.json"] = b"not json"
    assert isinstance(await watched._read_manifest("s3://models/vision/digits/v1/"), Absent)


def test_the_rollout_is_read_by_what_it_refers_to() -> None:
    watched, caches, kube = observer()
    status = {"aliases": {"champion": "v1", "challenger": "v2", "previous": "v0"},
              "quarantined": [{"version": "v3", "at": "2026-11-22T12:00:00Z", "message": "errors 11/300"}]}  # fmt: skip
    metadata, spec = {"name": "r", "namespace": "vision"}, {"modelRef": {"name": "digits"}}
    rollout = {"apiVersion": "espalier.dev/v1alpha1", "kind": "CanaryRollout", "metadata": metadata, "spec": spec}
    caches.assume(kube.put({**rollout, "status": status}))
    view = watched.at_hand(kube.put(model()))
    assert (view.rollout.champion, view.rollout.canary) == ("v1", "v2")
    assert view.rollout.quarantined == {"v3": "errors 11/300"}


def child(kind: str, name: str, uid: str = "uid-1", component: str = "trainer") -> dict[str, Any]:
    labels = {
        "app.kubernetes.io/managed-by": "espalier",
        "espalier.dev/model": "digits",
        "espalier.dev/component": component,
    }
    version = "batch/v1" if kind == "Job" else "v1"
    return {"apiVersion": version, "kind": kind,
            "metadata": {"name": name, "namespace": "vision", "labels": labels, "ownerReferences": [{"uid": uid}]}}  # fmt: skip


def test_strays_are_our_own_training_children_only() -> None:
    watched, caches, kube = observer()
    obj = kube.put(model())
    uid = obj["metadata"]["uid"]
    for each in (
        child("Job", "old", uid),
        child("ConfigMap", "old", uid),
        child("Service", "old", uid),
        child("ConfigMap", "digits-v1", uid, "server"),
        child("Service", "digits-v1", uid, "server"),
        child("Job", "theirs", "other"),
    ):
        caches.assume(kube.put(each))
    strays = watched.at_hand(obj).strays
    assert {(ref.kind, ref.name) for ref in strays} == {("Job", "old"), ("ConfigMap", "old"), ("Service", "old")}


def test_the_service_of_a_training_is_no_workload_of_a_rollout() -> None:
    _, caches, kube = observer()
    for name, component in (("digits-v2-a1", "trainer"), ("digits-v1", "server")):
        service = child("Service", name, component=component)
        service["metadata"]["labels"]["espalier.dev/version"] = name.split("-")[1]
        caches.assume(kube.put(service))
    assert [workload.version for workload in observe_workloads(caches, "vision", "digits")] == ["v1"]


def test_a_young_stranger_may_belong_to_another_operator() -> None:
    """Its status has not arrived here yet; deleting its Job would be a theft."""
    watched, caches, kube = observer()
    obj = kube.put(model())
    for name, age in (("young", 5), ("old", 60)):
        job = child("Job", name, obj["metadata"]["uid"])
        job["metadata"]["creationTimestamp"] = rfc3339(datetime.now(UTC) - timedelta(seconds=age))
        caches.assume(kube.put(job))
    assert [ref.name for ref in watched.at_hand(obj).strays] == ["old"]


@pytest.mark.parametrize(
    "value,request_id",
    [("retry@a1", "retry@a1"), ("promote@a1", None), ("nonsense", None), ("", None), ("retry@", None)],
)
def test_requests(value: str, request_id: str | None) -> None:
    watched, _, kube = observer()
    obj = model()
    obj["metadata"]["annotations"] = {"espalier.dev/request": value}
    assert watched.at_hand(kube.put(obj)).request == request_id


async def test_progress_over_http_and_its_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [web.json_response(PROGRESS.dump()), web.Response(text="<html>"), web.json_response({"progress": 7})]

    async def handle(_: web.Request) -> web.Response:
        return answers.pop(0)

    app = web.Application()
    app.router.add_get("/progress", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    monkeypatch.setattr(names, "PORT_TRAINER", runner.addresses[0][1])
    progress = HttpProgress()
    assert await progress("127.0.0.1") == PROGRESS
    assert await progress("127.0.0.1") is None
    assert await progress("127.0.0.1") is None
    await runner.cleanup()
    assert await progress("127.0.0.1") is None
    await progress.close()


def sample(family: str, **labels: str) -> float | None:
    return telemetry.REGISTRY.get_sample_value(family, {"namespace": "vision", "model": "digits", **labels})


def test_gauges_follow_the_status_and_go_with_the_object() -> None:
    gauges, key = ModelGauges(), Key("RegularizedModel", "vision", "digits")
    view = seen(training(), attempt=RUNNING, progress=PROGRESS)
    gauges.show(key, view, decide(view, NOW))
    assert sample("model_training_loss", version="v1", split="validation") == 0.4
    assert sample("model_training_progress_ratio", version="v1") == 0.42
    assert sample("model_regularizer_gradient_ratio", version="v1", name="l2") == 0.05
    labels = {"namespace": "vision", "kind": "RegularizedModel", "name": "digits", "type": "Ready", "status": "False"}
    assert telemetry.REGISTRY.get_sample_value("espalier_condition", labels) == 1.0
    gauges.forget(key)
    assert sample("model_training_loss", version="v1", split="validation") is None
    assert telemetry.REGISTRY.get_sample_value("espalier_condition", labels) is None


def test_progress_is_written_only_when_it_moved() -> None:
    first = decide(seen(training(), attempt=RUNNING, progress=PROGRESS), NOW)
    again = decide(seen(dict(first.plan.status or {}), attempt=RUNNING, progress=PROGRESS), NOW)
    assert again.plan.status == first.plan.status
    moved = (first.plan.status or {})["training"]
    assert (moved["epoch"], moved["progress"], moved["trainLoss"]) == (42, 0.42, 0.3)


# --- the drift reference -----------------------------------------------------------------------------------------------
REFERENCE = b'{"features": {"px1": {"edges": [0.5], "ratios": [0.25, 0.75]}, "px2": {"edges": [], "ratios": [1.0]}}, "accuracy": 0.93}'


def ratio(version: str, feature: str, index: str) -> float | None:
    return sample("model_feature_reference_ratio", version=version, feature=feature, bin=index)


async def settled(references: ReferenceGauges) -> None:
    await asyncio.gather(*references._reading.values(), return_exceptions=True)
    await asyncio.sleep(0)


async def test_references_follow_what_serves() -> None:
    store = FakeStore()
    store.objects = {f"s3://models/vision/digits/{version}/reference.json": REFERENCE for version in ("v1", "v2")}
    references, key = ReferenceGauges(store), Key("RegularizedModel", "vision", "digits")
    prefixes = {version: f"s3://models/vision/digits/{version}/" for version in ("v1", "v2")}
    references.show(key, prefixes)
    references.show(key, prefixes)  # asked once, however often a pass comes by
    assert len(references._reading) == 2
    await settled(references)
    assert (ratio("v1", "px1", "1"), ratio("v2", "px2", "0")) == (0.75, 1.0)
    references.show(key, {"v2": prefixes["v2"]})
    assert (ratio("v1", "px1", "1"), ratio("v2", "px1", "1")) == (None, 0.75)
    references.forget(key)
    assert ratio("v2", "px1", "1") is None


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"features": []}', b'{"features": {"a": 1}}', b'{"features": {"a": {"ratios": "x"}}}']
)
async def test_a_bad_reference_shows_nothing_and_is_tried_again(content: bytes) -> None:
    store = FakeStore()
    store.objects = {"s3://m/v1/reference.json": content}
    references, key = ReferenceGauges(store), Key("RegularizedModel", "vision", "digits")
    references.show(key, {"v1": "s3://m/v1/"})
    await settled(references)
    assert ratio("v1", "px1", "1") is None
    store.objects["s3://m/v1/reference.json"] = REFERENCE
    references.show(key, {"v1": "s3://m/v1/"})
    await settled(references)
    assert ratio("v1", "px1", "1") == 0.75
    references.forget(key)


def test_the_reference_is_cut_to_the_features_that_the_server_counts() -> None:
    features = {f"f{n}": {"ratios": [1.0]} for n in range(60)}
    assert list(parse(json.dumps({"features": features}).encode())) == [(f"f{n}", "0") for n in range(50)]


def test_the_trials_of_a_search_are_told() -> None:
    searching = PROGRESS.model_copy(update={"phase": "Searching", "trials": TrialsStatus(done=3, total=20, best=0.91)})
    told = decide(seen(training(), attempt=RUNNING, progress=searching), NOW).plan.status
    assert told is not None
    assert told["training"]["trials"] == {"done": 3, "total": 20, "best": 0.91}
