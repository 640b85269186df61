"""Reads job.json and refuses what cannot be honoured, before anything is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ValidationError

from espalier_api.hashing import json_digest
from espalier_api.preprocessing import Preprocessing
from espalier_api.rules import Subject, errors, validate
from espalier_api.training import TrainingJob
from espalier_trainer.data.dataset import DataSpec
from espalier_trainer.errors import InvalidConfigError

if TYPE_CHECKING:
    from pathlib import Path


def read_job(path: Path, processes: int | None = None) -> TrainingJob:
    """Parse and check with the API's rules; InvalidConfigError lists every finding. `processes`: that train it, where they are counted."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidConfigError(
            f"{path}: cannot be read ({type(error).__name__}); the Job mounts its ConfigMap there"
        ) from error
    try:
        job = TrainingJob.model_validate_json(text)
    except ValidationError as error:
        told = [
            f"{'.'.join(map(str, e['loc'])) or 'job'}: {e['msg']}"
            for e in error.errors(include_url=False, include_input=False)
        ]
        raise InvalidConfigError(f"{path.name}: {'; '.join(told[:8])}") from error
    check(job, processes)
    return job


def check(job: TrainingJob, processes: int | None = None) -> None:
    """The API's rules once more, then what this release of the trainer does not do."""
    if found := errors(validate(Subject.of_job(job, processes))):
        raise InvalidConfigError("; ".join(map(str, found)))
    if job.robustness is not None and job.data.preprocessing is not None and job.data.preprocessing.tokens is not None:
        raise InvalidConfigError(
            "evaluation.robustness: ids of tokens have no ball around them that an attack could search; remove it"
        )


def data_spec(job: TrainingJob) -> DataSpec:
    """What the columns mean, from data, task and the blocks that own columns."""
    data, blocks = job.data, job.regularizers
    weighting, before = blocks.sample_weighting, data.preprocessing or Preprocessing()
    fairness = [blocks.fairness.column] if blocks.fairness else []
    owned = [b.column for b in (blocks.fairness,) if b is not None and b.column not in data.features.include]
    return DataSpec(
        target=data.target,
        regression=job.task.type == "regression",
        classes=job.task.classes,
        include=data.features.include,
        exclude=data.features.exclude,
        weight=data.weight_column,
        sample_weight=weighting.column if weighting else None,
        sample_clip=weighting.clip if weighting else (0.0, float("inf")),
        groups=tuple(dict.fromkeys((*data.group_columns, *job.group_metrics, *fairness))),
        time=data.time_column,
        excluded=tuple(owned),
        nullable=before.imputation is not None,
        categories=before.categories.columns if before.categories else (),
        tokens=None if before.tokens is None else (before.tokens.vocabulary, before.tokens.length),
    )


def config_digest(job: TrainingJob) -> str:
    """What a checkpoint belongs to: everything that decides the fit, nothing that differs between attempts."""
    dumped = job.dump()
    kept = ("version", "specHash", "task", "data", "engine", "regularizers", "references", "seeds", "seed")
    searched = {} if job.search is None else {"search": job.search.deciding()}
    return json_digest({**{key: dumped.get(key) for key in kept}, **searched})
