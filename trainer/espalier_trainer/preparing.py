"""From a snapshot in the store to rows that are ready to be fitted: read, made into examples, split, preprocessed, beside other models."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espalier_trainer.data import dataset, load, safety, splits, windows
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.evaluation.question import question_of
from espalier_trainer.jobfile import data_spec
from espalier_trainer.log import say
from espalier_trainer.prepared import Prepared, fit_data
from espalier_trainer.preprocessing import Preprocessor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from espalier_api.training import TrainingJob
    from espalier_trainer.data.dataset import Dataset
    from espalier_trainer.data.tables import Table
    from espalier_trainer.run import World


def prepare(job: TrainingJob, world: World) -> Prepared:
    """Fetch, check, split and preprocess."""
    snapshot = job.data.snapshot
    source = world.open_store(snapshot.uri, "data.snapshot.uri")
    with tempfile.TemporaryDirectory(prefix="espalier-data-") as folder:
        table, digest, content = load.fetch(source, snapshot.uri, snapshot.digest, Path(folder))
    table = replace(table, private=job.regularizers.privacy is not None)
    world.preemption.check("splitting the data")
    data = _examples(job, table)
    rows = windows.purge(data, splits.split(data, job.data.split))
    splits.refuse_unseen_classes(data, rows["train"])
    purged = len(data) - sum(map(len, rows.values()))
    parts = {name: data.take(index) for name, index in rows.items()}
    others, found = _references(job, world)
    preprocessor = (
        others.preprocess(job, found, parts["train"])
        if found
        else Preprocessor.fit(parts["train"], job.data.preprocessing)
    )
    parts = {name: preprocessor.coded(part, f"the {name} part") for name, part in parts.items()}
    positive = job.task.positive_class
    if positive is not None and positive not in data.classes:
        raise InvalidConfigError(
            f"task.positiveClass: {positive!r} is not among the classes in the data ({', '.join(data.classes[:20])})"
        )

    fit = fit_data(parts, preprocessor, others.ready(found, parts, preprocessor) if found else {})
    fit = safety.join(fit, job, world.open_store, data, preprocessor)
    say(
        "data",
        rows={n: len(p) for n, p in parts.items()},
        **({"purged": purged} if data.span is not None else {}),
        features=len(data.features),
        classes=len(data.classes),
        digest=digest,
    )
    index = None if positive is None else data.classes.index(positive)
    question = question_of(job, world.open_store, index, fit)
    return Prepared(parts, preprocessor, fit, question, digest, content, purged)


def _examples(job: TrainingJob, table: Table) -> Dataset:
    """Rows, or windows of rows where these are declared."""
    data, before = dataset.build(table, data_spec(job)), job.data.preprocessing
    return data if before is None or before.windows is None else windows.build(data, before.windows)


def _references(job: TrainingJob, world: World) -> tuple[Any, Mapping[str, Any]]:
    """The module that knows other models, and those that blocks name; nothing is imported when there is none."""
    if not job.regularizers.references():
        return None, {}
    module = import_module("espalier_trainer.references")
    return module, module.fetch(job, world.open_store)
