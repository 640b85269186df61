"""Where this pod is in its life, as every endpoint sees it."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from espalier_server.bodies import Bodies
from espalier_server.errors import NotReadyError, UnknownModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from espalier_api.serving import ServingConfig
    from espalier_server.metrics import Metrics
    from espalier_server.serving import ServedModel
    from espalier_server.workers import Workers


class Phase(Enum):
    """LOADING → READY → DRAINING; never back."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"


class State:
    """Configuration, metrics, workers and, once it is loaded, the model. Changed only on the event loop."""

    def __init__(self, config: ServingConfig, metrics: Metrics, workers: Workers) -> None:
        self.config = config
        self.metrics = metrics
        self.workers = workers
        self.bodies = Bodies(config.limits)
        self.phase = Phase.LOADING
        self.why_not_ready = "the version is being downloaded and verified"
        self._served: ServedModel | None = None

    def serve(self, served: ServedModel) -> None:
        """The version is verified: become ready, unless the pod is already going away."""
        self._served = served
        if self.phase is Phase.LOADING:
            self.phase = Phase.READY

    def drain(self) -> None:
        """Stop being ready; requests that still arrive are answered until the process ends."""
        self.phase = Phase.DRAINING
        self.why_not_ready = "the pod is going away"

    def require_ready(self) -> ServedModel:
        """The model, when new traffic is welcome. Raises NotReadyError."""
        if self.phase is not Phase.READY:
            raise NotReadyError(f"{self.config.model} {self.config.version}: {self.why_not_ready}")
        return self.served()

    def served(self) -> ServedModel:
        """The model, also while draining. Raises NotReadyError before it is loaded."""
        if self._served is None:
            raise NotReadyError(f"{self.config.model} {self.config.version}: {self.why_not_ready}")
        return self._served

    def check_name(self, path: Mapping[str, str]) -> None:
        """The path's model and version are the ones served here. Raises UnknownModelError."""
        if path["model"] != self.config.model:
            raise UnknownModelError(f"model {path['model']!r} is not served here; this is {self.config.model!r}")
        if path.get("version", self.config.version) != self.config.version:
            raise UnknownModelError(f"version {path['version']!r} is not served here; this is {self.config.version!r}")
