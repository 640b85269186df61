"""Bring a cluster up: each step is skipped when its result is there."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from cluster import context, dns, gobuild, gpus, host, kindcluster, lock, network, nodeimage, packages, rootfs, tools
from cluster.engine import Engine
from cluster.errors import ClusterError
from cluster.handle import Cluster
from cluster.paths import State

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cluster.progress import Progress
    from cluster.situation import Situation

# The longest first, so that two builders end at about the same time.
_FOR_NODE = ("kube", "containerd", "coredns", "etcd", "kind", "pause")
# Needed only when the cluster runs: they are built while it starts.
_FOR_LATER = ("contour", "helm")
BUILDERS = 2


def up(name: str, situation: Situation, *, stack: bool, progress: Progress) -> Cluster:
    """Bring the cluster ``name`` up and return its handle.

    Raises:
        ClusterError: it is up in another situation, or a step failed.

    """
    state = State.of(name)
    cluster = Cluster(
        name=name,
        situation=situation.kind,
        engine=situation.engine,
        context=situation.context or f"kind-{name}",
    )
    with lock.held(state.lock, what=f"cluster {name!r}"):
        _refuse_change(cluster)
        progress.say(f"cluster {name!r}: {situation}")
        {"context": context.use, "engine": _on_engine, "private": _on_private}[situation.kind](cluster, progress)
        if stack:
            install_stack(cluster, progress)
    progress.say(f"cluster {name!r} is up; python -m cluster exec --name {name} -- kubectl get nodes")
    return cluster


def install_stack(cluster: Cluster, progress: Progress) -> None:
    """Gateway API, Contour and Envoy, Prometheus and the object store."""
    from cluster import stack  # noqa: PLC0415 - the other room of this package; --no-stack works without it

    stack.install(cluster, progress)


def _refuse_change(cluster: Cluster) -> None:
    if not cluster.state.facts.exists():
        return
    before = Cluster.load(cluster.name)
    if before != cluster:
        raise ClusterError(
            f"cluster {cluster.name!r} is already up as {before.situation} ({before.context}), "
            f"and {cluster.situation} ({cluster.context}) was asked for",
            remedy=f"run: python -m cluster down --name {cluster.name}, or choose another --name",
        )


def _on_engine(cluster: Cluster, progress: Progress) -> None:
    """Situation 2: kind's own node image on an engine that runs.

    What `up` did not make, it does not adopt: `ensure` would make a silent cluster anew, and `down` would delete it.
    """
    tools.provide(cluster.state, ("kubectl", "kind", "helm"), private=False, progress=progress)
    if not cluster.state.facts.exists() and kindcluster.exists(cluster):
        raise ClusterError(
            f"{cluster.engine} already has a kind cluster {cluster.name!r} that was not made by `up`",
            remedy=f"use it with --context {cluster.context}, choose another --name, "
            f"or take it away: kind delete cluster --name {cluster.name}",
        )
    cluster.save()
    with progress.step("kind create cluster"):
        kindcluster.ensure(cluster)
    _settle(cluster, progress, private=False)


def _on_private(cluster: Cluster, progress: Progress) -> None:
    """Situation 3: our engine, our node image."""
    engine = Engine(cluster.state)
    if engine.alive() and cluster.state.facts.exists() and kindcluster.answers(cluster):
        tools.provide(cluster.state, ("kubectl", "kind", "helm"), private=True, progress=progress)
        _settle(cluster, progress, private=True)
        return
    host.require(host.DISK_WARM if nodeimage.is_cached() else host.DISK_COLD)
    with ThreadPoolExecutor(BUILDERS) as pool:
        for_node: list[Future[None]] = [
            pool.submit(_stepped, rootfs.debian, "debian packages of the node", progress),
            pool.submit(_stepped, _engine_packages, "debian packages of the engine", progress),
            *(pool.submit(_build, part, progress) for part in _FOR_NODE),
        ]
        for_later = [pool.submit(_build, part, progress) for part in _FOR_LATER]
        try:
            _wait(for_node)
            _create_private(cluster, engine, progress)
            _wait(for_later)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    tools.provide(cluster.state, ("helm",), private=True, progress=progress)
    _settle(cluster, progress, private=True)


def _engine_packages() -> None:
    packages.unpacked("engine", packages.ENGINE_PACKAGES)


def _stepped(work: Callable[[], object], title: str, progress: Progress) -> None:
    with progress.step(title):
        work()


def _build(part: str, progress: Progress) -> None:
    gobuild.build(part, progress=progress)


def _wait(futures: Sequence[Future[None]]) -> None:
    for future in futures:
        future.result()


def _create_private(cluster: Cluster, engine: Engine, progress: Progress) -> None:
    tools.provide(cluster.state, ("kubectl", "kind"), private=True, progress=progress)
    with progress.step("private engine"):
        engine.start()
    cluster.save()
    reference = nodeimage.reference()
    if cluster.run("docker", "image", "inspect", reference, check=False).returncode:
        with progress.step("node image"):
            tar = nodeimage.tar()
        with progress.step("node image into the engine"):
            cluster.run("docker", "import", *_import_flags(), str(tar), reference)
            _forget_other_node_images(cluster, reference)
    with progress.step("kind create cluster"):
        kindcluster.ensure(cluster)


def _forget_other_node_images(cluster: Cluster, keep: str) -> None:
    """Remove node images of older recipes: 0.9 GB each. One in use stays."""
    repository = keep.partition(":")[0]
    listed = cluster.run("docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}", repository).stdout
    for reference in set(listed.split()) - {keep}:
        cluster.run("docker", "image", "rm", reference, check=False)


def _import_flags() -> list[str]:
    changes = (
        'ENTRYPOINT ["/usr/local/bin/entrypoint","/sbin/init"]',
        "ENV container=docker",
        "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    )
    return [word for change in changes for word in ("--change", change)]


def _settle(cluster: Cluster, progress: Progress, *, private: bool) -> None:
    """What comes after create, and again on every `up`: cheap, and mends what a restart lost."""
    with progress.step("nodes, routes, DNS, GPUs"):
        if private:
            dns.keep_inside(cluster)
            network.apply(cluster, kindcluster.node_list(cluster))
        kindcluster.wait_ready(cluster)
        gpus.apply(cluster)
