"""What an engine is: one way to turn prepared arrays into scores and into a graph. Everything around it is shared."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.preprocessing.scaling import UNITS

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import numpy.typing as npt

    from espalier_api.preprocessing import Tokens
    from espalier_trainer.export.graph import Graph
    from espalier_trainer.protocol import Reference, Regularizer
    from espalier_trainer.session import Session


@dataclass(frozen=True, slots=True)
class Part:
    """One split, as networks see it: `x` (rows, features) float32, `y` (rows,) int64 class index or float64 standardized value."""

    x: npt.NDArray[np.float32]
    y: npt.NDArray[Any]
    weight: npt.NDArray[np.float64] | None = None
    groups: Mapping[str, npt.NDArray[np.int64]] = field(
        default_factory=dict
    )  # column: (rows,) code of each row's group
    raw: npt.NDArray[np.float32] | None = None  # (rows, columns) as they are served; kept where they are scaled anew

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True, slots=True)
class FitData:
    """What an engine may see: never the test split."""

    train: Part
    validation: Part | None
    classes: int  # 0 for regression
    features: tuple[str, ...]
    splits: frozenset[str]  # names of all splits that have rows
    target_scale: float = 1.0  # the target's standard deviation in its own unit; 1 for classification
    location: npt.NDArray[np.float32] | None = None  # (features,): raw x = x * scale + location
    scale: npt.NDArray[np.float32] | None = None
    unit: str = UNITS["standard"]  # what 1 is in `x`, in words
    tokens: Tokens | None = None  # declared, where `x` holds ids of tokens
    extra: Mapping[str, Part] = field(default_factory=dict)  # other datasets, by the block that declared them (safety)
    held_out: Mapping[str, Part] = field(default_factory=dict)  # rows of those that no fit sees, for the evaluation
    references: Mapping[str, Reference] = field(default_factory=dict)  # other models, by the name that blocks use
    start: Mapping[str, npt.NDArray[Any]] = field(
        default_factory=dict
    )  # weights to begin at, by name; engines of networks only

    @property
    def outputs(self) -> int:
        """Width of the scores."""
        return self.classes or 1


@dataclass(slots=True)
class Contribution:
    """What one block did: means over the fit, None where the notion does not exist for it (dropout has no value)."""

    coefficient: float
    value: float | None = None
    weighted: float | None = None
    share: float | None = None
    gradient_ratio: float | None = None
    cosine: float | None = None


@dataclass(slots=True)
class FitReport:
    """The story of one fit, for metrics.json, regularizers.json and the diagnosis."""

    epochs: int = 0
    steps: int = 0
    history: list[dict[str, float]] = field(default_factory=list)  # per epoch: train, validation, metric
    contributions: dict[str, Contribution] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)  # stoppedAt, bestEpoch, …
    gradient_norms: list[float] = field(default_factory=list)


class Fitted(Protocol):
    """A trained model, before calibration."""

    report: FitReport

    def scores(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Standardized features (rows, features) to logits (rows, classes) or standardized values (rows, 1)."""
        ...

    def graph(self, graph: Graph, standardized: str) -> str:
        """Append the nodes that compute the same scores; return the name of their output."""
        ...

    def weights(self) -> Mapping[str, npt.NDArray[Any]]:
        """Named weights for model.safetensors; empty when the engine's model is not made of tensors."""
        ...

    def files(self) -> Mapping[str, bytes]:
        """More files of the artifact, from blocks that act in PACKAGE."""
        ...


class Engine(Protocol):
    """One way to train."""

    framework: str  # name and version, for the manifest
    resumable: bool  # True when fits save and restore their state

    @property
    def world(self) -> str:
        """The software and hardware for which the same seed gives the same bits."""
        ...

    def plan(self, data: FitData) -> None:
        """Refuse with exit 42 what this engine cannot honour, before anything is spent."""
        ...

    def fit(self, data: FitData, seed: int, session: Session) -> Fitted:
        """Train once."""
        ...

    def resolved(self) -> dict[str, Any]:
        """Blocks with every default filled in and, for classical engines, the parameters they became."""
        ...

    def post_blocks(self) -> list[Regularizer[Any]]:
        """The blocks that act on final scores."""
        ...


def load(name: str, config: Any, regularizers: Mapping[str, Any]) -> Engine:  # noqa: ANN401 - each engine knows its own model
    """The engine of `spec.engine.<name>`; its folder is imported now, because torch and scikit-learn cost seconds."""
    module = f"{__package__}.{name}.engine"
    try:
        build = import_module(module).build
    except ModuleNotFoundError as error:
        if error.name not in {module, f"{__package__}.{name}"}:
            raise
        raise InvalidConfigError(
            f"engine.{name}: this trainer has no such engine; use torch or sklearn, or an image that has it"
        ) from None
    return cast("Engine", build(config, regularizers))
