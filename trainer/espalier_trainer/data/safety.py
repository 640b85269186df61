"""The dataset of the block safety: fetched like the snapshot, in its schema, scaled like the training rows, a quarter held out."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from espalier_trainer import rng
from espalier_trainer.data import dataset, load, windows
from espalier_trainer.engines import FitData, Part
from espalier_trainer.errors import DataProblemError
from espalier_trainer.jobfile import data_spec
from espalier_trainer.log import say

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from espalier_api.training import TrainingJob
    from espalier_trainer.data.dataset import Dataset
    from espalier_trainer.preprocessing import Preprocessor
    from espalier_trainer.storage import ObjectStore

HELD_OUT: Final = 0.25
FEWEST_ROWS: Final = 8
FIELD: Final = "regularizers.safety.dataset"


def join(
    fit: FitData,
    job: TrainingJob,
    open_store: Callable[[str, str], ObjectStore],
    train: Dataset,
    preprocessor: Preprocessor,
) -> FitData:
    """`fit` with the safety rows, when the block is declared. DataProblemError names what differs from the snapshot."""
    block = job.regularizers.safety
    if block is None:
        return fit
    with tempfile.TemporaryDirectory(prefix="espalier-safety-") as folder:
        try:
            table, digest, _ = load.fetch(open_store(block.dataset, FIELD), block.dataset, None, Path(folder))
            data = dataset.build(table, replace(data_spec(job), classes=train.classes))
            if job.data.preprocessing is not None and job.data.preprocessing.windows is not None:
                data = windows.build(data, job.data.preprocessing.windows)
            data = preprocessor.coded(data, "the safety dataset")
        except DataProblemError as error:
            raise DataProblemError(f"{FIELD}: {block.dataset}: {error}") from error
    if data.features != train.features:
        unlike = sorted(set(data.features) ^ set(train.features)) or list(data.features)
        raise DataProblemError(
            f"{FIELD}: its features are not the snapshot's ({', '.join(unlike[:8])}); write it in the same schema"
        )
    if len(data) < FEWEST_ROWS:
        raise DataProblemError(
            f"{FIELD}: {len(data)} rows; at least {FEWEST_ROWS} are due, of which a quarter is held out"
        )
    taught, held = _halves(len(data), rng.derive(job.data.split.seed, "safety"))
    if (
        data.span is not None
    ):  # neighbours share rows: the last ones are held out, and what reaches into them is left out
        held = np.arange(len(data) - len(held), len(data))
        taught = windows.disjoint(data.span, np.arange(len(taught)), held)
    if not len(taught):
        raise DataProblemError(f"{FIELD}: no window is left to learn from beside those that are held out; add rows")

    def part(rows: npt.NDArray[np.int64]) -> Part:
        return Part(preprocessor.apply(data.x[rows]), data.y[rows], raw=data.x[rows])

    say("safety", rows={"train": len(taught), "heldOut": len(held)}, digest=digest)
    return replace(fit, extra={**fit.extra, "safety": part(taught)}, held_out={**fit.held_out, "safety": part(held)})


def _halves(n: int, seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(rows to learn from, rows to judge by), disjoint and complete."""
    order, cut = rng.permutation(seed, n), round(n * HELD_OUT)
    return np.sort(order[cut:]), np.sort(order[:cut])
