"""Stands in for kubectl, kind, docker, podman and helm: records how it was called and answers in their words.

It is run under each of those names, isolated (`python -IS`), beside a `world.json` that says what there is, and appends
each call to `calls.jsonl`. The answers of kubectl and docker were taken down from the real clients, kind's from its
sources as remembered, not recorded; a call that no test needs ends with 64.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
WORLD = HERE / "world.json"
UNREACHABLE = "The connection to the server 127.0.0.1:6443 was refused - did you specify the right host or port?"


def main(name: str, argv: list[str]) -> int:
    """One call; returns the exit code."""
    world: dict[str, Any] = json.loads(WORLD.read_text())
    seen = {key: os.environ.get(key, "") for key in ("KUBECONFIG", "KIND_EXPERIMENTAL_PROVIDER")}
    with (HERE / "calls.jsonl").open("a") as calls:
        calls.write(json.dumps({"argv": [name, *argv], **seen}) + "\n")
    answer = {"kubectl": kubectl, "kind": kind, "docker": engine, "podman": engine}.get(name)
    code = answer(world, argv) if answer else 64
    WORLD.write_text(json.dumps(world))
    return code


def said(text: str) -> int:
    sys.stdout.write(f"{text}\n")
    return 0


def failed(text: str) -> int:
    sys.stderr.write(f"{text}\n")
    return 1


def kubectl(world: dict[str, Any], argv: list[str]) -> int:  # noqa: PLR0911 - one answer per command
    match argv:
        case ["config", "view", "--raw", "--minify", "--flatten", named]:
            context = named.removeprefix("--context=")
            if context not in world["contexts"]:
                return failed(f"error: cannot locate context {context}")
            return said(kubeconfig(context))
        case ["get", "--raw", "/readyz", "--request-timeout=5s"]:
            return said("ok") if world["answers"] else failed(UNREACHABLE)
        case ["auth", "can-i", verb, resource, "--all-namespaces"]:
            if world["unauthorized"]:
                return failed("error: You must be logged in to the server (Unauthorized)")
            may = f"{verb} {resource}" not in world["may_not"]
            said("yes" if may else "no")
            return 0 if may else 1
        case ["wait", "--for=condition=Ready", "nodes", "--all", _]:
            return said("\n".join(f"node/{node} condition met" for node in nodes(world)))
        case ["--namespace=kube-system", "rollout", "status", "deployment/coredns", _]:
            return said('deployment "coredns" successfully rolled out')
        case ["get", "nodes", "-o", "json"]:
            return said(json.dumps({"items": [node_json(node, world["gpus"]) for node in nodes(world)]}))
    return 64


def kind(world: dict[str, Any], argv: list[str]) -> int:  # noqa: PLR0911 - one answer per command
    if world["engine"] is None:
        return failed(
            "ERROR: failed to list clusters: Cannot connect to the Docker daemon. Is the docker daemon running?"
        )
    match argv:
        case ["get", "clusters"]:
            return said("\n".join(world["clusters"])) if world["clusters"] else silent("No kind clusters found.")
        case ["get", "nodes", "--name", name]:
            return (
                said(f"{name}-control-plane\n{name}-worker")
                if name in world["clusters"]
                else silent("No kind nodes found.")
            )
        case ["create", "cluster", "--name", name, "--kubeconfig", path, "--wait", _, "--config", _]:
            if world["create_fails"]:
                return failed("ERROR: failed to create cluster: could not find a log line that matches")
            world["clusters"].append(name)
            world["answers"] = True
            Path(path).write_text(kubeconfig(f"kind-{name}"))
            return silent(f'Creating cluster "{name}" ...')
        case ["export", "kubeconfig", "--name", name, "--kubeconfig", path]:
            Path(path).write_text(kubeconfig(f"kind-{name}"))
            return silent(f'Set kubectl context to "kind-{name}"')
        case ["delete", "cluster", "--name", name, "--kubeconfig", _]:
            world["clusters"] = [each for each in world["clusters"] if each != name]
            return silent(f'Deleting cluster "{name}" ...')
    return 64


def engine(world: dict[str, Any], argv: list[str]) -> int:
    match argv:
        case ["version"] | ["info"]:
            running = world["engine"] == Path(sys.argv[0]).name
            return (
                said("Server:")
                if running
                else failed("Cannot connect to the Docker daemon at unix:///var/run/docker.sock.")
            )
        case ["exec", "-i", _, "sh", "-c", _]:
            sys.stdin.read()
            return 0
        case ["exec", _, "systemctl", *words]:
            world["gpus"] = 4 if words == ["restart", "fake-gpus"] else world["gpus"]
            return 0
    return 64


def silent(text: str) -> int:
    """Kind says most things on standard error, also where nothing is wrong."""
    sys.stderr.write(f"{text}\n")
    return 0


def nodes(world: dict[str, Any]) -> list[str]:
    return [f"{name}-{role}" for name in world["clusters"] for role in ("control-plane", "worker")]


def node_json(name: str, gpus: int) -> dict[str, Any]:
    labels = {"node-role.kubernetes.io/control-plane": ""} if name.endswith("control-plane") else {}
    capacity = {} if labels or not gpus else {"nvidia.com/gpu": str(gpus)}
    conditions = [{"type": "Ready", "status": "True"}]
    addresses = [{"type": "InternalIP", "address": "172.18.0.2"}, {"type": "Hostname", "address": name}]
    status = {"conditions": conditions, "addresses": addresses, "capacity": capacity}
    return {"metadata": {"name": name, "labels": labels}, "spec": {"podCIDR": "10.244.0.0/24"}, "status": status}


def kubeconfig(context: str) -> str:
    return f"apiVersion: v1\nkind: Config\ncurrent-context: {context}\nusers:\n- name: u\n  user:\n    token: s3cret\n"


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[0]).name, sys.argv[1:]))
