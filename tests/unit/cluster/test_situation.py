"""Which situation is chosen, and what is never chosen by accident."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cluster.errors import ClusterError
from cluster.situation import Situation, decide

if TYPE_CHECKING:
    from collections.abc import Callable


def running(*engines: str) -> Callable[[str], bool]:
    return lambda engine: engine in engines


def test_a_context_is_used_only_when_named() -> None:
    assert decide(context=None, engine="auto", runs=running("docker")).kind == "engine"
    assert decide(context="prod", engine="auto", runs=running("docker")) == Situation("context", context="prod")


@pytest.mark.parametrize(
    "engines, expected",
    [
        (("docker", "podman"), Situation("engine", "docker")),
        (("podman",), Situation("engine", "podman")),
        ((), Situation("private", "docker")),
    ],
)
def test_auto_takes_an_engine_that_answers(engines: tuple[str, ...], expected: Situation) -> None:
    assert decide(context=None, engine="auto", runs=running(*engines)) == expected


def test_private_is_taken_although_docker_runs() -> None:
    assert decide(context=None, engine="private", runs=running("docker")).kind == "private"


def test_an_engine_that_was_asked_for_and_does_not_answer_is_an_error_with_a_remedy() -> None:
    with pytest.raises(ClusterError, match=r"(?s)podman.*remedy: start podman"):
        decide(context=None, engine="podman", runs=running("docker"))


def test_a_context_and_an_engine_contradict_each_other() -> None:
    with pytest.raises(ClusterError, match="both a context"):
        decide(context="prod", engine="docker", runs=running("docker"))
