"""Makes a version final: files first, manifest last and only if there is none. The manifest's presence is what `complete` means."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from pydantic import ValidationError

from espalier_api import artifact
from espalier_api.artifact import FileEntry, Manifest
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.export.task import task_of
from espalier_trainer.log import say
from espalier_trainer.storage import AlreadyExistsError

if TYPE_CHECKING:
    from espalier_api.training import TrainingJob
    from espalier_trainer.data.dataset import Dataset
    from espalier_trainer.engines import Engine
    from espalier_trainer.export.package import Package, Provenance
    from espalier_trainer.export.sign import Signer
    from espalier_trainer.storage import ObjectStore


def published(store: ObjectStore, job: TrainingJob) -> tuple[Manifest, str] | None:
    """The version that is there already, and its digest: a crash after publishing ends in success. Another job's version is refused."""
    data = store.read(artifact.MANIFEST)
    if data is None:
        return None
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError as error:
        raise InvalidConfigError(
            f"{job.artifact.uri}manifest.json: not a manifest of this release ({error.error_count()} errors)"
        ) from error
    if (manifest.spec_hash, manifest.version) != (job.spec_hash, job.version):
        raise InvalidConfigError(
            f"{job.artifact.uri} already holds {manifest.version} of spec {manifest.spec_hash}, this job is {job.version} of "
            f"{job.spec_hash}; published versions are never overwritten. Use the next version number"
        )
    return manifest, artifact.version_digest(data)


def publish(
    store: ObjectStore,
    engine: Engine,
    package: Package,
    provenance: Provenance,
    data: Dataset,
    signer: Signer | None = None,
) -> tuple[Manifest, str]:
    """Write everything; returns the manifest that won and the version's digest. Leftovers of a dead attempt are overwritten or removed.

    The signature covers the manifest and is therefore made before it is written: what is complete is signed.
    """
    job = provenance.job
    for entry in store.entries():
        if entry.key not in package.files and entry.key != artifact.MANIFEST:
            say("leftover-removed", key=entry.key)
            store.delete(entry.key)
    for name, content in package.files.items():
        store.write(name, content)
    manifest = Manifest(
        namespace=job.model.namespace,
        model=job.model.name,
        version=job.version,
        spec_hash=job.spec_hash,
        snapshot_digest=provenance.snapshot_digest,
        content_sha256=provenance.content_sha256,
        created_at=provenance.created_at,
        seed=job.seed,
        parent=job.parent,
        requested_by=job.requested_by,
        task=task_of(job, data).model_copy(update={"min_confidence": package.min_confidence, "served": package.served}),
        framework=engine.framework,
        files={
            n: FileEntry(sha256=hashlib.sha256(c).hexdigest(), size=len(c)) for n, c in sorted(package.files.items())
        },
        metrics=package.metrics,
        tracking=package.tracking,
        search=provenance.search,
    )
    content = (json.dumps(manifest.dump(), indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
    if signer is not None:
        store.write(artifact.SIGNATURE, signer.sign(manifest, content))
    try:
        store.write_new(artifact.MANIFEST, content)
    except AlreadyExistsError:
        won = published(store, job)
        assert won is not None  # noqa: S101 - it has just been there
        say("published-by-another-attempt", digest=won[1])
        return won
    return manifest, artifact.version_digest(content)
