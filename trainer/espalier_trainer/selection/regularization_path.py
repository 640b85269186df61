"""regularizationPath: fits along one strength, from strong to weak, and ships one of them (Friedman, Hastie and Tibshirani 2010).

Each fit of a network starts at the weights of the one before (warmStart); other engines are fitted anew, which changes nothing for
convex problems. The rule looks at the plain loss of the validation rows: `best` takes the smallest mean; `oneStandardError` the strongest
value whose mean is within one standard error of it (Breiman et al. 1984), the error being that of the best point's mean over rows.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from pydantic import ValidationError

from espalier_api.regularizers import Regularizers
from espalier_trainer import rng
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.evaluation import metrics
from espalier_trainer.selection import sessions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from espalier_api.regularizers import Block
    from espalier_api.regularizers.selection import RegularizationPath
    from espalier_trainer.engines import Engine, FitData, FitReport, Fitted
    from espalier_trainer.export.graph import Graph
    from espalier_trainer.protocol import Regularizer
    from espalier_trainer.selection.build import Load
    from espalier_trainer.session import Session

FILE: Final = "path.json"
KEPT: Final = 2000
"""Weights of a fit that path.json still holds one by one."""


def build(config: RegularizationPath, blocks: Mapping[str, Block], load: Load) -> PathEngine:
    """Around the engine that `load` makes of the blocks with each strength."""
    return PathEngine(config, blocks, load)


def strengths(config: RegularizationPath) -> list[float]:
    """From strong to weak, evenly on a logarithmic scale, both ends exact."""
    inner = np.geomspace(config.to, config.from_, config.points)[1:-1]
    return [config.to, *map(float, inner), config.from_]


def with_strength(blocks: Mapping[str, Block], parameter: str, value: float) -> dict[str, Block]:
    """The blocks with this value; a block that is not declared is created."""
    name, *fields = parameter.split(".")
    document: dict[str, Any] = blocks[name].dump() if name in blocks else {}
    inside = document
    for field in fields[:-1]:
        inside = inside.setdefault(field, {})
    inside[fields[-1]] = value
    try:
        (parsed,) = Regularizers.model_validate({name: document}).declared()
    except ValidationError as error:
        told = error.errors(include_url=False)[0]
        raise InvalidConfigError(
            f"regularizers.regularizationPath: {parameter} = {value:.3g}: {'.'.join(map(str, told['loc']))}: {told['msg']}; name a block "
            "and its field, and values in its range"
        ) from error
    return {**blocks, name: parsed[1]}


@dataclass(frozen=True, slots=True)
class Point:
    """One fit of the path."""

    strength: float
    fitted: Fitted
    loss: float  # mean over validation rows
    error: float  # standard error of that mean

    def told(self) -> dict[str, Any]:
        """For path.json: losses, how many weights are left, and the weights themselves when they are few."""
        matrices = {n: w for n, w in self.fitted.weights().items() if w.ndim > 1 and w.dtype.kind == "f"}
        total, left = sum(w.size for w in matrices.values()), sum(int((w != 0).sum()) for w in matrices.values())
        told: dict[str, Any] = {
            "strength": self.strength,
            "validationLoss": self.loss,
            "standardError": self.error,
            "epochs": self.fitted.report.epochs,
            "weights": total,
            "nonzero": left,
        }
        return told | ({"values": {n: w.tolist() for n, w in matrices.items()}} if 0 < total <= KEPT else {})


def choose(points: Sequence[Point], rule: str) -> tuple[int, int]:
    """(the best point, the one that the rule takes); `points` go from strong to weak."""
    best = min(range(len(points)), key=lambda i: (points[i].loss, i))
    if rule == "best":
        return best, best
    bound = points[best].loss + points[best].error
    return best, next(i for i, point in enumerate(points) if point.loss <= bound)


class PathEngine:
    """One engine per strength."""

    def __init__(self, config: RegularizationPath, blocks: Mapping[str, Block], load: Load) -> None:
        self.config, self._blocks, self._load = config, blocks, load
        self._values = strengths(config)
        self._engine = self._at(self._values[-1])
        self.framework, self.resumable = self._engine.framework, self._engine.resumable

    def _at(self, value: float) -> Engine:
        return self._load(with_strength(self._blocks, self.config.parameter, value))

    @property
    def world(self) -> str:
        """The fits'."""
        return self._engine.world

    def plan(self, data: FitData) -> None:
        """Both ends of the path can be fitted, and there are rows to choose by."""
        if data.validation is None:
            raise InvalidConfigError(
                "regularizers.regularizationPath: it chooses on the validation part; raise data.split.validation"
            )
        self._at(self._values[0]).plan(data)
        self._engine.plan(data)

    def fit(self, data: FitData, seed: int, session: Session) -> FittedPath:
        """All points. On resume those that had ended are fitted again, to the same bits."""
        points: list[Point] = []
        assert data.validation is not None  # noqa: S101 - plan has looked
        for index, value in enumerate(self._values):
            engine = self._at(value)
            engine.plan(data)
            start = dict(points[-1].fitted.weights()) if points and self.config.warm_start else {}
            part = sessions.Part(session, index, len(self._values))
            fitted = engine.fit(replace(data, start=start), rng.derive(seed, "point"), part)
            losses = metrics.row_losses(fitted.scores(data.validation.x), data.validation.y)
            error = float(losses.std(ddof=1) / np.sqrt(len(losses))) if len(losses) > 1 else 0.0
            points.append(Point(value, fitted, float(losses.mean()), error))
        best, chosen = choose(points, self.config.rule)
        self._engine = self._at(points[chosen].strength)
        self._engine.plan(data)
        return FittedPath(points[chosen].fitted, self._file(points, best, chosen))

    def _file(self, points: Sequence[Point], best: int, chosen: int) -> bytes:
        told = {
            "parameter": self.config.parameter,
            "rule": self.config.rule,
            "warmStart": self.config.warm_start and self.framework.startswith("torch"),
            "points": [point.told() for point in points],
            "best": best,
            "chosen": chosen,
        }
        return (json.dumps(told, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()

    def resolved(self) -> dict[str, Any]:
        """With the strength that was chosen."""
        return {**self._engine.resolved(), "regularizationPath": self.config.dump()}

    def post_blocks(self) -> list[Regularizer[Any]]:
        """Of the chosen fit's blocks."""
        return self._engine.post_blocks()


class FittedPath:
    """The chosen fit, with the story of the path."""

    def __init__(self, chosen: Fitted, file: bytes) -> None:
        self.chosen, self._file = chosen, file
        self.report: FitReport = chosen.report

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - optional capabilities (input gradients, own blocks) are the chosen fit's
        return getattr(self.chosen, name)

    def scores(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """The chosen fit's."""
        return self.chosen.scores(x)

    def graph(self, graph: Graph, standardized: str) -> str:
        """The chosen fit's."""
        return self.chosen.graph(graph, standardized)

    def weights(self) -> Mapping[str, npt.NDArray[Any]]:
        """The chosen fit's."""
        return self.chosen.weights()

    def files(self) -> Mapping[str, bytes]:
        """And path.json."""
        return {**self.chosen.files(), FILE: self._file}
