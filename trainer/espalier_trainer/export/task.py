"""What a version answers and what it may be asked, for the manifest: classes, columns, and what its input means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from espalier_api import artifact
from espalier_api.artifact import CategoryColumn, ManifestTask, Tensor, TokenShape, WindowShape

if TYPE_CHECKING:
    from espalier_api.training import TrainingJob
    from espalier_trainer.data.dataset import Dataset


def task_of(job: TrainingJob, data: Dataset) -> ManifestTask:
    """What the version answers, inferred classes made explicit."""
    inputs = [(artifact.ONNX_INPUT, "FP32", len(data.features) - len(data.vocabulary))]
    inputs += [(artifact.CATEGORIES, "BYTES", len(data.vocabulary))]
    outputs = (
        (Tensor(name=artifact.ONNX_LABEL, datatype="INT64", shape=(-1,)),
         Tensor(name=artifact.ONNX_PROBABILITIES, datatype="FP32", shape=(-1, len(data.classes))))
        if data.classes
        else (Tensor(name=artifact.ONNX_VALUE, datatype="FP32", shape=(-1, 1)),)
    )  # fmt: skip
    return ManifestTask(
        type=job.task.type,
        classes=data.classes,
        positive_class=job.task.positive_class,
        features=data.features,
        nullable=nullable(job),
        windows=_windows(job, data),
        tokens=_tokens(job),
        categories=tuple(
            CategoryColumn(name=name, values=values, unknown=unknown(job)) for name, values in data.vocabulary.items()
        ),
        inputs=tuple(Tensor(name=name, datatype=kind, shape=(-1, width)) for name, kind, width in inputs if width),
        outputs=outputs,
    )


def _windows(job: TrainingJob, data: Dataset) -> WindowShape | None:
    """How a window becomes a row of the input."""
    before = job.data.preprocessing
    if before is None or before.windows is None:
        return None
    length = before.windows.length
    columns = tuple(name.removesuffix("@t") for name in data.features[length - 1 :: length])
    return WindowShape(columns=columns, length=length, horizon=before.windows.horizon)


def _tokens(job: TrainingJob) -> TokenShape | None:
    """Which ids a row of the input holds."""
    before = job.data.preprocessing
    if before is None or before.tokens is None:
        return None
    return TokenShape(vocabulary=before.tokens.vocabulary, padding=before.tokens.padding)


def nullable(job: TrainingJob) -> bool:
    """Whether features may be missing."""
    return job.data.preprocessing is not None and job.data.preprocessing.imputation is not None


def unknown(job: TrainingJob) -> Literal["ignore", "error"]:
    """What becomes of names that training rows do not have."""
    before = job.data.preprocessing
    return "ignore" if before is None or before.categories is None else before.categories.unknown
