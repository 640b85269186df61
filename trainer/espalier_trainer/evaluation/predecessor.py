"""The version that served when training began: what a new one is compared with, read from its published artifact alone."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from espalier_api import artifact
from espalier_api.artifact import Manifest, MetricValue
from espalier_trainer.evaluation.latency import Runtime
from espalier_trainer.log import say

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from espalier_trainer.data.dataset import Dataset
    from espalier_trainer.storage import ObjectStore


@dataclass(frozen=True, slots=True)
class Predecessor:
    """What its manifest and metrics.json say, and its graph."""

    version: str
    features: tuple[str, ...]
    classes: tuple[str, ...]
    metrics: Mapping[str, MetricValue] = field(default_factory=dict)
    temperature: float | None = None
    model: bytes | None = None
    nullable: bool = False  # it can answer rows in which values are missing
    vocabulary: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # of its columns of names

    def predicted(self, rows: Dataset) -> npt.NDArray[np.int64] | None:
        """Its classes as indices into those of `rows`, -1 for one that is no class any more; None when it answers something else."""
        if self.model is None or not self.classes or not rows.classes:
            return None
        if (x := rows.as_seen_by(self.features, self.vocabulary, nullable=self.nullable)) is None:
            return None
        index = {name: i for i, name in enumerate(rows.classes)}
        labels = Runtime(self.model)(x)[artifact.ONNX_LABEL]
        return np.asarray([index.get(name, -1) for name in self.classes], dtype=np.int64).take(labels)


def load(store: ObjectStore, version: str) -> Predecessor | None:
    """The published version; None, and a word in the log, when it is gone or of another release. Its graph must have its digest."""
    content = store.read(artifact.MANIFEST)
    if content is None:
        say("predecessor-missing", version=version)
        return None
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        say("predecessor-unreadable", version=version, errors=error.error_count())
        return None
    task = manifest.task
    return Predecessor(
        version,
        task.features,
        task.classes,
        manifest.metrics,
        _temperature(store),
        _verified(store, manifest),
        task.nullable,
        task.vocabulary,
    )


def _temperature(store: ObjectStore) -> float | None:
    saved: Any = json.loads(store.read(artifact.METRICS) or b"{}")
    told = saved.get("temperature") if isinstance(saved, dict) else None
    return float(told) if isinstance(told, int | float) else None


def _verified(store: ObjectStore, manifest: Manifest) -> bytes | None:
    """The graph that was served; None when it is missing, changed, or keeps its weights in another file."""
    served = manifest.task.served
    model, entry = store.read(served), manifest.files.get(served)
    alone = f"{served}.data" not in manifest.files
    if model is None or entry is None or hashlib.sha256(model).hexdigest() != entry.sha256 or not alone:
        say("predecessor-graph-unusable", version=manifest.version)
        return None
    return model
