"""The Kubernetes API as this operator needs it: dicts in, dicts out, typed errors, every call counted.

All requests go through `kubernetes.aio`'s ApiClient by path instead of the generated classes, because (measured,
kubernetes 37): `CustomObjectsApi` answers None when an apply creates (201), builds wrong paths for the core group,
and the typed models refuse sparse objects.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

import aiohttp

from espalier_api.names import FIELD_MANAGER
from espalier_operator import telemetry
from espalier_operator.adapters.resources import Resource, path_of, resource_of
from espalier_operator.decisions.plan import ObjectRef

if TYPE_CHECKING:
    from kubernetes.aio.client import ApiClient

Object = Mapping[str, Any]

APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"


class KubeError(Exception):
    """A request to the API server failed. `code` is the HTTP status, 0 when there was no answer."""

    def __init__(self, code: int, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after = retry_after
        """Seconds that the server asks us to wait, from a 429 or 503."""


class NotFoundError(KubeError):
    """404: the object, its namespace or its kind does not exist."""


class ConflictError(KubeError):
    """409, or a failed precondition: somebody wrote in between. Observe and decide again."""


class InvalidError(KubeError):
    """422 or 400: the API server refuses what we sent. Trying again will not help until the input changes."""


class ForbiddenError(KubeError):
    """401 or 403: RBAC or admission refuses us."""


class NamespaceTerminatingError(ForbiddenError):
    """403 because the namespace is being deleted: nothing can be created in it any more."""


class GoneError(KubeError):
    """410: the resourceVersion of a watch is too old. List again."""


class UnavailableError(KubeError):
    """429, 5xx, a timeout or no connection. Try again later."""


class Kube(Protocol):
    """What controllers may ask of the API server."""

    async def apply(self, manifest: Object) -> Object:
        """Server-side apply with our field manager and force; returns the object as stored."""

    async def create(self, manifest: Object) -> Object:
        """POST; raises ConflictError when it exists. For objects without a deterministic name (events)."""

    async def delete(self, ref: ObjectRef, *, propagation: str = "Background", uid: str | None = None) -> None:
        """Delete; an object that is gone already is a success. `uid` guards against deleting a successor of the same
        name.
        """

    async def patch_status(self, ref: ObjectRef, status: Object, *, resource_version: str | None = None) -> Object:
        """Merge-patch `/status` (None removes a key). With `resource_version`, raises ConflictError if it is not the
        current one.
        """

    async def set_finalizers(self, ref: ObjectRef, finalizers: Sequence[str], *, resource_version: str) -> Object:
        """Replace metadata.finalizers if the object is still at that version, else raise ConflictError."""

    async def get(self, ref: ObjectRef) -> Object:
        """GET; raises NotFoundError."""

    async def list(self, resource: Resource, namespace: str = "", selector: str = "") -> tuple[list[Object], str]:
        """All objects (in pages) and the collection's resourceVersion."""

    def watch(
        self, resource: Resource, namespace: str, selector: str, resource_version: str, *, lasting: timedelta
    ) -> AsyncIterator[Object]:
        """Watch events `{type, object}` incl. BOOKMARK until the server ends it. Raises GoneError when too old."""


class AioKube:
    """Kube over kubernetes.aio."""

    def __init__(
        self, client: ApiClient, *, timeout: timedelta, concurrency: int, silence: timedelta = timedelta(seconds=70)
    ) -> None:
        self._client = client
        self._timeout = timeout.total_seconds()
        self._silence = silence.total_seconds()
        self._slots = asyncio.Semaphore(concurrency)

    async def apply(self, manifest: Object) -> Object:
        """See Kube."""
        query = [("fieldManager", FIELD_MANAGER), ("force", "true")]
        return await self._call(
            "apply", "PATCH", ObjectRef.of(manifest), query=query, body=manifest, content_type=APPLY
        )

    async def create(self, manifest: Object) -> Object:
        """See Kube."""
        ref = ObjectRef(manifest["apiVersion"], manifest["kind"], manifest["metadata"]["namespace"], "")
        return await self._call("create", "POST", ref, query=[("fieldManager", FIELD_MANAGER)], body=manifest)

    async def delete(self, ref: ObjectRef, *, propagation: str = "Background", uid: str | None = None) -> None:
        """See Kube."""
        body: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": propagation}
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        try:
            await self._call("delete", "DELETE", ref, body=body)
        except NotFoundError:
            return

    async def patch_status(self, ref: ObjectRef, status: Object, *, resource_version: str | None = None) -> Object:
        """See Kube."""
        body: dict[str, Any] = {"status": status}
        if resource_version is not None:
            body["metadata"] = {"resourceVersion": resource_version}
        query = [("fieldManager", FIELD_MANAGER)]
        return await self._call("patch", "PATCH", ref, subresource="status", query=query, body=body, content_type=MERGE)

    async def set_finalizers(self, ref: ObjectRef, finalizers: Sequence[str], *, resource_version: str) -> Object:
        """See Kube."""
        body = {"metadata": {"finalizers": list(finalizers), "resourceVersion": resource_version}}
        query = [("fieldManager", FIELD_MANAGER)]
        return await self._call("patch", "PATCH", ref, query=query, body=body, content_type=MERGE)

    async def get(self, ref: ObjectRef) -> Object:
        """See Kube."""
        return await self._call("get", "GET", ref)

    async def list(self, resource: Resource, namespace: str = "", selector: str = "") -> tuple[list[Object], str]:
        """See Kube."""
        objects: list[Object] = []
        query = [("limit", "500"), *([("labelSelector", selector)] if selector else [])]
        collection = ObjectRef(resource.api_version, resource.kind, namespace, "")
        token = ""
        while True:
            page = await self._call("list", "GET", collection, query=[*query, ("continue", token)] if token else query)
            kind = {"apiVersion": resource.api_version, "kind": resource.kind}  # a list leaves them out of its items
            objects += [{**kind, **item} for item in page["items"]]
            token = page["metadata"].get("continue", "")
            if not token:
                return objects, page["metadata"]["resourceVersion"]

    async def watch(
        self, resource: Resource, namespace: str, selector: str, resource_version: str, *, lasting: timedelta
    ) -> AsyncIterator[Object]:
        """See Kube. A silence longer than the API server's bookmarks (about 60 s) raises UnavailableError."""
        query = [
            ("watch", "true"),
            ("allowWatchBookmarks", "true"),
            ("resourceVersion", resource_version),
            ("timeoutSeconds", str(int(lasting.total_seconds()))),
            *([("labelSelector", selector)] if selector else []),
        ]
        limits = aiohttp.ClientTimeout(total=None, sock_connect=self._timeout, sock_read=self._silence)
        method, url, headers, _, _ = await self._client.param_serialize(
            "GET", resource.path(namespace), query_params=query, auth_settings=["BearerToken"]
        )
        try:
            answer = await self._client.call_api(method, url, headers, _request_timeout=limits)
            _count("watch", resource, answer.status)
            try:
                if answer.status >= 400:  # noqa: PLR2004 - HTTP's first error
                    raise _error(answer.status, await _read(answer), f"watch {resource.kind}", None)
                async for line in _lines(answer.response.content):
                    yield _watch_event(line, resource)
            finally:
                answer.response.close()  # a half-read stream must not return to the pool
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            _count("watch", resource, 0)
            raise UnavailableError(0, f"watch {resource.kind}: {type(error).__name__}: {error}") from error

    async def _call(
        self,
        verb: str,
        method: str,
        ref: ObjectRef,
        *,
        subresource: str = "",
        query: Sequence[tuple[str, str]] = (),
        body: Object | None = None,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        resource = resource_of(ref.api_version, ref.kind)
        code = 0
        try:
            async with self._slots, asyncio.timeout(self._timeout):
                method, url, headers, _, _ = await self._client.param_serialize(
                    method,
                    path_of(ref, subresource),
                    query_params=list(query),
                    header_params={"Content-Type": content_type, "Accept": "application/json"},
                    auth_settings=["BearerToken"],
                )
                answer = await self._client.call_api(method, url, headers, body=body, _request_timeout=self._timeout)
                data = await _read(answer)
                code = answer.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise UnavailableError(0, f"{verb} {ref}: {type(error).__name__}: {error}") from error
        finally:
            _count(verb, resource, code)
        if code >= 400:  # noqa: PLR2004 - HTTP's first error
            raise _error(code, data, f"{verb} {ref}", answer.headers.get("Retry-After"))
        decoded: dict[str, Any] = json.loads(data)
        return decoded


async def _read(answer: Any) -> bytes:  # noqa: ANN401 - the library is not typed
    data: bytes = await answer.read()
    return data


def _count(verb: str, resource: Resource, code: int) -> None:
    telemetry.API_REQUESTS.labels(verb, resource.plural, str(code)).inc()


_BY_CODE: Mapping[int, type[KubeError]] = {
    400: InvalidError,
    401: ForbiddenError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    410: GoneError,
    412: ConflictError,
    422: InvalidError,
}


def _error(code: int, data: bytes, what: str, retry_after: str | None) -> KubeError:
    try:
        status = json.loads(data)
        message = status.get("message", "")
        causes = {cause.get("reason") for cause in (status.get("details") or {}).get("causes") or ()}
    except (ValueError, AttributeError):
        message, causes = data[:200].decode(errors="replace"), set()
    kind = NamespaceTerminatingError if "NamespaceTerminating" in causes else _BY_CODE.get(code, UnavailableError)
    seconds = float(retry_after) if retry_after and retry_after.isdecimal() else None
    return kind(code, f"{what}: HTTP {code}: {message}", seconds)


def _watch_event(line: bytes, resource: Resource) -> Object:
    """One event; an ERROR event becomes the exception that its Status tells."""
    event: dict[str, Any] = json.loads(line)
    if event["type"] != "ERROR":
        return event
    status = event["object"]
    raise _error(int(status.get("code", 500)), json.dumps(status).encode(), f"watch {resource.kind}", None)


async def _lines(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines of any length: aiohttp's own readline refuses those beyond its buffer."""
    buffer = b""
    async for chunk in stream.iter_any():
        buffer += chunk
        *lines, buffer = buffer.split(b"\n")
        for line in lines:
            if line:
                yield line
