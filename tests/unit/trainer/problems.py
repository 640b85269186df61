"""Small problems with known answers, and the shortest way to solve them with our loop in double precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from espalier_api.regularizers import Regularizers
from espalier_trainer import peers
from espalier_trainer.engines.torch.loop import Fit, Settings, Tensors
from espalier_trainer.engines.torch.optimizers import OptimizerSpec
from espalier_trainer.engines.torch.tensors import steps_per_epoch
from espalier_trainer.protocol import PlanContext, Reference, Regularizer, lookup
from espalier_trainer.schedule import ConstantRate, LearningRate
from espalier_trainer.session import Alone, Session

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Problem:
    x: Floats
    y: npt.NDArray[Any]
    classes: int = 0


def regression(n: int = 120, sparse: bool = True, noise: float = 0.5, seed: int = 0) -> Problem:
    """Ten correlated features; six of them do not matter when sparse."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 10)) @ (np.eye(10) + 0.2 * rng.normal(size=(10, 10)))
    w = np.array([2.0, -1.5, 1.0, 0.7, 0, 0, 0, 0, 0, 0]) if sparse else rng.normal(size=10)
    return Problem(x, x @ w + 0.3 + noise * rng.normal(size=n))


def classification(n: int = 150, classes: int = 3, seed: int = 0) -> Problem:
    """Overlapping Gaussians."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    return Problem(1.2 * rng.normal(size=(classes, 5))[y] + rng.normal(size=(n, 5)), y, classes)


def blocks(declared: Mapping[str, Any]) -> list[Regularizer[Any]]:
    """Instances of the declared blocks, through the API's own models and the registry."""
    return [lookup(name)(config) for name, config in Regularizers.model_validate(declared).declared()]


def context(problem: Problem, **changes: Any) -> PlanContext:
    values: dict[str, Any] = {
        "regression": not problem.classes,
        "classes": problem.classes,
        "features": tuple(f"f{i}" for i in range(problem.x.shape[1])),
        "rows": len(problem.y),
        "epochs": 1,
        "steps_per_epoch": 1,
        "optimizer": "sgd",
        "target_scale": 1.0,
        "splits": frozenset({"train", "validation", "calibration", "test"}),
        "declared": frozenset(),
        "class_counts": tuple(np.bincount(problem.y, minlength=problem.classes).tolist()) if problem.classes else (),
    }
    return PlanContext(**{**values, **changes})


def tensors(x: npt.NDArray[Any], y: npt.NDArray[Any], weight: Floats | None = None) -> Tensors:
    kind = torch.int64 if y.dtype.kind == "i" else torch.float64
    return Tensors(
        torch.tensor(x, dtype=torch.float64),
        torch.tensor(y, dtype=kind),
        None if weight is None else torch.tensor(weight, dtype=torch.float64),
    )


def linear(problem: Problem) -> nn.Module:
    """A linear model at zero, called `head` like an MLP's last layer."""
    model = nn.Sequential()
    layer = nn.Linear(problem.x.shape[1], problem.classes or 1).double()
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    model.add_module("head", layer)
    return model


def solve(
    problem: Problem,
    declared: Mapping[str, Any],
    *,
    kind: str = "sgd",
    options: Mapping[str, Any] | None = None,
    rate: float | LearningRate = 0.1,
    steps: int = 3000,
    batch: int | None = None,
    model: nn.Module | None = None,
    weight: Floats | None = None,
    validation: Problem | None = None,
    session: Session | None = None,
    seed: int = 0,
    log_every: int = 50,
    references: Mapping[str, Reference] | None = None,
    groups: Mapping[str, npt.NDArray[Any]] | None = None,
    extra: Mapping[str, Problem] | None = None,
) -> Fit:
    """Run our loop; full batches unless told otherwise. The model is `fit.model`."""
    made = blocks(declared)
    known = {"declared": frozenset(declared), "groups": frozenset(groups or {}), "extra": frozenset(extra or {})}
    size = batch or len(problem.y)
    per_epoch = steps_per_epoch(len(problem.y), size)
    for block in made:
        block.plan(
            context(
                problem,
                references=references or {},
                epochs=steps // per_epoch,
                steps_per_epoch=per_epoch,
                batch_size=size,
                **known,
            )
        )
    settings = Settings(
        optimizer=OptimizerSpec(kind, dict(options or {})),
        rate=ConstantRate(rate) if isinstance(rate, float) else rate,
        epochs=steps // per_epoch,
        batch_size=size,
        seed=seed,
        regression=not problem.classes,
        log_every=log_every,
    )
    held = None if validation is None else tensors(validation.x, validation.y)
    train = tensors(problem.x, problem.y, weight)
    train.groups = {name: torch.tensor(codes) for name, codes in (groups or {}).items()}
    others = {name: tensors(other.x, other.y) for name, other in (extra or {}).items()}
    fit = Fit(model or linear(problem), made, train, held, settings, others, peers.current())
    fit.run(session or Alone())
    return fit


def weights(fit: Fit) -> Floats:
    """The head's weight (outputs, features)."""
    return fit.parameters["head.weight"].detach().numpy().copy()
