"""The chart under Helm 3 and Helm 4: the same objects, accepted by the real API server, upgraded in place."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Protocol

import pytest

from cluster import gobuild
from tests.e2e.harness import SYSTEM
from tools.stage import chart_values, refs

pytestmark = pytest.mark.e2e
CHART = Path(__file__).resolve().parents[2] / "charts" / "espalier"


class Helm(Protocol):
    """One major version of Helm. `values` go in by stdin."""

    def __call__(self, *args: str, values: object = None) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture(params=["helm", "helm4"], scope="module")
def helm(request: pytest.FixtureRequest) -> Helm:
    """`helm(*args)` of one major version; values go in by stdin."""
    binary = gobuild.build(request.param)

    def run(*args: str, values: object = None) -> subprocess.CompletedProcess[str]:
        text = json.dumps(values if values is not None else chart_values(refs()))
        return subprocess.run([str(binary), *args], input=text, capture_output=True, text=True, check=False)

    return run


def test_upgrade_is_accepted_by_the_api_server(helm: Helm) -> None:
    """A dry run on the server: every object passes admission, and the release found is the stage's."""
    done = helm("upgrade", "espalier", str(CHART), "--namespace", SYSTEM, "--dry-run=server", "--values", "-")
    assert done.returncode == 0, done.stderr
    assert "kind: Deployment" in done.stdout
    assert "kind: CustomResourceDefinition" in done.stdout


def test_unknown_value_is_refused_by_the_schema(helm: Helm) -> None:
    """values.schema.json names the key: a typo must not be ignored."""
    values = {**chart_values(refs()), "imagee": "typo"}
    done = helm("template", "espalier", str(CHART), "--namespace", SYSTEM, "--values", "-", values=values)
    assert done.returncode != 0
    assert "imagee" in done.stderr


def test_namespaced_mode_has_no_cluster_wide_right(helm: Helm) -> None:
    """With `namespaces`, a Role in each of them and nothing cluster-wide but reading the kinds' own definitions."""
    values = {**chart_values(refs()), "namespaces": ["vision", "tabular"], "rbac": {"aggregate": False}}
    done = helm(
        "upgrade", "espalier", str(CHART), "--namespace", SYSTEM, "--dry-run=server", "--values", "-", values=values
    )
    assert done.returncode == 0, done.stderr
    assert "kind: ClusterRoleBinding" not in done.stdout
    for namespace in ("vision", "tabular"):
        assert f"namespace: {namespace}" in done.stdout.replace('"', "")
