"""What happens to features before a model sees them. All of it is fitted on training rows only, and is part of the served graph."""

from __future__ import annotations

from typing import Literal

from espalier_api.base import ApiModel, Cel

Scaling = Literal["standard", "minMax", "robust", "none"]


class Imputation(ApiModel):
    """What stands in for missing numbers. Without it a missing value in a feature ends training, and null ends a request."""

    strategy: Literal["mean", "median", "mostFrequent", "constant"] = "median"
    """Of the feature's training rows; the least one where several are most frequent."""
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


class Preprocessing(ApiModel):
    """Steps between the columns and the model, in the order of the fields. Absent means scaling standard and nothing else."""

    imputation: Imputation | None = None
    """Allow missing values, and say what stands in for them; absent means that every feature is always there."""
    scaling: Scaling = "standard"
    """What a number is divided by, and with it the unit of noise and epsilons: the deviation (after subtracting the mean), the range
    (minMax: to 0..1), the width of the middle half (robust, after subtracting the median), or nothing. Constant features are silenced.
    """
