"""What happens to features before a model sees them. All of it is fitted on training rows only, and is part of the served graph."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from espalier_api.base import ApiModel, Cel

ColumnGlob = Annotated[str, StringConstraints(min_length=1, max_length=253)]
Scaling = Literal["standard", "minMax", "robust", "none"]


class Imputation(ApiModel):
    """What stands in for missing numbers. Without it a missing value in a feature ends training, and null ends a request."""

    strategy: Literal["mean", "median", "mostFrequent", "constant"] = "median"
    """Of the feature's training rows; the least one where several are most frequent. A missing category is taken as the most frequent
    one under mostFrequent, and else as none of its column.
    """
    value: float | None = None
    """The number, for strategy constant."""
    indicators: bool = False
    """Append 0/1 features `<name>:missing` for the features in which training rows lack values."""

    cel = (
        Cel(
            rule="has(self.value) == (has(self.strategy) && self.strategy == 'constant')",
            message="imputation: value belongs to strategy constant, which needs it",
            holds=lambda model: (model.value is not None) == (model.strategy == "constant"),
        ),
    )


class Categories(ApiModel):
    """Columns whose values are names, not numbers. Their vocabulary is that of the training rows."""

    columns: tuple[ColumnGlob, ...] = Field(min_length=1, max_length=1000)
    """Patterns among the features; text, integers and booleans are taken as names."""
    encoding: Literal["oneHot", "ordinal"] = "oneHot"
    """A 0/1 feature `<column>=<value>` for each value, or one number: the value's place in sorted order, -1 for an unknown one."""
    max_categories: int = Field(default=100, ge=2, le=1000)
    """A column with more values in the training rows is refused, not cut."""
    min_count: int = Field(default=1, ge=1, le=1_000_000)
    """Values in fewer training rows are unknown."""
    unknown: Literal["ignore", "error"] = "ignore"
    """What a value outside of the vocabulary is: no value of the column (all zeros), or a refusal, in the snapshot and in requests."""

    cel = (
        Cel(
            rule="!has(self.minCount) || self.minCount == 1 || !has(self.unknown) || self.unknown == 'ignore'",
            message="categories: minCount makes rare values unknown, and unknown error would refuse their rows; use one of the two",
            holds=lambda model: model.min_count == 1 or model.unknown == "ignore",
        ),
    )


class Windows(ApiModel):
    """Examples are the last rows of a series, in the order of data.timeColumn; the first of data.groupColumns tells series apart."""

    length: int = Field(ge=2, le=10_000)
    """Rows of a window: a column `a` becomes the features `a@t-2`, `a@t-1`, `a@t`; cnn and resnet see an image [columns, 1, length]."""
    stride: int = Field(default=1, ge=1, le=10_000)
    """Rows from the start of a window to that of the next one."""
    horizon: int = Field(default=0, ge=0, le=10_000)
    """How many rows after a window's last one the target stands; 0 is that row itself."""


class Tokens(ApiModel):
    """All features are ids of tokens, in the order of the text; an npz array `tokens` of two dimensions gives them. Never scaled."""

    vocabulary: int = Field(ge=2, le=1_000_000)
    """Ids are whole numbers from 0 to vocabulary - 1; others end training, and a request."""
    length: int = Field(ge=1, le=4096)
    """How many features there are: shorter texts end in padding."""
    padding: int = Field(default=0, ge=0)
    """The id that stands for no token: nothing looks at it."""

    cel = (
        Cel(
            rule="!has(self.padding) || self.padding < self.vocabulary",
            message="tokens: padding is one of the ids; it must be below vocabulary",
            holds=lambda model: model.padding < model.vocabulary,
        ),
    )


class Preprocessing(ApiModel):
    """Steps between the columns and the model, in the order of the fields. Absent means scaling standard and nothing else."""

    imputation: Imputation | None = None
    """Allow missing values, and say what stands in for them; absent means that every feature is always there."""
    categories: Categories | None = None
    """Columns whose values are names; absent means that every feature is a number."""
    windows: Windows | None = None
    """Make examples of several rows; absent means that each row is one."""
    tokens: Tokens | None = None
    """Take all features as ids of tokens, for architecture tokenTransformer."""

    cel = (
        Cel(
            rule="!has(self.windows) || !has(self.categories)",
            message="preprocessing: windows are made of numbers; drop categories or windows",
            holds=lambda model: model.windows is None or model.categories is None,
        ),
        Cel(
            rule="!has(self.tokens) || (!has(self.imputation) && !has(self.categories) && !has(self.windows)"
            " && (!has(self.scaling) || self.scaling in ['standard', 'none']))",
            message="preprocessing: ids of tokens are not imputed, encoded, windowed or scaled; declare tokens alone",
            holds=lambda model: (
                model.tokens is None
                or (
                    (model.imputation, model.categories, model.windows) == (None, None, None)
                    and model.scaling in {"standard", "none"}
                )
            ),
        ),
    )
    scaling: Scaling = "standard"
    """What a number is divided by, and with it the unit of noise and epsilons: the deviation (after subtracting the mean), the range
    (minMax: to 0..1), the width of the middle half (robust, after subtracting the median), or nothing. Constant features are silenced.
    """
