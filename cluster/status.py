"""How a cluster is."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from cluster import cgroups, kindcluster
from cluster.engine import Engine
from cluster.handle import Cluster
from cluster.paths import State


@dataclass(frozen=True)
class NodeStatus:
    """One node."""

    name: str
    ready: bool
    address: str
    gpus: int


@dataclass(frozen=True)
class Status:
    """What ``status`` answers; ``state`` is ``up``, ``broken`` or ``down``."""

    name: str
    state: str
    situation: str = ""
    context: str = ""
    kubeconfig: str = ""
    engine: str = ""
    nodes: list[NodeStatus] = field(default_factory=list)
    waiting_pods: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)

    def text(self) -> str:
        """For people."""
        if self.state == "down":
            return f"cluster {self.name}: down\n  start it: python -m cluster up --name {self.name}"
        lines = [f"cluster {self.name}: {self.state} ({self.situation}, context {self.context})"]
        lines += [f"  engine      {self.engine}"] if self.engine else []
        lines += [f"  kubeconfig  {self.kubeconfig}"]
        lines += [
            f"  node        {node.name}  {'Ready' if node.ready else 'NotReady'}  {node.address}"
            + (f"  nvidia.com/gpu: {node.gpus}" if node.gpus else "")
            for node in self.nodes
        ]
        lines += [f"  not running {pod}" for pod in self.waiting_pods]
        if self.state == "broken":
            lines += [f"  mend it: python -m cluster up --name {self.name}"]
        return "\n".join(lines)


def read(name: str) -> Status:
    """Ask the engine and the API."""
    state = State.of(name)
    if not state.facts.exists():
        rest = cgroups.folders(state.cgroup_parent)
        return Status(name, "broken" if rest else "down", situation="private" if rest else "")
    cluster = Cluster.load(name)
    engine = _engine(cluster)
    if not (engine.endswith("answers") or not cluster.private) or not kindcluster.answers(cluster):
        return _status(cluster, "broken", engine)
    nodes = [NodeStatus(node.name, node.ready, node.address, node.gpus) for node in kindcluster.node_list(cluster)]
    healthy = bool(nodes) and all(node.ready for node in nodes)
    return _status(cluster, "up" if healthy else "broken", engine, nodes, _waiting_pods(cluster))


def _engine(cluster: Cluster) -> str:
    if not cluster.private:
        return cluster.engine
    return f"private docker, {'answers' if Engine(cluster.state).alive() else 'does not run'}"


def _status(
    cluster: Cluster,
    state: str,
    engine: str,
    nodes: list[NodeStatus] | None = None,
    waiting: list[str] | None = None,
) -> Status:
    return Status(
        name=cluster.name,
        state=state,
        situation=cluster.situation,
        context=cluster.context,
        kubeconfig=str(cluster.state.kubeconfig),
        engine=engine,
        nodes=nodes or [],
        waiting_pods=waiting or [],
    )


def _waiting_pods(cluster: Cluster) -> list[str]:
    """Pods that neither run nor are done, as namespace/name phase."""
    columns = "jsonpath={range .items[*]}{.metadata.namespace}/{.metadata.name} {.status.phase}{'\\n'}{end}"
    rows = cluster.kubectl("get", "pods", "--all-namespaces", "-o", columns).stdout.splitlines()
    return [row for row in rows if not row.endswith((" Running", " Succeeded"))]
