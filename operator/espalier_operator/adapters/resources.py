"""The kinds that the operator reads or writes, with their API paths; RBAC (`espalier_operator.rbac`) has a rule for
each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from espalier_api import names

if TYPE_CHECKING:
    from espalier_operator.decisions.plan import ObjectRef


@dataclass(frozen=True, slots=True)
class Resource:
    """A namespaced kind of the API."""

    api_version: str
    kind: str
    plural: str

    @property
    def group(self) -> str:
        """API group; empty for core."""
        return self.api_version.rpartition("/")[0]

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """URL path of the collection (all namespaces when empty), of an object, or of a subresource.

        The core group lives under `/api/v1`, all others under `/apis/<group>/<version>`.
        """
        parts = ["/apis" if self.group else "/api", self.api_version]
        parts += ["namespaces", namespace] if namespace else []
        parts += [part for part in (self.plural, name, subresource) if part]
        return "/".join(parts)


CONFIG_MAPS: Final = Resource("v1", "ConfigMap", "configmaps")
PODS: Final = Resource("v1", "Pod", "pods")
SERVICES: Final = Resource("v1", "Service", "services")
EVENTS: Final = Resource("v1", "Event", "events")
JOBS: Final = Resource("batch/v1", "Job", "jobs")
DEPLOYMENTS: Final = Resource("apps/v1", "Deployment", "deployments")
HTTP_ROUTES: Final = Resource("gateway.networking.k8s.io/v1", "HTTPRoute", "httproutes")
MODELS: Final = Resource(names.API_VERSION, names.KIND_MODEL, names.PLURAL_MODEL)
ROLLOUTS: Final = Resource(names.API_VERSION, names.KIND_ROLLOUT, names.PLURAL_ROLLOUT)
RETRAINS: Final = Resource(names.API_VERSION, names.KIND_RETRAIN, names.PLURAL_RETRAIN)

OWN: Final = (MODELS, ROLLOUTS, RETRAINS)
"""Our kinds: watched whole."""

CHILDREN: Final = (JOBS, PODS, CONFIG_MAPS, SERVICES, DEPLOYMENTS, HTTP_ROUTES)
"""Kinds of children: watched by our managed-by label only, so a busy cluster costs nothing."""

OPTIONAL: Final = (HTTP_ROUTES,)
"""Kinds whose CRD may be missing; then their cache is empty and counts as synced."""

_BY_KIND: Final = {(resource.api_version, resource.kind): resource for resource in (*OWN, *CHILDREN, EVENTS)}


def resource_of(api_version: str, kind: str) -> Resource:
    """The resource of a kind. Raises KeyError with a remedy for one that is not in the table."""
    try:
        return _BY_KIND[api_version, kind]
    except KeyError:
        raise KeyError(f"{api_version} {kind} is unknown; add it to adapters/resources.py and to rbac.py") from None


def path_of(ref: ObjectRef, subresource: str = "") -> str:
    """URL path of an object."""
    return resource_of(ref.api_version, ref.kind).path(ref.namespace, ref.name, subresource)
