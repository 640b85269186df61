"""Imperative verbs: one annotation with a unique id, done once by the controller, which records the result."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from espalier_api.names import KIND_MODEL, KIND_ROLLOUT
from espalier_cli.errors import CliError

if TYPE_CHECKING:
    from collections.abc import Callable

    from espalier_cli.objects import Objects

POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Clock:
    """Time, replaceable in tests."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def ask(objects: Objects, name: str, verb: str, *, timeout: float, clock: Clock | None = None) -> str:
    """Ask a rollout for something and wait for its answer. `name` is the rollout's or the model's.

    Returns the controller's words. Raises CliError when it refuses or does not answer in `timeout` seconds.
    """
    clock = clock or Clock()
    rollout = rollout_named(objects, name)
    identity = secrets.token_hex(4)
    objects.annotate_request(KIND_ROLLOUT, rollout, f"{verb}@{identity}")
    deadline = clock.now() + timeout
    while clock.now() < deadline:
        done = (objects.get(KIND_ROLLOUT, rollout).get("status") or {}).get("lastRequest") or {}
        if done.get("id") == identity:
            return str(done.get("result") or "done")
        clock.sleep(POLL_SECONDS)
    raise CliError(
        f"CanaryRollout {objects.namespace}/{rollout}: {verb}@{identity} was written, but not answered in {timeout:.0f} s. "
        "Is the operator running? The request stays and is done once when it is back"
    )


def retry_training(objects: Objects, model: str) -> str:
    """Ask the model controller for another attempt; its conditions tell what becomes of it."""
    identity = secrets.token_hex(4)
    objects.get(KIND_MODEL, model)
    objects.annotate_request(KIND_MODEL, model, f"retry@{identity}")
    return f"asked RegularizedModel {objects.namespace}/{model} for another attempt; `espalier get {model} --watch` shows it"


def rollout_named(objects: Objects, name: str) -> str:
    """The rollout with this name, or the one of the model with this name."""
    if objects.find(KIND_ROLLOUT, name) is not None:
        return name
    if (rollout := objects.rollout_of(name)) is not None:
        return str(rollout["metadata"]["name"])
    names = ", ".join(item["metadata"]["name"] for item in objects.list(KIND_ROLLOUT)) or "none"
    raise CliError(
        f"no CanaryRollout is named {name} or belongs to a model {name} in {objects.namespace}; there are: {names}"
    )
