"""From an address to a verified model, in a thread of its own while the server is already live.

An unreachable store is waited for with growing pauses; everything else that is wrong ends the process.
"""

from __future__ import annotations

import logging
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from espalier_server import golden, model
from espalier_server.artifact import fetch
from espalier_server.errors import StorageUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from espalier_api.serving import ServingConfig
    from espalier_server.artifact import Artifact
    from espalier_server.golden import GoldenReport
    from espalier_server.model import Model
    from espalier_server.storage import Store

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A version that passed everything; `seconds` from the first download to the last golden row, without waiting for
    the store.
    """

    artifact: Artifact
    model: Model
    golden: GoldenReport
    reference: Mapping[str, Any]
    seconds: float


def load(
    config: ServingConfig,
    open_store: Callable[[str], Store],
    folder: Path,
    *,
    wait: Callable[[float], object],
    told: Callable[[str], object],
) -> Loaded:
    """Download, verify, run the golden inputs. Raises StartError; a store that is away is waited for.

    `wait(seconds)` pauses, `told(reason)` hears why the pod is not ready yet.
    """
    pause = FIRST_PAUSE
    while True:
        began = time.perf_counter()
        try:
            artifact = fetch(open_store(config.artifact_uri), config, folder)
            break
        except StorageUnavailableError as error:
            log.warning("%s; trying again in about %.0f s", error, pause)
            told(f"the object store is away: {error}")
            wait(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter is no secret
            pause = min(pause * 2, LONGEST_PAUSE)
    loaded = model.load(artifact)
    report = golden.check(loaded, folder / "golden.npz")
    return Loaded(artifact, loaded, report, artifact.reference(), time.perf_counter() - began)
