"""Delayed labels: counted once, for the version that predicted, whoever takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from espalier_api.serving import FeedbackSettings, OutputGuards
from espalier_server.feedback import Seen
from espalier_server.ids import PredictionIds
from tests.unit.server.tiny import CLASSES, KEY, Version, regressor_files

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.server.conftest import Pod

NOW_MS = 1_795_000_000_000


async def test_right_and_wrong_labels(pod: Pod) -> None:
    first, second = (await pod.infer([[1.0, 2.0, 3.0], [9.0, 1.0, 1.0]])).json()["parameters"]["prediction_ids"]
    assert (await pod.feedback(first, "eel")).json() == {"version": "v4", "result": "correct"}
    assert (await pod.feedback(second, 1)).json() == {"version": "v4", "result": "wrong"}
    assert await pod.metric("model_feedback_total", result="correct") == 1
    assert await pod.metric("model_feedback_total", result="wrong") == 1
    assert await pod.metric("model_confusion_total", actual="eel", predicted="eel") == 1
    assert await pod.metric("model_confusion_total", actual="dog", predicted="cat") == 1
    assert await pod.metric("model_feedback_delay_seconds_count") == 2


async def test_confidence_is_summed_over_labelled_predictions_in_its_bin(pod: Pod) -> None:
    answer = (await pod.infer([[1.0, 2.0, 3.0]])).json()
    await pod.infer([[1.0, 2.0, 3.0]])
    await pod.feedback(answer["id"], "cat")
    confidence = max(answer["outputs"][1]["data"])
    index = str(int(confidence * 15))
    assert await pod.metric("model_confidence_sum_total", bin=index) == pytest.approx(confidence)
    assert await pod.metric("model_confidence_labelled_total", bin=index) == 1
    assert await pod.metric("model_confidence_correct_total", bin=index) == 0


async def test_a_label_counts_once(pod: Pod) -> None:
    identity = (await pod.infer([[1.0, 2.0, 3.0]])).json()["id"]
    assert (await pod.feedback(identity, "eel")).status_code == 200
    assert (await pod.feedback(identity, "cat")).status_code == 409
    assert await pod.metric("model_feedback_total", result="correct") == 1
    assert await pod.metric("model_feedback_total", result="wrong") == 0
    assert await pod.metric("model_feedback_unmatched_total", reason="duplicate") == 1


async def test_a_pod_of_another_version_takes_the_label(start: Callable[..., Pod]) -> None:
    canary = start()
    stable = start(Version(name="v3"))
    identity = (await canary.infer([[1.0, 2.0, 3.0]])).json()["id"]
    assert (await stable.feedback(identity, "eel")).json() == {"version": "v4", "result": "correct"}
    assert await stable.metric("model_feedback_total", version="v4", result="correct") == 1
    assert await stable.metric("model_feedback_total", version="v4", result="wrong") == 0
    assert await stable.metric("model_feedback_total", version="v3", result="correct") == 0


@pytest.mark.parametrize(
    "identity,reason", [("x", "malformed"), ("A" * 62, "malformed"), (5, "malformed"), (None, "malformed")]
)
async def test_what_is_no_id_is_refused_and_counted(pod: Pod, identity: Any, reason: str) -> None:
    response = await pod.feedback(identity, "cat")
    assert response.status_code == 400
    assert response.json()["error"].startswith("id: ")
    assert await pod.metric("model_feedback_unmatched_total", reason=reason) == 1


async def test_an_id_of_another_model_or_of_other_classes_is_foreign(pod: Pod) -> None:
    for ids in (PredictionIds("other", "v4", CLASSES), PredictionIds(KEY, "v3", ("x", "y"))):
        response = await pod.feedback(ids.issue(NOW_MS, 0, 0.5, rejected=False), "cat")
        assert response.status_code == 400
    assert await pod.metric("model_feedback_unmatched_total", reason="foreign") == 2


async def test_an_expired_prediction_is_gone(pod: Pod) -> None:
    identity = PredictionIds(KEY, "v4", CLASSES).issue(1, 0, 0.5, rejected=False)
    assert (await pod.feedback(identity, "cat")).status_code == 410
    assert await pod.metric("model_feedback_unmatched_total", reason="expired") == 1


@pytest.mark.parametrize("label", ["wolf", 3, -1, 1.5, None, True, ["cat"], {}])
async def test_a_label_that_is_no_class_is_refused_and_may_be_sent_again(pod: Pod, label: Any) -> None:
    identity = (await pod.infer([[1.0, 2.0, 3.0]])).json()["id"]
    response = await pod.feedback(identity, label)
    assert response.status_code == 400
    assert response.json()["error"].startswith("label: ")
    assert (await pod.feedback(identity, "eel")).status_code == 200


@pytest.mark.parametrize("body", [b"", b"[]", b"5", b'{"label": 1}', b'{"id": {}}', b"\x00"])
async def test_a_broken_body_is_a_400(pod: Pod, body: bytes) -> None:
    assert (await pod.client.post("/v1/feedback", content=body)).status_code == 400


@pytest.mark.parametrize("reference,inside,outside", [({}, 15.0, 15.1), ({"tolerance": 0.25}, 14.25, 14.3)])
async def test_a_regression_is_right_within_its_tolerance(
    start: Callable[..., Pod], reference: dict[str, float], inside: float, outside: float
) -> None:
    """Two test RMSE (0.5) unless the reference names a tolerance."""
    pod = start(Version(files=regressor_files(**reference), kind="regression"))
    for label, result in ((inside, "correct"), (outside, "wrong")):
        identity = (await pod.infer([[1.0, 2.0, 3.0]])).json()["id"]
        assert (await pod.feedback(identity, label)).json()["result"] == result
    assert (await pod.feedback((await pod.infer([[1.0, 2.0, 3.0]])).json()["id"], "14")).status_code == 400


async def test_an_abstention_is_neither_right_nor_wrong(start: Callable[..., Pod]) -> None:
    pod = start(output_guards=OutputGuards(min_confidence=0.99))
    identity = (await pod.infer([[1.0, 1.0, 1.0]])).json()["id"]
    assert (await pod.feedback(identity, "cat")).json() == {"version": "v4", "result": "ignored"}
    assert await pod.metric("model_feedback_total", result="correct") == 0


async def test_the_memory_of_labels_is_bounded(start: Callable[..., Pod]) -> None:
    pod = start(feedback=FeedbackSettings(key=KEY, capacity=2))
    identities = (await pod.infer([[1.0, 2.0, 3.0]] * 3)).json()["parameters"]["prediction_ids"]
    statuses = [
        (await pod.feedback(identity, "eel")).status_code for identity in [*identities, identities[2], identities[0]]
    ]
    assert statuses == [200, 200, 200, 409, 200]


def test_seen_forgets_what_is_too_old_to_be_labelled_anyway() -> None:
    seen = Seen(capacity=100, ttl_ms=1000)
    assert seen.add(b"a", 0, 10)
    assert not seen.add(b"a", 0, 20)
    assert seen.add(b"b", 2000, 2000)
    assert seen.add(b"a", 0, 2000), "expired ids are dropped when others come"
