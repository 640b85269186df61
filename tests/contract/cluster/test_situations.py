"""Situations 1 and 2, command by command, on stand-ins for kubectl, kind, docker and podman: no real ones run here."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest

from cluster import cli, context, kindcluster
from cluster.paths import KIND_CONFIG

if TYPE_CHECKING:
    from tests.contract.cluster.conftest import Machine

UP = ["up", "--name", "demo", "--no-stack"]
DOWN = ["down", "--name", "demo"]
USERS = "/the/users/own/kubeconfig"
SETTLE = [
    "kubectl wait --for=condition=Ready nodes --all --timeout=180s",
    "kubectl --namespace=kube-system rollout status deployment/coredns --timeout=180s",
    "kind get nodes --name demo",
]
ENGINES = pytest.mark.parametrize("engine,question", [("docker", "docker version"), ("podman", "podman info")])


def create(name: str = "demo") -> str:
    return f"kind create cluster --name {name} --kubeconfig STATE/{name}/kubeconfig --wait 180s --config {KIND_CONFIG}"


# --- 1: a named context ---------------------------------------------------------------
def test_a_named_context_is_read_asked_and_kept(machine: Machine) -> None:
    machine.change(contexts=["prod", "other"], answers=True)
    assert cli.main([*UP, "--context", "prod"]) == 0
    commands = machine.commands()
    assert commands == [
        "kubectl config view --raw --minify --flatten --context=prod",
        "kubectl get --raw /readyz --request-timeout=5s",
        *(f"kubectl auth can-i {verb} {resource} --all-namespaces" for verb, resource in context.NEEDED),
    ]
    kept = machine.state / "demo/kubeconfig"
    assert "current-context: prod" in kept.read_text()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    first, *others = [call["KUBECONFIG"] for call in machine.calls()]
    assert first == USERS
    assert set(others) == {str(kept)}, "after the first, no command may see the user's own contexts"


def test_the_current_context_is_never_used_unasked(machine: Machine) -> None:
    """With an engine that runs, `up` asks kind; with none, and no root's private engine wanted, nobody asks kubectl."""
    machine.change(contexts=["prod"], answers=True, engine="docker")
    assert cli.main(UP) == 0
    assert not any(call["KUBECONFIG"] == USERS for call in machine.calls() if call["argv"][0] == "kubectl")
    assert not any("config view" in command for command in machine.commands())


@pytest.mark.parametrize(
    "world,words",
    [
        (
            {"contexts": ["other"]},
            ["kube context 'prod' can't be read: error: cannot locate context prod", "get-contexts"],
        ),
        ({"answers": False}, ["the API of context 'prod' does not answer", "kubectl --context prod get --raw /readyz"]),
        (
            {"may_not": ["create namespaces", "create clusterroles.rbac.authorization.k8s.io"]},
            ["may not: create namespaces, create clusterroles.rbac.authorization.k8s.io", "cluster administrator"],
        ),
        ({"unauthorized": True}, ["does not say what its user may do", "Unauthorized", "auth whoami"]),
    ],
)
def test_a_context_that_can_not_serve_is_refused_in_words(
    machine: Machine, capsys: pytest.CaptureFixture[str], world: dict[str, object], words: list[str]
) -> None:
    machine.change(**{"contexts": ["prod"], "answers": True, **world})
    assert cli.main([*UP, "--context", "prod"]) == 1
    told = capsys.readouterr().err
    assert "remedy: " in told
    for word in words:
        assert word in told
    assert not machine.files("demo") & {"cluster.json", "kubeconfig"}, "a refused context leaves its credentials behind"
    assert cli.main(DOWN) == 0
    assert machine.files("demo") == set()


def test_down_only_forgets_a_context(machine: Machine) -> None:
    machine.change(contexts=["prod"], answers=True)
    assert cli.main([*UP, "--context", "prod"]) == 0
    machine.forget_calls()
    assert cli.main(DOWN) == 0
    assert machine.commands() == []
    assert machine.files("demo") == set()


def test_another_context_under_the_same_name_is_refused(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.change(contexts=["prod", "stage"], answers=True)
    assert cli.main([*UP, "--context", "prod"]) == 0
    machine.forget_calls()
    assert cli.main([*UP, "--context", "stage"]) == 1
    assert "already up as context (prod)" in capsys.readouterr().err
    assert machine.commands() == []


# --- 2: docker or podman --------------------------------------------------------------
@ENGINES
def test_a_cluster_is_made_on_an_engine(machine: Machine, engine: str, question: str) -> None:
    machine.change(engine=engine)
    assert cli.main([*UP, "--engine", engine]) == 0
    commands = machine.commands()
    assert commands[:6] == [question, "kind get clusters", "kind get clusters", create(), *SETTLE[:2]]
    assert commands[6] == SETTLE[2]
    on_node = commands[7:-1]
    assert len(on_node) == 5
    assert all(command.startswith(f"{engine} exec ") and " demo-worker " in command for command in on_node)
    assert commands[-1] == "kubectl get nodes -o json"
    asked = [call for call in machine.calls() if call["argv"] != question.split()]
    assert {call["KIND_EXPERIMENTAL_PROVIDER"] for call in asked} == {engine}
    assert {call["KUBECONFIG"] for call in asked} == {str(machine.state / "demo/kubeconfig")}
    machine.forget_calls()
    assert cli.main([*UP, "--engine", engine]) == 0
    assert create() not in machine.commands(), "the second `up` keeps what is there"


@ENGINES
def test_down_deletes_the_cluster_that_was_made_and_no_other(machine: Machine, engine: str, question: str) -> None:
    machine.change(engine=engine, clusters=["neighbour"])
    assert cli.main([*UP, "--engine", engine]) == 0
    assert machine.clusters == ["neighbour", "demo"]
    machine.forget_calls()
    assert cli.main(DOWN) == 0
    assert machine.commands() == ["kind delete cluster --name demo --kubeconfig STATE/demo/kubeconfig"]
    assert question not in machine.commands()
    assert {call["KIND_EXPERIMENTAL_PROVIDER"] for call in machine.calls()} == {engine}
    assert machine.clusters == ["neighbour"]
    assert machine.files("demo") == set()


def test_a_cluster_of_that_name_that_others_made_is_left_alone(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may be silent, and `up` makes silent clusters of its own anew."""
    machine.change(engine="docker", clusters=["demo"], answers=False)
    assert cli.main([*UP, "--engine", "docker"]) == 1
    told = capsys.readouterr().err
    assert "not made by `up`" in told
    assert "--context kind-demo" in told
    assert cli.main(DOWN) == 0
    assert machine.clusters == ["demo"]
    assert not any(" delete " in command for command in machine.commands())


def test_what_fell_silent_is_made_anew(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.change(engine="docker")
    assert cli.main(UP) == 0
    machine.change(answers=False)
    machine.forget_calls()
    monkeypatch.setattr(kindcluster, "wait_for", lambda true, *_, **__: true())  # once, not for half a minute
    assert cli.main(UP) == 0
    assert machine.commands()[1:5] == [
        "kind get clusters",
        "kubectl get --raw /readyz --request-timeout=5s",
        "kind delete cluster --name demo --kubeconfig STATE/demo/kubeconfig",
        create(),
    ]


def test_a_lost_kubeconfig_is_asked_for_again(machine: Machine) -> None:
    machine.change(engine="docker")
    assert cli.main(UP) == 0
    (machine.state / "demo/kubeconfig").unlink()
    machine.forget_calls()
    assert cli.main(UP) == 0
    assert machine.commands()[2] == "kind export kubeconfig --name demo --kubeconfig STATE/demo/kubeconfig"
    assert machine.clusters == ["demo"]


def test_a_failed_create_shows_kinds_words_and_can_be_taken_down(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.change(engine="podman", create_fails=True)
    assert cli.main([*UP, "--engine", "podman"]) == 1
    told = capsys.readouterr().err
    assert "could not find a log line" in told
    assert "remedy: read " in told
    assert cli.main(DOWN) == 0
    assert machine.commands()[-1].startswith("kind delete cluster --name demo ")
    assert machine.files("demo") == set()


@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_an_engine_that_does_not_answer_is_refused(
    machine: Machine, capsys: pytest.CaptureFixture[str], engine: str
) -> None:
    assert cli.main([*UP, "--engine", engine]) == 1
    assert f"remedy: start {engine}" in capsys.readouterr().err
    assert machine.files("demo") == set()


def test_down_while_the_engine_is_away_keeps_what_it_needs_later(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.change(engine="docker")
    assert cli.main(UP) == 0
    machine.change(engine=None)
    assert cli.main(DOWN) == 1
    assert "Cannot connect to the Docker daemon" in capsys.readouterr().err
    assert "cluster.json" in machine.files("demo")
    machine.change(engine="docker")
    assert cli.main(DOWN) == 0
    assert machine.clusters == []
