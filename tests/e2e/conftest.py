"""Fixtures of the e2e tests. They run inside the cluster's network.

`make test`, or `python -m tools.stage && python -m cluster exec -- .venv/bin/pytest tests/e2e`.
"""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING

import pytest

from espalier_cli.demo.kubectl import DemoError, Kubectl, close_clients
from tests.e2e.harness import SYSTEM, World, image_refs

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session", autouse=True)
def clients_are_closed() -> Iterator[None]:
    """A connection left to the garbage collector warns in whatever test happens to run then; warnings are errors."""
    yield
    close_clients()


@pytest.fixture(scope="session", autouse=True)
def operator_runs() -> None:
    """Fail at once, with the remedy, when the stage is not set."""
    try:
        Kubectl(SYSTEM).run("rollout", "status", "deployment/espalier", "--timeout=60s")
    except DemoError as error:
        pytest.exit(
            f"No operator to test: {error}\nRun `make test`, or: "
            "python -m tools.stage && python -m cluster exec -- .venv/bin/pytest tests/e2e",
            3,
        )


@pytest.fixture(scope="session")
def loadgen_image() -> str:
    return image_refs()["loadgen"]


@pytest.fixture
def world(request: pytest.FixtureRequest, loadgen_image: str) -> Iterator[World]:
    """A namespace of its own, never used before: version numbers continue from what S3 has ever held below a name.

    Its objects, its artifacts and itself are deleted afterwards, also when the test failed.
    """
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).removeprefix("test-")[:30].strip("-")
    world = World(Kubectl(f"e2e-{name}-{secrets.token_hex(3)}"), loadgen_image)
    world.prepare()
    yield world
    _remove(world)


def _remove(world: World) -> None:
    """Delete the custom resources while the operator can finalize them, then the artifacts and the namespace."""
    kube = world.kube
    for kind in ("canaryrollouts.espalier.dev", "regularizedmodels.espalier.dev", "retrainpolicies.espalier.dev"):
        kube.run("delete", kind, "--all", "--wait=true", "--timeout=60s", "--ignore-not-found", check=False)
    world.forget_versions()
    kube.run("delete", "namespace", kube.namespace, "--ignore-not-found", "--wait=false")
