"""The judge of the e2e tests finds what is broken, and only that."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.history import Change, breaches


def route(revision: int, at: float = 0.0, **weights: int) -> Change:
    refs = [{"name": f"digits-{version}", "weight": weight} for version, weight in weights.items()]
    return Change(revision, at, "HTTPRoute", "digits", {"spec": {"rules": [{"backendRefs": refs}]}})


def pod(revision: int, version: str, ready: bool = True, at: float = 0.0, **how: Any) -> Change:
    metadata = {
        "labels": {"espalier.dev/version": version},
        **({"deletionTimestamp": "x"} if how.get("leaving") else {}),
    }
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    found = {"metadata": metadata, "status": {"conditions": conditions}}
    return Change(revision, at, "Pod", f"digits-{version}-0", found, bool(how.get("gone")))


def test_a_loss_that_nothing_follows_is_broken_too() -> None:
    changes = [pod(1, "v1"), route(2, v1=100), pod(3, "v1", ready=False, at=1)]
    assert not list(breaches(changes, "digits", until=20))
    assert len(list(breaches(changes, "digits", until=60))) == 1


@pytest.mark.parametrize(
    "changes, broken",
    [
        ([pod(1, "v1"), route(2, v1=100)], 0),
        ([route(2, v1=100), pod(1, "v1")], 0),  # two watches: revisions tell the order
        ([pod(1, "v1"), route(2, v1=90)], 1),
        ([pod(1, "v1"), route(2, v1=80, v2=20)], 1),  # weight before the pod
        ([pod(1, "v1"), pod(2, "v2"), route(3, v1=80, v2=20), route(5, v1=100, v2=0), pod(6, "v2", gone=True)], 0),
        ([pod(1, "v1"), pod(2, "v2"), route(3, v1=80, v2=20), pod(4, "v2", gone=True), route(5, v1=100, v2=0)], 1),
        ([pod(1, "v1"), route(2, v1=100), pod(3, "v1", ready=False, at=1), pod(4, "v1", at=20)], 0),
        ([pod(1, "v1"), route(2, v1=100), pod(3, "v1", ready=False, at=1), pod(4, "v1", ready=False, at=40)], 1),
        ([pod(1, "v1"), route(2, v1=100), pod(3, "v1", ready=False, leaving=True)], 1),
    ],
)
def test_every_revision_is_judged(changes: list[Change], broken: int) -> None:
    assert len(list(breaches(changes, "digits"))) == broken
