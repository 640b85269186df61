"""Routes, DNS, cgroups, locks, progress, status, the engine's configuration, the command line."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cluster import cgroups, cli, dns, lock, network, paths, up
from cluster.engine import Engine
from cluster.errors import ClusterError
from cluster.handle import Cluster
from cluster.kindcluster import Node
from cluster.paths import State
from cluster.progress import Progress
from cluster.status import NodeStatus, Status

ITEM = {
    "metadata": {"name": "demo-worker", "labels": {}},
    "spec": {"podCIDR": "10.244.1.0/24"},
    "status": {
        "addresses": [{"type": "Hostname", "address": "x"}, {"type": "InternalIP", "address": "172.18.0.3"}],
        "conditions": [{"type": "Ready", "status": "True"}],
        "capacity": {"nvidia.com/gpu": "4"},
    },
}
WORKER = Node.of(ITEM)
CONTROL = Node("demo-control-plane", "10.244.0.0/24", "172.18.0.2", control_plane=True, ready=True, gpus=0)


def test_a_node_as_the_api_shows_it() -> None:
    assert Node("demo-worker", "10.244.1.0/24", "172.18.0.3", control_plane=False, ready=True, gpus=4) == WORKER


def test_each_node_learns_the_way_to_the_others_pods() -> None:
    assert dict(network.node_routes([CONTROL, WORKER])) == {
        "demo-control-plane": ["ip", "route", "replace", "10.244.1.0/24", "via", "172.18.0.3"],
        "demo-worker": ["ip", "route", "replace", "10.244.0.0/24", "via", "172.18.0.2"],
    }


def test_the_namespace_learns_the_way_to_pods_and_services() -> None:
    ways = {argv[3]: argv[5] for argv in network.namespace_routes([CONTROL, WORKER])}
    assert ways == {"10.244.0.0/24": "172.18.0.2", "10.244.1.0/24": "172.18.0.3", "10.96.0.0/16": "172.18.0.2"}


COREFILE = """.:53 {
    errors
    kubernetes cluster.local {
       fallthrough in-addr.arpa
    }
    forward . /etc/resolv.conf {
       max_concurrent 1000
    }
    cache 30
}
"""


def test_dns_asks_nobody_outside() -> None:
    inside = dns.without_forward(COREFILE)
    assert "forward" not in inside
    assert "max_concurrent" not in inside
    assert "kubernetes cluster.local" in inside
    assert "    cache 30\n}\n" in inside
    assert dns.without_forward(inside) == inside


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A made-up /sys/fs/cgroup of v1."""
    for tree in ("pids", "memory"):
        for group in ("", "espalier-demo", "espalier-demo/node", "somebody"):
            folder = tmp_path / tree / group
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "cgroup.procs").write_text("")
    return tmp_path


def test_only_processes_of_our_own_cgroup_are_ours(tree: Path) -> None:
    (tree / "pids/somebody/cgroup.procs").write_text("1\n")
    (tree / "pids/espalier-demo/cgroup.procs").write_text("11\n12\n")
    (tree / "memory/espalier-demo/node/cgroup.procs").write_text("12\n13\n")
    assert cgroups.processes("/espalier-demo", tree) == {11, 12, 13}
    assert cgroups.processes("/espalier-other", tree) == set()


def test_the_deepest_cgroup_goes_first(tree: Path) -> None:
    found = cgroups.folders("/espalier-demo", tree)
    assert [str(folder.relative_to(tree)) for folder in found] == [
        "memory/espalier-demo/node",
        "memory/espalier-demo",
        "pids/espalier-demo/node",
        "pids/espalier-demo",
    ]


def test_v2_has_one_tree(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").touch()
    assert cgroups.hierarchies(tmp_path) == [tmp_path]
    assert cgroups.join_files("/espalier-demo/engine", tmp_path) == [tmp_path / "espalier-demo/engine/cgroup.procs"]


def test_processes_are_tracked_in_pids_on_v1(tree: Path) -> None:
    assert cgroups.join_files("/espalier-demo/engine", tree) == [tree / "pids/espalier-demo/engine/cgroup.procs"]


def test_launch_joins_and_becomes_the_command(tmp_path: Path) -> None:
    program = Path(cgroups.__file__).with_name("launch.py")
    argv = [sys.executable, "-P", str(program), str(tmp_path / "procs"), "--", "sh", "-c", "echo $$; exit 5"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 5
    assert (tmp_path / "procs").read_text() == done.stdout.strip()


def test_a_second_command_on_the_same_cluster_is_told_who_holds_it(tmp_path: Path) -> None:
    file = tmp_path / "x.lock"
    with (
        lock.held(file, what="cluster 'demo'"),
        pytest.raises(ClusterError, match=r"process \d+"),
        lock.held(file, what="cluster 'demo'"),
    ):
        pass
    with lock.held(file, what="cluster 'demo'"):
        pass


def test_progress_tells_each_step_and_its_time() -> None:
    times = iter([0.0, 1.0, 1.0, 4.5, 4.5])
    stream = io.StringIO()
    progress = Progress(stream=stream, clock=lambda: next(times))
    with progress.step("build kube"):
        pass
    assert stream.getvalue() == "[  0:01] build kube ...\n[  0:04] build kube: 3.5 s\n"
    assert progress.steps[0].seconds == 3.5


def test_progress_says_what_failed() -> None:
    stream = io.StringIO()
    with pytest.raises(KeyError), Progress(stream=stream, clock=lambda: 0.0).step("x"):
        raise KeyError
    assert "x: FAILED after 0.0 s" in stream.getvalue()


def test_a_long_step_says_that_it_still_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, told = io.StringIO(), threading.Event()
    monkeypatch.setattr("cluster.progress.TICK_SECONDS", 0.001)
    progress = Progress(stream=stream, clock=lambda: 0.0)
    say = progress.say

    def hear(line: str) -> None:
        say(line)
        if "so far" in line:
            told.set()

    monkeypatch.setattr(progress, "say", hear)
    with progress.step("build kube"):
        assert told.wait(10)
    assert "build kube: 0 s so far" in stream.getvalue()


def test_the_engine_keeps_to_its_own_places(tmp_path: Path) -> None:
    state = State("demo", tmp_path / "demo")
    config = Engine(state).config(tmp_path / "unpacked")
    assert config["cgroup-parent"] == "/espalier-demo"
    assert config["hosts"] == [f"unix://{tmp_path}/demo/docker-run/docker.sock"]
    assert config["dns"] == ["127.0.0.1"]
    for key in ("data-root", "exec-root", "pidfile"):
        assert str(config[key]).startswith(str(tmp_path / "demo"))
    json.dumps(config)


def test_a_reused_process_id_is_never_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = State("demo", tmp_path)
    state.docker_run.mkdir()
    (state.docker_run / "docker.pid").write_text("4711")
    monkeypatch.setattr(cgroups, "processes", lambda _: set())
    assert Engine(state)._pid() is None
    monkeypatch.setattr(cgroups, "processes", lambda _: {4711})
    assert Engine(state)._pid() == 4711


def test_another_situation_needs_a_down_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESPALIER_STATE", str(tmp_path))
    Cluster("demo", "private", "docker", "kind-demo").save()
    with pytest.raises(ClusterError, match=r"(?s)already up as private.*python -m cluster down --name demo"):
        up._refuse_change(Cluster("demo", "engine", "podman", "kind-demo"))


def test_cache_and_state_can_be_moved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ESPALIER_CACHE", str(tmp_path / "c"))
    monkeypatch.setenv("ESPALIER_STATE", str(tmp_path / "s"))
    assert paths.cache_root() == tmp_path / "c"
    assert State.of("demo").kubeconfig == tmp_path / "s/demo/kubeconfig"


def test_status_for_people() -> None:
    nodes = [NodeStatus("demo-worker", ready=True, address="172.18.0.3", gpus=4)]
    text = Status("demo", "up", "private", "kind-demo", "/k", "private docker, answers", nodes, ["a/b Pending"]).text()
    assert "demo-worker  Ready  172.18.0.3  nvidia.com/gpu: 4" in text
    assert "not running a/b Pending" in text
    assert "python -m cluster up" in Status("demo", "down").text()


@pytest.mark.parametrize("command", ["up", "down", "status", "load-image", "kubeconfig", "exec", "build"])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0
    assert command in capsys.readouterr().out


def test_errors_reach_the_terminal_with_their_remedy(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ESPALIER_STATE", str(tmp_path))
    assert cli.main(["kubeconfig", "--name", "absent"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: cluster 'absent' is not up")
    assert "remedy: run: python -m cluster up --name absent" in captured.err


def test_exec_becomes_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ESPALIER_STATE", str(tmp_path))
    Cluster("demo", "engine", "docker", "kind-demo").save()
    seen: list[list[str]] = []

    def become(file: str, argv: list[str], env: dict[str, str]) -> None:
        seen.append([file, *argv, env["KUBECONFIG"]])
        raise SystemExit(7)  # the real one does not return either

    monkeypatch.setattr("os.execvpe", become)
    with pytest.raises(SystemExit):
        cli.main(["exec", "--name", "demo", "--", "kubectl", "get", "--watch"])
    assert seen == [["kubectl", "kubectl", "get", "--watch", str(tmp_path / "demo/kubeconfig")]]


def test_exec_without_a_command_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["exec", "--"]) == 1
    assert "exec has no command" in capsys.readouterr().err
