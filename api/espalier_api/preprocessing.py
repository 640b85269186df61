"""What happens to features before a model sees them. All of it is fitted on training rows only, and is part of the served graph."""

from __future__ import annotations

from typing import Literal

from espalier_api.base import ApiModel

Scaling = Literal["standard", "minMax", "robust", "none"]


class Preprocessing(ApiModel):
    """Steps between the columns and the model, in the order of the fields. Absent means scaling standard and nothing else."""

    scaling: Scaling = "standard"
    """What a number is divided by, and with it the unit of noise and epsilons: the deviation (after subtracting the mean), the range
    (minMax: to 0..1), the width of the middle half (robust, after subtracting the median), or nothing. Constant features are silenced.
    """
