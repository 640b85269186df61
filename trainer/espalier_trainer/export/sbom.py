"""sbom.cdx.json: which packages a version was trained with, as CycloneDX 1.6.

The same environment gives the same bytes: sorted, without time and serial number. Source: CycloneDX 1.6 JSON schema; purl-spec's type pypi.
"""

from __future__ import annotations

import json
import re
from importlib.metadata import distributions
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterable
    from importlib.metadata import Distribution

    from espalier_api.training import TrainingJob

_LONGEST_LICENCE: Final = 100
"""Characters: older packages put the whole text into the field; CycloneDX wants a name."""
_CLASSIFIER: Final = "License :: "


def sbom(job: TrainingJob, installed: Iterable[Distribution] | None = None) -> bytes:
    """The bill of materials of the model that `job` trains; `installed` defaults to what this process can import."""
    found: dict[str, dict[str, Any]] = {}
    for distribution in distributions() if installed is None else installed:
        component = _component(distribution)
        if component is not None:
            found.setdefault(component["name"], component)  # the first on the path is the one that is imported
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "machine-learning-model",
                "bom-ref": "model",
                "group": job.model.namespace,
                "name": job.model.name,
                "version": job.version,
            }
        },
        "components": [found[name] for name in sorted(found)],
    }
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()


def _component(distribution: Distribution) -> dict[str, Any] | None:
    """One package; None for remains of a package that have no name or version."""
    metadata = distribution.metadata
    if "Name" not in metadata or "Version" not in metadata:
        return None
    name = re.sub(r"[-_.]+", "-", metadata["Name"]).lower()
    version = metadata["Version"]
    purl = f"pkg:pypi/{name}@{quote(version, safe='')}"
    component = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
    licences = _licences(distribution)
    return component | {"licenses": licences} if licences else component


def _licences(distribution: Distribution) -> list[dict[str, Any]]:
    """As declared, the most exact form first: SPDX expression (PEP 639), a name in the License field, classifiers."""
    metadata = distribution.metadata
    declared = {"acknowledgement": "declared"}
    if "License-Expression" in metadata:
        return [{"expression": metadata["License-Expression"], **declared}]
    said = metadata["License"].strip() if "License" in metadata else ""
    if said and said != "UNKNOWN" and len(said) <= _LONGEST_LICENCE and "\n" not in said and "://" not in said:
        return [{"license": {"name": said, **declared}}]
    classifiers = metadata.get_all("Classifier") or []
    names = sorted({each.rpartition(" :: ")[2] for each in classifiers if each.startswith(_CLASSIFIER)})
    return [{"license": {"name": each, **declared}} for each in names if each != "OSI Approved"]
