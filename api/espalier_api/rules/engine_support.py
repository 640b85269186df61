"""What each engine honours in this release. R38 refuses the rest: a block is never ignored.

A trainer room that implements a block adds its name here in the same change; tests compare this table with the trainer's registry.
"""

from __future__ import annotations

from typing import Final

_EVERYWHERE = frozenset({"calibration"})
_LINEAR = frozenset({"l2", "l1", "elasticNet", "sampleWeighting", "classRebalancing"})

SUPPORT: Final[dict[str, frozenset[str]]] = {
    "torch": _EVERYWHERE
    | frozenset(
        {
            "l2",
            "weightDecay",
            "l1",
            "elasticNet",
            "gradientClipping",
            "normalization",
            "dropout",
            "noiseInjection",
            "batchMixing",
            "labelSmoothing",
            "robustLoss",
            "weightAveraging",
            "earlyStopping",
        }
    ),
    "sklearn": _EVERYWHERE | _LINEAR,
    "xgboost": frozenset(),
}
"""Engine -> names of blocks. XGBoost itself comes with a later release; until then every spec with it is refused by its own rule."""
