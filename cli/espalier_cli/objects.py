"""Our three kinds on a cluster: read them, annotate them. Uses the same kubeconfig, context and namespace as kubectl."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from espalier_api.names import ANNOTATION_REQUEST, GROUP, PLURALS, VERSION
from espalier_cli.errors import CliError

if TYPE_CHECKING:
    from collections.abc import Mapping

Object = dict[str, Any]
TIMEOUT_SECONDS = 10


@dataclass(frozen=True)
class Objects:
    """Access to one namespace. `api` is a kubernetes CustomObjectsApi."""

    api: Any
    namespace: str

    @classmethod
    def connect(cls, namespace: str | None, context: str | None) -> Objects:
        """From the kubeconfig, or from the pod's service account. Raises CliError when neither works."""
        from kubernetes import client, config
        from kubernetes.config.config_exception import ConfigException

        loader: Any = config  # the loaders are not annotated

        try:
            loader.load_kube_config(context=context)
            _, active = loader.list_kube_config_contexts()
            inherited = (active or {}).get("context", {}).get("namespace")
        except ConfigException as error:
            try:
                loader.load_incluster_config()
                inherited = None
            except ConfigException:
                cause = str(error).rstrip(".")
                raise CliError(f"no cluster to talk to: {cause}. Set KUBECONFIG, or give --context") from error
        return cls(client.CustomObjectsApi(), namespace or inherited or "default")

    def list(self, kind: str) -> list[Object]:
        """All objects of a kind in the namespace, by name."""
        found = self._call("list_namespaced_custom_object", kind)["items"]
        return sorted(found, key=lambda item: str(item["metadata"]["name"]))

    def find(self, kind: str, name: str) -> Object | None:
        """One object, or None."""
        try:
            found: Object = self._call("get_namespaced_custom_object", kind, name)
        except NotFoundError:
            return None
        return found

    def get(self, kind: str, name: str) -> Object:
        """One object. Raises CliError that lists the names there are."""
        if (found := self.find(kind, name)) is not None:
            return found
        names = ", ".join(item["metadata"]["name"] for item in self.list(kind)) or "none"
        raise CliError(f"{kind} {self.namespace}/{name} does not exist; in this namespace there are: {names}")

    def rollout_of(self, model: str) -> Object | None:
        """The CanaryRollout of a model, by its modelRef."""
        return next((item for item in self.list("CanaryRollout") if item["spec"]["modelRef"]["name"] == model), None)

    def annotate_request(self, kind: str, name: str, value: str) -> None:
        """Write the request annotation; what stood there is replaced."""
        self._call(
            "patch_namespaced_custom_object", kind, name, {"metadata": {"annotations": {ANNOTATION_REQUEST: value}}}
        )

    def _call(self, method: str, kind: str, *arguments: str | Mapping[str, Any]) -> Any:  # noqa: ANN401 - JSON of the API server
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        options = {"_request_timeout": TIMEOUT_SECONDS}
        try:
            return getattr(self.api, method)(GROUP, VERSION, self.namespace, PLURALS[kind], *arguments, **options)
        except ApiException as error:
            raise _explained(error, kind, self.namespace, str(arguments[0]) if arguments else "") from error
        except HTTPError as error:
            raise CliError(f"the API server does not answer: {error}") from error


class NotFoundError(CliError):
    """No such object, or the CRDs are not installed."""


def _explained(error: Any, kind: str, namespace: str, name: str) -> CliError:  # noqa: ANN401 - kubernetes ships no types
    """The API server's own words, with the remedy where one is known."""
    try:
        message = json.loads(error.body or "{}").get("message", error.reason)
    except ValueError:
        message = error.reason
    if error.status == 404:  # noqa: PLR2004 - HTTP
        known = (
            f"{kind} {namespace}/{name} does not exist"
            if name
            else "the CRDs of espalier.dev are not installed; install the chart"
        )
        return NotFoundError(known)
    if error.status == 403:  # noqa: PLR2004 - HTTP
        return CliError(f"you may not do this: {message}. Ask for a role on {GROUP} in namespace {namespace}")
    return CliError(f"{kind} {namespace}/{name}: {message}")
