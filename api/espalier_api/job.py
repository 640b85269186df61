"""job.json of a version: what the operator tells its Jobs, and `espalier train` a trainer on the same machine."""

from __future__ import annotations

from collections.abc import Iterable

from espalier_api import names
from espalier_api.evaluation import BUDGETED, Gate
from espalier_api.kubernetes import ObjectMeta
from espalier_api.model import ReferenceStatus, RegularizedModelSpec, VersionStatus
from espalier_api.model_spec import Tracking
from espalier_api.training import (
    JobArtifact,
    JobCheckpoint,
    JobModel,
    JobReference,
    JobSigning,
    JobTracking,
    TrainingJob,
)


def training_job(
    meta: ObjectMeta,
    spec: RegularizedModelSpec,
    version: VersionStatus,
    attempt: int,
    image: str,
    references: tuple[ReferenceStatus, ...] = (),
) -> TrainingJob:
    """What the trainer is told: the whole contract in one document."""
    snapshot = spec.data.snapshot.model_copy(update={"digest": version.snapshot_digest})
    root, place = spec.artifacts.uri, (meta.namespace, meta.name)
    parent = version.parent
    gates = spec.evaluation.gates
    return TrainingJob(
        model=JobModel(namespace=meta.namespace, name=meta.name, uid=meta.uid, generation=meta.generation),
        version=version.version,
        attempt=attempt,
        spec_hash=version.spec_hash or "",
        parent=parent,
        parent_artifact=JobArtifact(uri=names.artifact_prefix(root, *place, parent)) if parent else None,
        references={
            each.name: JobReference(model=each.model, version=each.version, uri=each.uri, digest=each.digest)
            for each in references
        },
        requested_by=version.requested_by,
        task=spec.task,
        data=spec.data.model_copy(update={"snapshot": snapshot}),
        engine=spec.engine,
        regularizers=spec.regularizers,
        search=spec.search,
        seeds=spec.evaluation.seeds,
        seed=spec.data.split.seed,
        artifact=JobArtifact(uri=names.artifact_prefix(root, *place, version.version)),
        checkpoint=JobCheckpoint(
            uri=names.checkpoint_prefix(root, *place, version.version), interval=spec.training.checkpoint.interval
        ),
        image=image,
        signing=JobSigning(secret=spec.artifacts.signing.key_secret_ref.name) if spec.artifacts.signing else None,
        tracking=_tracking(spec, names.tracking_prefix(root, *place, version.version)),
        latency_gate=any(gate.metric == "latencyP95Seconds" for gate in gates),
        group_metrics=tuple(sorted({gate.group for gate in gates if gate.group is not None})),
        robustness=spec.evaluation.robustness,
        budgets=_budgets(gates),
        nodes=spec.training.nodes,
        processes_per_node=spec.training.processes_per_node,
        rendezvous=_rendezvous(meta, spec, version, attempt),
    )


def _rendezvous(meta: ObjectMeta, spec: RegularizedModelSpec, version: VersionStatus, attempt: int) -> str:
    """Where the pods of this attempt meet, when there are several that train one model."""
    if spec.training.nodes == 1:
        return ""
    return names.rendezvous(names.job_name(meta.name, version.version, attempt), meta.namespace)


def _tracking(spec: RegularizedModelSpec, uri: str) -> JobTracking | None:
    """None when the spec names no tracker."""
    asked = spec.training.tracking
    return JobTracking(uri=uri, **dict(asked)) if asked is not None and asked != Tracking() else None


def _budgets(gates: Iterable[Gate]) -> dict[str, float]:
    """The tightest `max` of each resource that gates bound."""
    bounds: dict[str, float] = {}
    for gate in gates:
        if gate.metric in BUDGETED and gate.max is not None:
            bounds[gate.metric] = min(gate.max, bounds.get(gate.metric, gate.max))
    return bounds
