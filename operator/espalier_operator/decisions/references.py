"""Other models that a spec refers to (`previousModel`, `name`, `name@v3`), resolved to versions when training of a version begins. Pure.

What was resolved is latched in `status.training.references`, so every attempt of a version sees the same models, and the lineage of
its artifact records them. A reference is no part of the spec's hash: a teacher's new champion retrains nobody; `retry@<id>` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from espalier_api import conditions as c
from espalier_api.model import ReferenceStatus, VersionStatus
from espalier_api.names import artifact_prefix
from espalier_operator.decisions import versions as v

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from espalier_api.model import RegularizedModelSpec, RegularizedModelStatus
    from espalier_operator.decisions.model_seen import Seen

PREVIOUS: Final = "previousModel"
USABLE: Final = frozenset({"Candidate", "Canary", "Champion", "Previous", "Retired", "Quarantined"})
"""States of versions that training completed and gates accepted once."""


@dataclass(frozen=True, slots=True)
class Other:
    """Another model as the caches know it."""

    spec: RegularizedModelSpec | None
    status: RegularizedModelStatus
    champion: str | None


@dataclass(frozen=True, slots=True)
class Unresolved:
    """Why training cannot begin yet; `reason` is one of the condition Trained."""

    reason: str
    message: str


def named(spec: RegularizedModelSpec | None) -> tuple[str, ...]:
    """Every reference of the spec as it is written, each once."""
    if spec is None:
        return ()
    return tuple(dict.fromkeys(name for names in spec.regularizers.references().values() for name in names))


def model_of(reference: str) -> str:
    """`big@v3` -> `big`."""
    return reference.partition("@")[0]


def models_of(obj: Mapping[str, Any]) -> frozenset[str]:
    """Names of other models in the raw object of a RegularizedModel: whose news are news for this one. Tolerates invalid specs."""
    blocks = (obj.get("spec") or {}).get("regularizers") or {}
    told: list[Any] = []
    for block in blocks.values() if isinstance(blocks, dict) else ():
        if isinstance(block, dict):
            told += [block.get("reference"), block.get("prior"), block.get("teacher"), *(block.get("candidates") or ())]
    names = (model_of(each) for each in told if isinstance(each, str) and each != PREVIOUS)
    return frozenset(names) - {obj["metadata"]["name"]}


def resolve(seen: Seen) -> tuple[ReferenceStatus, ...] | Unresolved:
    """Versions of all references, or the first that has none. `previousModel` of a first version is left out: its blocks rest."""
    found: list[ReferenceStatus] = []
    own = Other(seen.spec, seen.status, seen.rollout.champion)
    for name in named(seen.spec):
        model = seen.meta.name if name == PREVIOUS else model_of(name)
        if name == PREVIOUS and own.champion is None and _is_first(own.status.versions):
            continue
        answer = _resolved(seen, name, model, own if model == seen.meta.name else seen.others.get(model))
        if isinstance(answer, Unresolved):
            return answer
        found.append(answer)
    return tuple(found)


def _is_first(versions: Iterable[VersionStatus]) -> bool:
    """True while no version ever passed its gates: there is nothing to hold on to, and nothing that could be forgotten."""
    return not any(version.state in USABLE for version in versions)


def _resolved(seen: Seen, name: str, model: str, other: Other | None) -> ReferenceStatus | Unresolved:
    where = ", ".join(
        f"regularizers.{b}" for b, names in seen.valid_spec.regularizers.references().items() if name in names
    )
    if other is None or other.spec is None:
        what = "does not exist in this namespace" if other is None else "has an invalid spec"
        return Unresolved(
            c.REFERENCE_NOT_FOUND, f"{where}: RegularizedModel {model} {what}; create or correct it, or name another"
        )
    if (trouble := _foreign(seen, model, other.spec)) is not None:
        return Unresolved(c.REFERENCE_UNREADABLE, f"{where}: {trouble}")
    wanted = name.partition("@")[2] or other.champion
    if wanted is None:
        remedy = f"promote one by a CanaryRollout, or name a version, e.g. {model}@{_newest(other) or 'v1'}"
        return Unresolved(c.WAITING_FOR_REFERENCE, f"{where}: no version of {model} is champion; {remedy}")
    version = v.find(other.status.versions, wanted)
    if version is None or version.digest is None:
        if version is not None and version.state == "Training":
            return Unresolved(c.WAITING_FOR_REFERENCE, f"{where}: {model}@{wanted} is still trained")
        kept = ", ".join(each.version for each in other.status.versions if each.digest is not None) or "none"
        return Unresolved(
            c.REFERENCE_NOT_FOUND,
            f"{where}: {model} has no trained version {wanted} (it has {kept}); name one of those",
        )
    uri = artifact_prefix(other.spec.artifacts.uri, seen.meta.namespace, model, wanted)
    return ReferenceStatus(name=name, model=model, version=wanted, uri=uri, digest=version.digest)


def _foreign(seen: Seen, model: str, spec: RegularizedModelSpec) -> str | None:
    """Training has one set of credentials, the model's own; what they may not read is told here and not by a failing pod."""
    ours, theirs = seen.valid_spec.artifacts, spec.artifacts
    buckets = urlsplit(ours.uri).netloc, urlsplit(theirs.uri).netloc
    if buckets[0] != buckets[1]:
        return f"the artifacts of {model} lie in bucket {buckets[1]}, ours in {buckets[0]}; a reference must lie in the same bucket"
    secrets = [None if each.secret_ref is None else each.secret_ref.name for each in (ours, theirs)]
    if secrets[0] != secrets[1]:
        told = [f"Secret {each}" if each else "no Secret" for each in secrets]
        return f"{model} uses {told[1]} for its artifacts and this model {told[0]}; set the same spec.artifacts.secretRef in both"
    return None


def _newest(other: Other) -> str | None:
    return next((each.version for each in v.newest_first(other.status.versions) if each.digest is not None), None)
