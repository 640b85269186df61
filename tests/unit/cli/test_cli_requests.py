"""Verbs: one annotation with an id of its own, and the controller's answer to exactly that id."""

from __future__ import annotations

from typing import Any

import pytest
from kubernetes.client.exceptions import ApiException

from espalier_api.names import ANNOTATION_REQUEST, VERBS, parse_request
from espalier_cli.errors import CliError
from espalier_cli.objects import Objects
from espalier_cli.requests import Clock, ask, retry_training

ROLLOUT = {"metadata": {"name": "digits-canary"}, "spec": {"modelRef": {"name": "digits"}}}
MODEL = {"metadata": {"name": "digits"}, "spec": {}}


class FakeApi:
    """The three calls of CustomObjectsApi that the CLI makes; a controller answers after `answer_after` reads."""

    def __init__(self, answer_after: int | None = 1, result: str = "promoted to step 2") -> None:
        self.objects: dict[tuple[str, str], dict[str, Any]] = {
            ("canaryrollouts", "digits-canary"): {**ROLLOUT},
            ("regularizedmodels", "digits"): {**MODEL},
        }
        self.answer_after, self.result, self.reads = answer_after, result, 0
        self.annotations: list[str] = []

    def list_namespaced_custom_object(
        self, _group: str, _version: str, _ns: str, plural: str, **_: float
    ) -> dict[str, Any]:
        return {"items": [found for (kind, _), found in self.objects.items() if kind == plural]}

    def get_namespaced_custom_object(
        self, _group: str, _version: str, _ns: str, plural: str, name: str, **_: float
    ) -> dict[str, Any]:
        if (plural, name) not in self.objects:
            raise ApiException(status=404, reason="Not Found")
        found = dict(self.objects[plural, name])
        if self.annotations:
            self.reads += 1
            if self.answer_after is not None and self.reads > self.answer_after:
                found["status"] = {"lastRequest": {"id": parse_request(self.annotations[-1])[1], "result": self.result}}
        return found

    def patch_namespaced_custom_object(
        self, _group: str, _version: str, _ns: str, _plural: str, _name: str, body: dict[str, Any], **_: float
    ) -> dict[str, Any]:
        self.annotations.append(body["metadata"]["annotations"][ANNOTATION_REQUEST])
        return {}


class FakeTime:
    """A clock that moves only when someone sleeps."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def clock(self) -> Clock:
        return Clock(lambda: self.seconds, self.sleep)

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", ["digits-canary", "digits"])
def test_a_verb_is_written_once_and_its_answer_is_returned(verb: str, name: str) -> None:
    """By the rollout's name, or by its model's."""
    api = FakeApi()
    assert ask(Objects(api, "vision"), name, verb, timeout=30, clock=FakeTime().clock()) == "promoted to step 2"
    assert [parse_request(text)[0] for text in api.annotations] == [verb]


def test_two_requests_have_two_ids() -> None:
    api = FakeApi()
    for _ in range(2):
        ask(Objects(api, "vision"), "digits", "promote", timeout=30, clock=FakeTime().clock())
    assert len(set(api.annotations)) == 2


def test_no_answer_says_that_the_request_stays() -> None:
    time = FakeTime()
    with pytest.raises(CliError, match=r"not answered in 5 s. Is the operator running\? The request stays"):
        ask(Objects(FakeApi(answer_after=None), "vision"), "digits", "abort", timeout=5, clock=time.clock())
    assert time.seconds == pytest.approx(5.0)


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(CliError, match="there are: digits-canary"):
        ask(Objects(FakeApi(), "vision"), "nope", "abort", timeout=5, clock=FakeTime().clock())


def test_training_is_retried_on_the_model() -> None:
    api = FakeApi()
    assert "RegularizedModel vision/digits" in retry_training(Objects(api, "vision"), "digits")
    assert parse_request(api.annotations[0])[0] == "retry"


@pytest.mark.parametrize(
    "status,body,expected",
    [
        (
            403,
            '{"message": "User \\"bob\\" cannot list"}',
            r"you may not do this: User \"bob\" cannot list. Ask for a role",
        ),
        (404, "", "the CRDs of espalier.dev are not installed"),
        (500, "not json", "Internal"),
    ],
)
def test_errors_of_the_api_server_are_explained(status: int, body: str, expected: str) -> None:
    class Refusing(FakeApi):
        def list_namespaced_custom_object(self, *_: str, **__: float) -> dict[str, Any]:
            error = ApiException(status=status, reason="Internal")
            error.body = body
            raise error

    with pytest.raises(CliError, match=expected):
        Objects(Refusing(), "vision").list("RegularizedModel")
