"""Every CEL rule on a real API server: what it accepts and what it refuses, with the message a person reads.

Needs the CRDs, no operator.

Each manifest names its rule in a comment: `# rule:` in accept/, `# expect:` in reject/. `# after:` names the object
that a transition rule compares with. tests/unit/api/test_api_cel_manifests.py holds the same files against pydantic, so
both sides mean the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

if TYPE_CHECKING:
    from collections.abc import Iterator

from espalier_api.hashing import spec_hash
from espalier_api.model import RegularizedModel
from espalier_api.names import GROUP, PLURALS, VERSION

pytestmark = pytest.mark.e2e
FOLDER = Path(__file__).parent / "manifests" / "cel"
NAMESPACE = "e2e-cel"


@pytest.fixture(scope="session", autouse=True)
def operator_runs() -> None:
    """Overrides conftest's: admission needs no operator."""


@pytest.fixture(scope="module")
def objects() -> Iterator[client.CustomObjectsApi]:
    with config.new_client_from_config() as api:
        core, objects = client.CoreV1Api(api), client.CustomObjectsApi(api)
        try:
            core.create_namespace({"metadata": {"name": NAMESPACE}})
        except ApiException as error:
            if error.status != 409:
                raise
        yield objects
        for plural in PLURALS.values():
            objects.delete_collection_namespaced_custom_object(GROUP, VERSION, NAMESPACE, plural)
        core.delete_namespace(NAMESPACE)


def manifests(side: str) -> list[Any]:
    return [pytest.param(path, id=path.stem) for path in sorted((FOLDER / side).glob("*.yaml"))]


def told(path: Path, key: str) -> str | None:
    """What a comment `# <key>: ...` says."""
    return next(
        (line.split(": ", 1)[1] for line in path.read_text().splitlines() if line.startswith(f"# {key}: ")), None
    )


def submit(objects: client.CustomObjectsApi, path: Path, *, dry_run: bool = True) -> dict[str, Any]:
    """Create, or change what exists; returns what the server would store.

    Unknown fields are refused, as kubectl does.
    """
    manifest = yaml.safe_load(path.read_text())
    where = (GROUP, VERSION, NAMESPACE, PLURALS[manifest["kind"]])
    options = {"field_validation": "Strict", **({"dry_run": "All"} if dry_run else {})}
    stored: dict[str, Any]
    if told(path, "after") is None:
        stored = objects.create_namespaced_custom_object(*where, manifest, **options)
        return stored
    change = {
        "spec": manifest["spec"]
    }  # a patch, because a running operator may write the status between a read and a replace
    stored = objects.patch_namespaced_custom_object(*where, manifest["metadata"]["name"], change, **options)
    return stored


def prepare(objects: client.CustomObjectsApi, path: Path) -> None:
    """Make what a transition rule compares with."""
    if (base := told(path, "after")) is None:
        return
    try:
        submit(objects, FOLDER / base, dry_run=False)
    except ApiException as error:
        if error.status != 409:
            raise


@pytest.mark.parametrize("path", manifests("accept"))
def test_accepts(objects: client.CustomObjectsApi, path: Path) -> None:
    prepare(objects, path)
    submit(objects, path)


@pytest.mark.parametrize("path", [item for item in manifests("accept") if item.values[0].stem.startswith("regmodel-")])
def test_defaults_of_the_server_never_make_a_new_version(objects: client.CustomObjectsApi, path: Path) -> None:
    """What the server stores means what the person wrote: neither applying it nor upgrading the CRDs ever retrains."""
    written = RegularizedModel.model_validate(yaml.safe_load(path.read_text()))
    stored = RegularizedModel.model_validate(submit(objects, path))
    assert stored.spec == written.spec
    assert spec_hash(stored.spec, "sha256:0") == spec_hash(written.spec, "sha256:0")


@pytest.mark.parametrize("path", manifests("reject"))
def test_refuses_in_words(objects: client.CustomObjectsApi, path: Path) -> None:
    prepare(objects, path)
    expected = told(path, "expect")
    assert expected
    with pytest.raises(ApiException) as refused:
        submit(objects, path)
    assert refused.value.status == 422
    assert expected in str(yaml.safe_load(refused.value.body)["message"])
