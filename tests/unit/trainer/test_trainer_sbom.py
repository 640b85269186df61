"""The bill of materials, judged by CycloneDX's own schema; the environment it must describe is this one."""

from __future__ import annotations

import json
from email.message import Message
from importlib.metadata import distributions
from typing import TYPE_CHECKING, Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL
from packaging.utils import canonicalize_name

from espalier_trainer.export.sbom import sbom
from tests.unit.trainer import jobs

if TYPE_CHECKING:
    from collections.abc import Mapping


class Installed:
    """A distribution with the given core metadata."""

    def __init__(self, *headers: tuple[str, str]) -> None:
        self.metadata = Message()
        for name, value in headers:
            self.metadata[name] = value


def document(*installed: Any) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(sbom(jobs.parsed(), installed))
    return told


def component(*headers: tuple[str, str]) -> Mapping[str, Any]:
    (one,) = document(Installed(("Name", "Some_Package"), ("Version", "1.0"), *headers))["components"]
    found: Mapping[str, Any] = one
    return found


@pytest.fixture(scope="module")
def here() -> bytes:
    return sbom(jobs.parsed())


def test_it_is_cyclonedx_1_6(here: bytes) -> None:
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert validator.validate_str(here.decode()) is None
    broken = json.loads(here) | {"components": [{"type": "library"}]}
    assert validator.validate_str(json.dumps(broken)) is not None


def test_every_importable_package_is_named_once_in_order(here: bytes) -> None:
    components = json.loads(here)["components"]
    names = [each["name"] for each in components]
    assert names == sorted({canonicalize_name(each.metadata["Name"]) for each in distributions()})
    assert {"torch", "numpy", "cryptography"} <= set(names)


def test_purls_are_of_the_spec_and_versions_the_installed_ones(here: bytes) -> None:
    import numpy as np  # noqa: PLC0415 - only its version

    for each in json.loads(here)["components"]:
        assert PackageURL("pypi", name=each["name"], version=each["version"]).to_string() == each["purl"]
    found = {each["name"]: each["version"] for each in json.loads(here)["components"]}
    assert found["numpy"] == np.__version__


def test_a_local_version_is_escaped() -> None:
    (one,) = document(Installed(("Name", "torch"), ("Version", "2.6.0+debian")))["components"]
    assert one["purl"] == PackageURL("pypi", name="torch", version="2.6.0+debian").to_string()


def test_the_same_environment_gives_the_same_bytes_and_no_host(here: bytes) -> None:
    assert sbom(jobs.parsed()) == here
    assert b"://" not in here
    first: Any
    second: Any
    first, second = Installed(("Name", "a"), ("Version", "1")), Installed(("Name", "b"), ("Version", "1"))
    assert sbom(jobs.parsed(), [first, second]) == sbom(jobs.parsed(), [second, first])


def test_the_model_is_what_it_is_about(here: bytes) -> None:
    model = json.loads(here)["metadata"]["component"]
    assert (model["group"], model["name"], model["version"]) == ("vision", "tiny", "v1")


@pytest.mark.parametrize(
    "headers,expected",
    [
        ([], None),
        ([("License-Expression", "MIT OR Apache-2.0"), ("License", "x")], {"expression": "MIT OR Apache-2.0"}),
        ([("License", "BSD 3-Clause")], {"license": "BSD 3-Clause"}),
        ([("License", "UNKNOWN")], None),
        ([("License", "see https://example.org/licence")], None),
        ([("License", "x" * 101)], None),
        ([("License", "The MIT License\nPermission is hereby granted")], None),
        ([("License", ""), ("Classifier", "License :: OSI Approved :: MIT License")], {"license": "MIT License"}),
        ([("Classifier", "License :: OSI Approved")], None),
    ],
)
def test_licences_are_told_as_declared(headers: list[tuple[str, str]], expected: dict[str, str] | None) -> None:
    found = component(*headers).get("licenses")
    if expected is None:
        assert found is None
    elif "expression" in expected:
        assert found == [{"expression": expected["expression"], "acknowledgement": "declared"}]
    else:
        assert found == [{"license": {"name": expected["license"], "acknowledgement": "declared"}}]


def test_the_first_on_the_path_wins_and_remains_are_left_out() -> None:
    told = document(
        Installed(("Name", "A.b"), ("Version", "1")), Installed(("Name", "a_b"), ("Version", "2")), Installed()
    )
    assert [(each["name"], each["version"]) for each in told["components"]] == [("a-b", "1")]
