"""The demo's one way to the cluster: kubectl, as a person would use it. Secrets and manifests go in by stdin, never by argv."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FORWARDING = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+)")


NOT_FOUND = 404
LOOKED_AT = {
    "regularizedmodels.espalier.dev": ("espalier.dev", "v1alpha1", "regularizedmodels"),
    "canaryrollouts.espalier.dev": ("espalier.dev", "v1alpha1", "canaryrollouts"),
    "httproutes.gateway.networking.k8s.io": ("gateway.networking.k8s.io", "v1", "httproutes"),
    "deployment": ("apps", "v1", "deployments"),
}
"""Kinds read several times a second: a kubectl for each look would cost more processor than the cluster itself."""


_clients: dict[str | None, Any] = {}


def _objects(context: str | None) -> Any:  # noqa: ANN401 - the client ships no types
    """One client per context, as kubectl would choose it."""
    from kubernetes import client, config

    if context not in _clients:
        _clients[context] = client.CustomObjectsApi(config.new_client_from_config(context=context))  # type: ignore[no-untyped-call]
    return _clients[context]


def close_clients() -> None:
    """Close the connections that looks at objects keep open. The next look opens new ones."""
    while _clients:
        _clients.popitem()[1].api_client.close()


class DemoError(Exception):
    """The demo cannot go on, or the cluster did something other than what the product promises. The message says what to do."""


@dataclass(frozen=True, slots=True)
class Kubectl:
    """kubectl bound to one namespace and, when named, one context."""

    namespace: str
    context: str | None = None

    def argv(self, *args: str) -> list[str]:
        """The full command line."""
        binary = shutil.which("kubectl")
        if binary is None:
            raise DemoError("kubectl is not on PATH. Install it, or run `make demo`, which brings its own.")
        context = ["--context", self.context] if self.context else []
        return [binary, *context, "--namespace", self.namespace, *args]

    def run(self, *args: str, stdin: str | None = None, check: bool = True) -> str:
        """Run it and return stdout. Raises DemoError with kubectl's own words."""
        done = subprocess.run(self.argv(*args), input=stdin, capture_output=True, text=True, check=False)  # noqa: S603 - argv is ours
        if check and done.returncode != 0:
            raise DemoError(f"kubectl {args[0]} {args[1] if len(args) > 1 else ''} failed: {done.stderr.strip()}")
        return done.stdout

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        """One object, or None when there is none. Kinds that are looked at often are read without starting a kubectl."""
        if kind in LOOKED_AT:
            return self._look(LOOKED_AT[kind], name)
        text = self.run("get", kind, name, "--output", "json", "--ignore-not-found")
        found: dict[str, Any] | None = json.loads(text) if text.strip() else None
        return found

    def _look(self, resource: tuple[str, str, str], name: str) -> dict[str, Any] | None:
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        group, version, plural = resource
        try:
            found: dict[str, Any] = _objects(self.context).get_namespaced_custom_object(
                group, version, self.namespace, plural, name, _request_timeout=10
            )
        except ApiException as error:
            if error.status == NOT_FOUND:
                return None
            raise DemoError(
                f"{plural} {self.namespace}/{name}: the API server answers {error.status}: {error.reason}"
            ) from error
        except HTTPError as error:
            raise DemoError(f"{plural} {self.namespace}/{name}: the API server does not answer: {error}") from error
        return found

    def items(self, kind: str, selector: str | None = None) -> list[dict[str, Any]]:
        """All objects of a kind in the namespace."""
        labels = ["--selector", selector] if selector else []
        found: list[dict[str, Any]] = json.loads(self.run("get", kind, *labels, "--output", "json"))["items"]
        return found

    def apply(self, manifest: Mapping[str, Any]) -> None:
        """Server-side apply of one object, by stdin."""
        self.run(
            "apply",
            "--server-side",
            "--force-conflicts",
            "--field-manager",
            "espalier-demo",
            "-f",
            "-",
            stdin=json.dumps(manifest),
        )

    def secret(self, name: str, namespace: str) -> dict[str, str]:
        """The decoded values of a Secret of another namespace (the demo stack's, made for tenants)."""
        import base64

        text = Kubectl(namespace, self.context).run("get", "secret", name, "--output", "json")
        return {key: base64.b64decode(value).decode() for key, value in json.loads(text)["data"].items()}

    @contextmanager
    def forward(self, target: str, port: int) -> Iterator[str]:
        """`http://127.0.0.1:<free port>` forwarded to `target` (`svc/prometheus`) for as long as the block runs."""
        argv = self.argv("port-forward", target, f":{port}", "--address", "127.0.0.1")
        with subprocess.Popen(  # noqa: S603 - argv is ours
            argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
        ) as process:
            try:
                yield f"http://127.0.0.1:{_forwarded_port(process.stdout, process.stderr, target)}"
            finally:
                process.terminate()


def _forwarded_port(stdout: IO[str] | None, stderr: IO[str] | None, target: str) -> int:
    """Read kubectl's first line, which names the local port it took."""
    line = stdout.readline() if stdout else ""
    match = FORWARDING.search(line)
    if match is None:
        reason = stderr.read().strip() if stderr else ""
        raise DemoError(f"kubectl port-forward {target} did not start: {reason or line.strip() or 'no output'}")
    return int(match.group(1))
