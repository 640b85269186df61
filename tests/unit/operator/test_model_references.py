"""Other models of a spec: resolved to versions, waited for, latched for all attempts; their news wake who waits."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from espalier_api import conditions as c
from espalier_api.model import RegularizedModelSpec, RegularizedModelStatus
from espalier_api.training import TrainingJob
from espalier_operator.adapters.resources import MODELS
from espalier_operator.adapters.watches import Caches
from espalier_operator.controllers.loop import Key, Loops
from espalier_operator.controllers.model.manifests import job_children
from espalier_operator.decisions.attempts import Attempt, AttemptState
from espalier_operator.decisions.model_summary import Decision, decide
from espalier_operator.decisions.references import Other, models_of
from espalier_operator.decisions.versions import Rollout
from espalier_operator.settings import Settings
from tests.unit.operator.fakes import FakeKube
from tests.unit.operator.samples import model
from tests.unit.operator.test_model_observer import observer
from tests.unit.operator.test_models import LISTED, META, NOW, condition, seen, status_of

SHA = "sha256:" + "7" * 64
TORCH = {"torch": {"architecture": {"mlp": {"hidden": [8]}}}}
TEACHER: dict[str, Any] = {"engine": TORCH, "regularizers": {"distillation": {"teacher": "big"}}}


def other(champion: str | None = "v2", states: tuple[str, ...] = ("Retired", "Champion"), **spec: Any) -> Other:
    """A model with versions v1, v2, ... in these states; unfinished ones have no digest."""
    versions = [
        {"version": f"v{i}", "state": state, **({} if state in {"Training", "Failed"} else {"digest": SHA})}
        for i, state in enumerate(states, 1)
    ]
    status = RegularizedModelStatus.model_validate({"versions": versions})
    return Other(RegularizedModelSpec.model_validate(model("big", **spec)["spec"]), status, champion)


def begun(spec: dict[str, Any], others: dict[str, Other], **given: Any) -> Decision:
    return decide(seen(spec=spec, listing=LISTED, others=others, **given), NOW)


def references(decision: Decision) -> dict[str, tuple[str, str]]:
    training = status_of(decision).training
    assert training is not None
    return {each.name: (each.model, each.version) for each in training.references}


@pytest.mark.parametrize("name, version", [("big", "v2"), ("big@v1", "v1"), ("big@v2", "v2")])
def test_a_reference_becomes_a_version(name: str, version: str) -> None:
    decision = begun({"engine": TORCH, "regularizers": {"distillation": {"teacher": name}}}, {"big": other()})
    assert references(decision) == {name: ("big", version)}
    assert decision.start is not None
    (told,) = decision.start.references
    assert (told.uri, told.digest) == (f"s3://models/vision/big/{version}/", SHA)
    assert f"with big@{version} as {name}" in decision.plan.events[0].message


WAITS: dict[str, tuple[str, dict[str, Other], str, str]] = {
    "no such model": ("big", {}, c.REFERENCE_NOT_FOUND, "RegularizedModel big does not exist"),
    "no champion": (
        "big",
        {"big": other(None, ("Candidate",))},
        c.WAITING_FOR_REFERENCE,
        "no version of big is champion",
    ),
    "no version": ("big@v9", {"big": other()}, c.REFERENCE_NOT_FOUND, "no trained version v9 (it has v1, v2)"),
    "failed version": ("big@v1", {"big": other(None, ("Failed",))}, c.REFERENCE_NOT_FOUND, "(it has none)"),
    "version in training": (
        "big@v1",
        {"big": other(None, ("Training",))},
        c.WAITING_FOR_REFERENCE,
        "big@v1 is still trained",
    ),
    "another bucket": (
        "big",
        {"big": other(artifacts={"uri": "s3://elsewhere/"})},
        c.REFERENCE_UNREADABLE,
        "big lie in bucket elsewhere, ours in models",
    ),
    "another secret": (
        "big",
        {"big": other(artifacts={"uri": "s3://models/", "secretRef": {"name": "theirs"}})},
        c.REFERENCE_UNREADABLE,
        "Secret theirs",
    ),
    "invalid spec": (
        "big",
        {"big": Other(None, RegularizedModelStatus(), None)},
        c.REFERENCE_NOT_FOUND,
        "has an invalid spec",
    ),
}


@pytest.mark.parametrize("name", WAITS)
def test_what_cannot_be_resolved_is_named_and_waited_for(name: str) -> None:
    teacher, others, reason, words = WAITS[name]
    decision = begun({"engine": TORCH, "regularizers": {"distillation": {"teacher": teacher}}}, others)
    assert decision.start is None
    assert status_of(decision).training is None
    assert status_of(decision).versions == ()
    assert decision.plan.requeue_after == timedelta(seconds=15)
    assert condition(decision, c.TRAINED) == ("False", reason)
    (trained,) = (each for each in status_of(decision).conditions if each.type == c.TRAINED)
    assert words in trained.message
    assert "regularizers.distillation" in trained.message


PREVIOUS: dict[str, Any] = {"engine": TORCH, "regularizers": {"functional": {}}}


def test_the_first_version_has_no_previous_model() -> None:
    decision = begun(PREVIOUS, {})
    assert references(decision) == {}
    assert status_of(decision).training is not None


@pytest.mark.parametrize("state", ["Failed", "Rejected"])
def test_versions_that_never_passed_are_no_previous_model(state: str) -> None:
    status = {"versions": [{"version": "v1", "state": state, "digest": SHA, "reason": "GatesFailed"}], "nextVersion": 2}
    gates = {"evaluation": {"gates": [{"metric": "accuracy", "min": 0.9}]}}
    assert references(begun({**PREVIOUS, **gates}, {}, status=status)) == {}


def test_a_candidate_without_champion_is_waited_for() -> None:
    """Training on without it would forget silently what the block was declared to keep."""
    good = {"metrics": {"accuracy": {"value": 0.95}}}
    status = {"versions": [{"version": "v1", "state": "Candidate", "digest": SHA, **good}], "nextVersion": 2}
    decision = begun(PREVIOUS, {}, status=status)
    assert condition(decision, c.TRAINED) == ("False", c.WAITING_FOR_REFERENCE)
    (trained,) = (each for each in status_of(decision).conditions if each.type == c.TRAINED)
    assert "or name a version, e.g. digits@v1" in trained.message


def test_the_previous_model_is_the_champion() -> None:
    status = {"versions": [{"version": "v1", "state": "Champion", "digest": SHA}], "nextVersion": 2}
    decision = begun(PREVIOUS, {}, status=status, rollout=Rollout(champion="v1"))
    assert references(decision) == {"previousModel": ("digits", "v1")}
    assert decision.start is not None
    assert decision.start.version.parent == "v1"


def test_every_attempt_of_a_version_sees_the_same_models() -> None:
    """The teacher gets another champion while the first attempt fails."""
    first = begun(TEACHER, {"big": other("v1")})
    failed = Attempt(AttemptState.FAILED, c.NODE_LOST, "gone")
    status = first.plan.status
    assert status is not None
    again = begun(TEACHER, {"big": other("v2")}, status=dict(status), attempt=failed)
    assert references(again) == {"big": ("big", "v1")}
    later = seen(spec=TEACHER, others={"big": other("v2")}, status=dict(again.plan.status or {}))
    second = decide(later, NOW + timedelta(minutes=10))
    assert second.start is not None
    assert [each.version for each in second.start.references] == ["v1"]


def test_another_champion_of_a_teacher_retrains_nobody() -> None:
    first = begun(TEACHER, {"big": other("v1")})
    assert status_of(first).training is not None
    running = Attempt(AttemptState.RUNNING)
    followed = begun(TEACHER, {"big": other("v2")}, status=dict(first.plan.status or {}), attempt=running)
    assert followed.start is None
    assert references(followed) == {"big": ("big", "v1")}


def test_the_job_is_told() -> None:
    decision = begun(TEACHER, {"big": other()})
    start, spec = decision.start, RegularizedModelSpec.model_validate(model(**TEACHER)["spec"])
    assert start is not None
    config_map, _ = job_children(META, spec, start.version, start.attempt, "trainer", start.references)
    told = TrainingJob.model_validate_json(config_map["data"]["job.json"]).references
    assert {name: each.dump() for name, each in told.items()} == {
        "big": {"model": "big", "version": "v2", "uri": "s3://models/vision/big/v2/", "digest": SHA}
    }


# --- observing and waking ---------------------------------------------------------------------------------------------
def test_other_models_come_from_the_caches() -> None:
    watched, caches, kube = observer()
    teacher = kube.put(
        {**model("big"), "status": {"versions": [{"version": "v1", "state": "Champion", "digest": SHA}]}}
    )
    caches.of(MODELS).put(teacher)
    view = watched.at_hand(kube.put(model(**TEACHER)))
    assert set(view.others) == {"big"}
    assert view.others["big"].status.versions[0].digest == SHA
    assert view.others["big"].champion is None
    assert watched.at_hand(kube.put(model("small"))).others == {}


@pytest.mark.parametrize(
    "blocks, models",
    [
        ({"distillation": {"teacher": "big@v3"}, "functional": {"prior": "old"}}, {"big", "old"}),
        ({"modelSoup": {"candidates": ["a", "b@v2", "digits"]}, "ewc": {"reference": "previousModel"}}, {"a", "b"}),
        ({"ewc": {}, "l2": None}, set()),
        ("nonsense", set()),
    ],
)
def test_whose_news_matter(blocks: Any, models: set[str]) -> None:
    obj = model()
    obj["spec"]["regularizers"] = blocks
    assert models_of(obj) == models


class Recording:
    """A controller that counts passes."""

    resource = MODELS

    def __init__(self) -> None:
        self.passes: list[str] = []

    def holds(self, obj: Any) -> bool:
        return False

    async def reconcile(self, key: Key) -> timedelta | None:
        self.passes.append(key.name)
        return None

    async def finalize(self, key: Key) -> bool:
        return True

    def forget(self, key: Key) -> None:
        return


async def settled(controller: Recording, count: int) -> None:
    async with asyncio.timeout(5):
        while len(controller.passes) < count:  # noqa: ASYNC110 - loops and watches run in this very loop
            await asyncio.sleep(0)


async def test_a_model_that_waits_is_woken_by_what_it_waits_for() -> None:
    """By a change that a watch brings, and by our own write, which wakes nobody else."""
    kube = FakeKube()
    knot: list[Loops] = []
    caches = Caches(kube, Settings("t", "s"), lambda obj: knot[0].changed(obj))  # noqa: PLW0108 - the knot is tied below
    loops = Loops(caches, None, reconcile_timeout=timedelta(seconds=5))  # type: ignore[arg-type]
    knot.append(loops)
    controller = Recording()
    loops.register(controller)
    kube.put(model(**TEACHER))
    feeding = asyncio.create_task(caches.run())
    try:
        await settled(controller, 1)
        teacher = kube.put(model("big"))
        await settled(controller, 3)
        assert sorted(controller.passes) == ["big", "digits", "digits"]
        loops.written(teacher)
        await settled(controller, 4)
        assert controller.passes[3] == "digits"
    finally:
        await loops.stop()
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)
