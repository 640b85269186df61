"""A signed model trains and serves; a version whose signature was replaced in S3 is refused by every new pod."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from espalier_api.signature import bundle, pae, parse_bundle
from espalier_cli.demo.world import _store
from tests.e2e.harness import MODEL, model_manifest

if TYPE_CHECKING:
    from tests.e2e.harness import World

pytestmark = pytest.mark.e2e
SECRET = "digits-key"
SERVERS = "espalier.dev/component=server"


def pair() -> dict[str, str]:
    """A new key pair as its Secret holds it."""
    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return {"cosign.key": private.decode(), "cosign.pub": public.decode()}


def put_keys(world: World, keys: dict[str, str]) -> None:
    """The Secret, through kubectl."""
    world.kube.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET}, "stringData": keys})


def signed_model() -> dict[str, Any]:
    """The small model, with signing."""
    artifacts = {**model_manifest()["spec"]["artifacts"], "signing": {"keySecretRef": {"name": SECRET}}}
    return model_manifest(artifacts=artifacts)


def servers(world: World) -> list[dict[str, Any]]:
    """Serving pods that are not on their way out."""
    return [pod for pod in world.kube.items("pods", SERVERS) if not pod["metadata"].get("deletionTimestamp")]


def last_words(pod: dict[str, Any]) -> str:
    """What its server said when it ended; empty while it never did."""
    for container in pod["status"].get("containerStatuses") or []:
        for state in (container.get("state") or {}, container.get("lastState") or {}):
            if "terminated" in state:
                return str(state["terminated"].get("message", ""))
    return ""


def test_signed_model_serves_and_a_replaced_signature_is_refused(world: World) -> None:
    keys = pair()
    put_keys(world, keys)
    world.apply_rollout()
    world.apply(signed_model())
    world.await_("v1 champion", lambda: world.champion() == "v1", 300)
    (old,) = servers(world)
    volumes = [volume["secret"] for volume in old["spec"]["volumes"] if "secret" in volume]
    assert [(volume["secretName"], [item["key"] for item in volume["items"]]) for volume in volumes] == [
        (SECRET, ["cosign.pub"])
    ]
    with _store(world.kube) as client:
        place = {"Bucket": "models", "Key": f"{world.kube.namespace}/digits/v1/model.sig"}
        good = parse_bundle(client.get_object(**place)["Body"].read())
        stranger = ec.generate_private_key(ec.SECP256R1()).sign(pae(good.payload), ec.ECDSA(hashes.SHA256()))
        client.put_object(**place, Body=bundle(good.payload, stranger, good.hint))
    world.kube.run("delete", "pod", old["metadata"]["name"], "--wait=false")
    words = world.await_(
        "a refusal", lambda: next((text for pod in servers(world) if (text := last_words(pod))), ""), 120
    )
    assert words.startswith("SignatureError: model.sig")
    assert not any(
        condition["type"] == "Ready" and condition["status"] == "True"
        for pod in servers(world)
        for condition in pod["status"].get("conditions") or []
    )
    assert keys["cosign.key"].splitlines()[1] not in words + world.picture()


def test_missing_secret_is_named_and_training_starts_when_it_comes(world: World) -> None:
    world.apply(signed_model())
    condition = world.await_(
        "the reason",
        lambda: (found := world.condition(MODEL, "Trained")).get("reason") == "CreateContainerError" and found,
    )
    assert f"Secret {SECRET} with cosign.key and cosign.pub" in condition["message"]
    put_keys(world, pair())
    world.await_version("v1", "Candidate", timeout=300)
