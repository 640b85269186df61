"""Sets the stage for the demo and for the e2e tests: images built, cluster up, images loaded, chart installed.

Idempotent.
"""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import ClusterError
from cluster.handle import Cluster
from cluster.paths import DEFAULT_NAME
from cluster.progress import Progress
from images.build import Workshop
from images.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parent.parent
STAGED = ROOT / ".cache" / "stage.json"
SYSTEM = "espalier-system"
RELEASE = "espalier"
OUR_IMAGES = ("operator", "trainer", "server", "loadgen")


class StageError(Exception):
    """A preparation failed. The message carries the command; its own output stands above it."""


def run(argv: Sequence[str]) -> None:
    """Run a command with its output shown."""
    done = subprocess.run(list(argv), cwd=ROOT, check=False)
    if done.returncode != 0:
        raise StageError(f"`{' '.join(argv)}` ended with {done.returncode}; what it printed above says why")


def python(*args: str) -> list[str]:
    """Argv of this interpreter."""
    return [sys.executable, *args]


def refs() -> dict[str, str]:
    """Image name -> reference, as loaded by the latest `set_up`.

    A source file edited since then changes nothing here.
    """
    if not STAGED.exists():
        raise StageError("the stage is not set: no images were loaded. Run `python -m tools.stage`")
    found: dict[str, str] = json.loads(STAGED.read_text())
    return found


def set_up(context: str | None = None) -> Cluster:
    """Everything up to a running operator; returns the cluster's handle."""
    named = ["--context", context] if context else []
    # Images mostly wait for the network, Go builds for the processor: side by side they take as long as the slower one.
    with ThreadPoolExecutor(max_workers=2) as pool:
        images = pool.submit(lambda: Workshop.open().build(OUR_IMAGES, Progress()))
        up = pool.submit(run, python("-m", "cluster", "up", *named))
        up.result()
        archives = list(images.result())
    cluster = Cluster.load(DEFAULT_NAME)
    with Progress().step("images into the cluster"):
        cluster.load_image(*(archive.path for archive in archives))
    STAGED.parent.mkdir(parents=True, exist_ok=True)
    STAGED.write_text(json.dumps({archive.name: archive.ref for archive in archives}, indent=1) + "\n")
    with Progress().step("chart"):
        install(cluster)
    return cluster


def install(cluster: Cluster) -> None:
    """`helm upgrade --install` of the chart with this checkout's images and the stack's S3 identity of the operator."""
    credentials = json.loads(
        cluster.kubectl("-n", "espalier-stack", "get", "secret", "s3-operator", "-o", "json").stdout
    )["data"]
    for manifest in (
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}},
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "espalier-s3", "namespace": SYSTEM},
            "data": credentials,
        },
    ):
        cluster.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))
    # --take-ownership: the CRDs may be there already, applied by hand or kept by an earlier release.
    cluster.run(
        "helm", "upgrade", "--install", RELEASE, str(ROOT / "charts" / "espalier"), "--namespace", SYSTEM,
        "--take-ownership", "--values", "-", "--wait", "--timeout", "3m", stdin=json.dumps(chart_values(refs())),
    )  # fmt: skip


def chart_values(images: dict[str, str]) -> dict[str, Any]:
    """Values for the demo stack: this checkout's images, its Prometheus (scraped every 2 s), its S3."""
    return {
        "image": images["operator"],
        "trainer": {"image": images["trainer"]},
        "server": {"image": images["server"]},
        "prometheus": {
            "default": {
                "url": "http://prometheus.espalier-stack:9090",
                "scrapeInterval": "2s",
                "lag": "4s",
                "timeoutSeconds": 5,
            }
        },
        "s3": {"endpointUrl": "http://s3.espalier-stack:8333", "secretName": "espalier-s3"},
    }


def main() -> int:
    """`python -m tools.stage`: the stage without a play, to look around or to run single e2e tests on."""
    try:
        set_up()
    except (StageError, ClusterError, ImageError) as error:
        sys.stderr.write(f"tools.stage: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
