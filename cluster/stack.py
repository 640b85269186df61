"""What every test cluster has beside Espalier: Gateway API with Contour and Envoy, Prometheus, and an S3 store.

All of it is in the namespace ``espalier-stack``, from the manifests in ``cluster/stack/`` and the images of the
images room. :func:`install` may run any number of times; keys that exist are kept.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import string
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.errors import ClusterError
from cluster.gobuild import module_dir
from images.build import Workshop
from images.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cluster.handle import Cluster
    from cluster.progress import Progress

NAMESPACE = "espalier-stack"
MANIFESTS = Path(__file__).resolve().parent / "stack"
IMAGES = ("prometheus", "seaweedfs", "contour", "envoy")
DEPLOYMENTS = ("s3", "prometheus", "contour", "envoy")
READY_SECONDS = 240

ENDPOINT = "http://s3.espalier-stack.svc.cluster.local:8333"
REGION = "us-east-1"
BUCKETS = ("datasets", "models")
# Identity -> what it may do. The operator lists snapshots and writes aliases; a tenant's pods read data and write
# their artifacts. Neither may write datasets.
ACTIONS: Mapping[str, tuple[str, ...]] = {
    "admin": ("Admin", "Read", "Write", "List", "Tagging"),
    "operator": ("Read:datasets", "List:datasets", "Read:models", "List:models", "Write:models"),
    "tenant": ("Read:datasets", "List:datasets", "Read:models", "List:models", "Write:models"),
}


def install(cluster: Cluster, progress: Progress) -> None:
    """Install or update the stack and wait until it serves.

    Raises:
        ClusterError: something did not come up; the message shows what its pods say.

    """
    images = _images(cluster, progress)
    with progress.step("stack: Gateway API and Contour's kinds"):
        _install_crds(cluster)
    with progress.step("stack: namespace, keys, manifests"):
        _apply(cluster, render("namespace", images))
        keys = {name: _keys(cluster, name) for name in ACTIONS}
        _apply(cluster, json.dumps(secret_list(keys)))
        config = s3_config(keys)
        _apply(cluster, "\n---\n".join(render(name, images, extra=config) for name in ("s3", "prometheus", "gateway")))
    with progress.step("stack: wait for its pods"):
        for name in DEPLOYMENTS:
            wait_ready(cluster, name)
    with progress.step("stack: buckets and gateway"):
        _make_buckets(cluster)
        _wait_gateway(cluster)


def scale(cluster: Cluster, name: str, replicas: int) -> None:
    """Stop (0) or start (1) a part of the stack and wait until it has happened; volumes keep their content.

    Args:
        name: one of :data:`DEPLOYMENTS`.
        replicas: 0 or 1; none of them can share its volume.

    Raises:
        ClusterError: there is no such part, or it did not come to rest in time.

    """
    if name not in DEPLOYMENTS or replicas not in {0, 1}:
        raise ClusterError(
            f"the stack has no {name!r} with {replicas} replicas", remedy=f"use 0 or 1 of: {', '.join(DEPLOYMENTS)}"
        )
    cluster.kubectl("-n", NAMESPACE, "scale", f"deployment/{name}", f"--replicas={replicas}")
    if replicas:
        wait_ready(cluster, name)
        return
    selector = f"app.kubernetes.io/name={name}"
    cluster.kubectl("-n", NAMESPACE, "wait", "pod", "-l", selector, "--for=delete", f"--timeout={READY_SECONDS}s")


def tenant_secret(cluster: Cluster, identity: str = "tenant") -> dict[str, str]:
    """The keys of an identity, in the form of a tenant's S3 secret; for tests that make one in another namespace.

    Raises:
        ClusterError: the stack is not installed.

    """
    found = _keys(cluster, identity, make=False)
    return _environment(found)


def render(name: str, images: Mapping[str, str], *, extra: str = "") -> str:
    """A manifest of ``cluster/stack/`` with its images filled in.

    Args:
        name: the file without ``.yaml``.
        images: image name -> reference.
        extra: what pods read besides the manifest; a change of either restarts them.

    """
    text = (MANIFESTS / f"{name}.yaml").read_text()
    digest = hashlib.sha256(f"{text}\0{extra}".encode()).hexdigest()[:16]
    values = {f"IMAGE_{key.upper()}": ref for key, ref in images.items()}
    return string.Template(text).substitute(values, CONFIG_DIGEST=digest)


def s3_config(keys: Mapping[str, tuple[str, str]]) -> str:
    """SeaweedFS's identities, as JSON.

    Args:
        keys: identity -> access key and secret key.

    """
    return json.dumps(
        {
            "identities": [
                {"name": name, "credentials": [{"accessKey": access, "secretKey": secret}], "actions": ACTIONS[name]}
                for name, (access, secret) in sorted(keys.items())
            ]
        }
    )


def secret_list(keys: Mapping[str, tuple[str, str]]) -> dict[str, object]:
    """The Secrets ``s3-<identity>``, with the names that Espalier's own manifests expect, and the store's own."""
    named = {f"s3-{name}": _environment(pair) for name, pair in keys.items()}
    return {
        "apiVersion": "v1",
        "kind": "List",
        "items": [
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": name, "namespace": NAMESPACE},
                "type": "Opaque",
                "stringData": data,
            }
            for name, data in {**named, "s3-config": {"s3.json": s3_config(keys)}}.items()
        ],
    }


def _environment(pair: tuple[str, str]) -> dict[str, str]:
    access, secret = pair
    return {
        "AWS_ACCESS_KEY_ID": access,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_ENDPOINT_URL": ENDPOINT,
        "AWS_REGION": REGION,
    }


def _images(cluster: Cluster, progress: Progress) -> dict[str, str]:
    """Build and load the stack's images; the answer is name -> reference."""
    try:
        archives = Workshop.open().build(IMAGES, progress)
    except ImageError as error:
        raise ClusterError(error.what, remedy=error.remedy) from error
    with progress.step("stack: load its images"):
        cluster.load_image(*(archive.path for archive in archives))
    return {archive.name: archive.ref for archive in archives}


def _install_crds(cluster: Cluster) -> None:
    gateway = module_dir("gatewayapi", "sigs.k8s.io/gateway-api") / "config/crd/standard"
    contour = module_dir("contour", "github.com/projectcontour/contour") / "examples/contour/01-crds.yaml"
    # Server-side: their descriptions are too long for the annotation that a client-side apply would write.
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(gateway), "-f", str(contour))
    kinds = ("gatewayclasses", "gateways", "httproutes", "referencegrants")
    names = [*(f"crd/{kind}.gateway.networking.k8s.io" for kind in kinds), "crd/httpproxies.projectcontour.io"]
    cluster.kubectl("wait", "--for=condition=Established", "--timeout=60s", *names)


def _apply(cluster: Cluster, manifest: str) -> None:
    """Through standard input: argv is visible to every user of the machine."""
    flags = ("--server-side", "--force-conflicts", "--field-manager=espalier-stack")
    cluster.kubectl("apply", *flags, "-f", "-", stdin=manifest)


def _keys(cluster: Cluster, identity: str, *, make: bool = True) -> tuple[str, str]:
    """The identity's access and secret key: those that exist, else random ones."""
    name = f"s3-{identity}"
    done = cluster.kubectl("-n", NAMESPACE, "get", "secret", name, "-o", "json", "--ignore-not-found")
    data: Mapping[str, str] = json.loads(done.stdout).get("data", {}) if done.stdout.strip() else {}
    try:
        access, secret = (
            base64.b64decode(data[key]).decode() for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        )
    except KeyError:
        if not make:
            raise ClusterError(
                f"cluster {cluster.name!r} has no Secret {NAMESPACE}/{name}",
                remedy=f"install the stack: python -m cluster up --name {cluster.name}",
            ) from None
        return secrets.token_hex(10).upper(), secrets.token_urlsafe(30)
    return access, secret


def wait_ready(cluster: Cluster, name: str) -> None:
    """Wait until a Deployment of the stack is rolled out.

    Raises:
        ClusterError: it is not, in time; the message quotes its pods.

    """
    where = ("-n", NAMESPACE)
    timeout = f"--timeout={READY_SECONDS}s"
    done = cluster.kubectl(*where, "rollout", "status", f"deployment/{name}", timeout, check=False)
    if done.returncode == 0:
        return
    selector = f"app.kubernetes.io/name={name}"
    pods = cluster.kubectl(*where, "get", "pods", "-l", selector, "-o", "wide", check=False).stdout
    events = cluster.kubectl(*where, "get", "events", "--sort-by=.lastTimestamp", check=False).stdout
    logs = cluster.kubectl(*where, "logs", "-l", selector, "--all-containers", "--tail=15", check=False).stdout
    raise ClusterError(
        f"deployment {NAMESPACE}/{name} is not ready after {READY_SECONDS} s: {done.stderr.strip()}\n{pods}\n"
        f"{_last_lines(events, 8)}\n{_last_lines(logs, 15)}",
        remedy=f"look at it: python -m cluster exec --name {cluster.name} -- "
        f"kubectl -n {NAMESPACE} describe pods -l {selector}; then run `python -m cluster up` again",
    )


def _last_lines(text: str, count: int) -> str:
    return "\n".join(text.splitlines()[-count:])


def _weed_shell(cluster: Cluster, commands: Sequence[str]) -> str:
    """Run commands of SeaweedFS's shell in its pod, over standard input."""
    done = cluster.kubectl(
        "-n", NAMESPACE, "exec", "-i", "deployment/s3", "-c", "s3", "--", "weed", "shell", "-master=127.0.0.1:9333",
        stdin="\n".join(commands) + "\n",
    )  # fmt: skip
    return done.stdout + done.stderr


def _make_buckets(cluster: Cluster) -> None:
    listed = _weed_shell(cluster, ["s3.bucket.list"])
    missing = [name for name in BUCKETS if f"\n  {name}\t" not in f"\n{listed}"]
    if not missing:
        return
    _weed_shell(cluster, [f"s3.bucket.create -name {name}" for name in missing])
    listed = _weed_shell(cluster, ["s3.bucket.list"])
    if absent := [name for name in BUCKETS if f"\n  {name}\t" not in f"\n{listed}"]:
        raise ClusterError(
            f"the object store has no bucket {', '.join(absent)} after creating it; it lists: {listed.strip()[-500:]}",
            remedy=f"see its log: kubectl -n {NAMESPACE} logs deployment/s3",
        )


def _wait_gateway(cluster: Cluster) -> None:
    done = cluster.kubectl(
        "-n", NAMESPACE, "wait", "gateway/public", "--for=condition=Programmed", "--timeout=120s", check=False
    )
    if done.returncode:
        state = cluster.kubectl("-n", NAMESPACE, "get", "gateway", "public", "-o", "yaml", check=False).stdout
        raise ClusterError(
            f"gateway {NAMESPACE}/public is not programmed: {done.stderr.strip()}\n{_last_lines(state, 30)}",
            remedy=f"see Contour's log: kubectl -n {NAMESPACE} logs deployment/contour",
        )
