"""What is learned from what: the task, the snapshot and its split."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from espalier_api.base import ApiModel, Cel
from espalier_api.hashing import DIGEST_PATTERN
from espalier_api.preprocessing import ColumnGlob, Preprocessing
from espalier_api.regularizers.block import Column

ClassName = Annotated[str, StringConstraints(min_length=1, max_length=128)]
S3Uri = Annotated[str, StringConstraints(pattern=r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?$", max_length=1024)]
"""`s3://<bucket>/<prefix>`."""
Digest = Annotated[str, StringConstraints(pattern=DIGEST_PATTERN, max_length=71)]
"""`sha256:` and 64 hexadecimal digits."""


class Task(ApiModel):
    """What the model answers."""

    type: Literal["classification", "regression"]
    """A class or a number."""
    classes: tuple[ClassName, ...] = Field(default=(), max_length=1000)
    """Class names in the order of the outputs; inferred from the data (sorted) and recorded when empty."""
    positive_class: ClassName | None = None
    """The class that rates are about, in binary tasks."""

    cel = (
        Cel(
            rule="self.type == 'classification' || (!has(self.positiveClass) && (!has(self.classes) || self.classes.size() == 0))",
            message="task: classes and positiveClass belong to type classification; remove them or change the type",
            holds=lambda task: task.type == "classification" or not (task.classes or task.positive_class),
        ),
        Cel(
            rule="!has(self.positiveClass) || !has(self.classes) || self.classes.size() == 0 || self.positiveClass in self.classes",
            message="task: positiveClass must be one of classes",
            holds=lambda task: not task.positive_class or not task.classes or task.positive_class in task.classes,
        ),
        Cel(
            rule="!has(self.classes) || self.classes.size() != 1",
            message="task: one class leaves nothing to decide; name at least two classes, or none to infer them from the data",
            holds=lambda task: len(task.classes) != 1,
        ),
    )


class Snapshot(ApiModel):
    """An immutable set of files below a prefix: parquet, csv or npz."""

    uri: S3Uri
    """Prefix that holds nothing but the snapshot."""
    digest: Digest | None = None
    """Pins the data: sha256 over the sorted listing (key, size, ETag). Absent means: resolve once per version and record it."""


class Features(ApiModel):
    """Which columns are inputs. Target, weight, group and time columns never are."""

    include: tuple[ColumnGlob, ...] = Field(default=("*",), min_length=1, max_length=1000)
    """Patterns of columns to use."""
    exclude: tuple[ColumnGlob, ...] = Field(default=(), max_length=1000)
    """Patterns of columns to leave out."""


class Split(ApiModel):
    """How rows are dealt to parts. What validation, calibration and test leave over is for training."""

    strategy: Literal["stratified", "random", "time", "group"] = "stratified"
    """Equal class shares, at random, by time (test is newest), or whole groups at once. Stratified is random for regression."""
    validation: float = Field(default=0.2, gt=0, lt=1)
    """Share for early stopping, search and the validation gap."""
    calibration: float = Field(default=0.0, ge=0, lt=1)
    """Share that only the calibration sees; 0 means none is held back."""
    test: float = Field(default=0.2, gt=0, lt=1)
    """Share that gates are judged on; nothing is fitted to it."""
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    """Decides the split and everything random in training."""

    cel = (
        Cel(
            rule="(has(self.validation) ? self.validation : 0.2) + (has(self.calibration) ? self.calibration : 0.0)"
            " + (has(self.test) ? self.test : 0.2) < 1.0",
            message="split: validation + calibration + test must leave rows for training; their sum must be below 1",
            holds=lambda split: split.validation + split.calibration + split.test < 1.0,
        ),
    )


class Data(ApiModel):
    """Rows, target and split."""

    snapshot: Snapshot
    """The files."""
    target: Column
    """Column to predict."""
    features: Features = Features()
    """Columns to predict from."""
    preprocessing: Preprocessing | None = None
    """Steps between the columns and the model; absent means that numbers are standardized."""
    weight_column: Column | None = None
    """Column with the weight of each row in metrics."""
    group_columns: tuple[Column, ...] = Field(default=(), max_length=8)
    """Columns for metrics by group, and for group splits (the first one)."""
    time_column: Column | None = None
    """Column with the time of each row, for time splits."""
    split: Split = Split()
    """How rows are dealt to parts."""
    label_column_noise_audit: bool = False
    """Estimate the share of wrong labels among training and validation rows, by five more fits, and report it in label_noise.json."""

    cel = (
        Cel(
            rule="!has(self.split) || !has(self.split.strategy) || self.split.strategy != 'time' || has(self.timeColumn)",
            message="data: split.strategy time needs timeColumn",
            holds=lambda data: data.split.strategy != "time" or data.time_column is not None,
        ),
        Cel(
            rule="!has(self.split) || !has(self.split.strategy) || self.split.strategy != 'group'"
            " || (has(self.groupColumns) && self.groupColumns.size() > 0)",
            message="data: split.strategy group needs groupColumns; the first one is kept together",
            holds=lambda data: data.split.strategy != "group" or bool(data.group_columns),
        ),
        Cel(
            rule="!has(self.preprocessing) || !has(self.preprocessing.windows) || has(self.timeColumn)",
            message="data: preprocessing.windows needs timeColumn, the order of the rows",
            holds=lambda data: (
                data.preprocessing is None or data.preprocessing.windows is None or data.time_column is not None
            ),
        ),
        Cel(
            rule="(!has(self.weightColumn) || self.weightColumn != self.target)"
            " && (!has(self.timeColumn) || self.timeColumn != self.target)",
            message="data: target cannot be the weight or time column as well",
            holds=lambda data: data.target not in (data.weight_column, data.time_column),
        ),
    )
