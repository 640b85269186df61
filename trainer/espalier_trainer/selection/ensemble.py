"""ensemble: several fits, served as one graph (Lakshminarayanan et al. 2017; bagging: Breiman 1996; stacking: Wolpert 1992).

seed and bagging average probabilities: scores are log((1/K) sum_k softmax(z_k)), so NLL(mean) <= mean NLL by Jensen's inequality;
values are averaged. stacking weighs: scores are sum_k w_k log softmax(z_k), w >= 0, with the least cross-entropy on validation rows (a
logistic regression on log-probabilities, the log-linear pool), or sum_k w_k v_k by non-negative least squares (Breiman 1996).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy import optimize

from espalier_trainer import rng
from espalier_trainer.engines import FitData, FitReport, Part
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.evaluation import metrics, variance
from espalier_trainer.evaluation.calibration import log_softmax, softmax
from espalier_trainer.selection import sessions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from espalier_api.regularizers import Block
    from espalier_api.regularizers.selection import Ensemble
    from espalier_trainer.engines import Fitted
    from espalier_trainer.export.graph import Graph
    from espalier_trainer.protocol import Regularizer
    from espalier_trainer.selection.build import Load
    from espalier_trainer.session import Session

    Floats = npt.NDArray[np.float64]

FILE: Final = "ensemble.json"
LEAST: Final = 1e-30
"""Probability whose logarithm float32 keeps."""
REFUSED: Final = {
    "mcDropout": "the spread of the members is what it would sample",
    "quantization": "its variants are made of one network",
    "ewc": "a later task can hold on to one fit's weights only",
}
DRAWS: Final = 100


def build(config: Ensemble, blocks: Mapping[str, Block], load: Load) -> EnsembleEngine:
    """Around the engine that `load` makes of the other blocks."""
    return EnsembleEngine(config, blocks, load)


class EnsembleEngine:
    """Fits the same engine `members` times."""

    def __init__(self, config: Ensemble, blocks: Mapping[str, Block], load: Load) -> None:
        self.config, self._blocks, self._engine = config, blocks, load(blocks)
        self.framework, self.resumable = self._engine.framework, self._engine.resumable

    @property
    def world(self) -> str:
        """The members'."""
        return self._engine.world

    def plan(self, data: FitData) -> None:
        """What the members refuse, and what has no meaning for several."""
        for block in REFUSED:
            if block in self._blocks:
                raise InvalidConfigError(
                    f"regularizers.ensemble: it cannot be combined with {block}: {REFUSED[block]}; remove one"
                )
        if self.config.diversity == "stacking" and data.validation is None:
            raise InvalidConfigError(
                "regularizers.ensemble.diversity: stacking weighs members on the validation part; raise data.split.validation or use seed"
            )
        self._engine.plan(data)

    def fit(self, data: FitData, seed: int, session: Session) -> FittedEnsemble:
        """One member after another. On resume those that had ended are fitted again, to the same bits."""
        members, count = [], self.config.members
        for index in range(count):
            own = rng.derive(seed, "member", index)
            rows = bootstrap(data, own) if self.config.diversity == "bagging" else data
            members.append(self._engine.fit(rows, own, sessions.Part(session, index, count)))
        weights = self._weights(members, data)
        return FittedEnsemble(members, weights, data.classes, _report(members, weights))

    def _weights(self, members: Sequence[Fitted], data: FitData) -> Floats | None:
        if self.config.diversity != "stacking":
            return None
        assert data.validation is not None  # noqa: S101 - plan has looked
        scores = np.stack([member.scores(data.validation.x) for member in members])
        return stacked(scores, data.validation.y)

    def resolved(self) -> dict[str, Any]:
        """Of the members, and of the block."""
        return {**self._engine.resolved(), "ensemble": self.config.dump()}

    def post_blocks(self) -> list[Regularizer[Any]]:
        """They act on the ensemble's scores, once."""
        return self._engine.post_blocks()


def bootstrap(data: FitData, seed: int) -> FitData:
    """As many training rows, drawn with replacement; drawn again when a class would be missing."""
    n, part = len(data.train), data.train
    for attempt in range(DRAWS):
        rows = (rng.keys(rng.derive(seed, "bag", attempt), n) % np.uint64(n)).astype(np.int64)
        if not data.classes or len(np.unique(part.y[rows])) == data.classes:
            break
    else:
        raise InvalidConfigError(
            f"regularizers.ensemble.diversity: {DRAWS} bootstrap samples of {n} rows all miss a class; use seed"
        )
    drawn = Part(
        part.x[rows],
        part.y[rows],
        None if part.weight is None else part.weight[rows],
        {name: codes[rows] for name, codes in part.groups.items()},
    )
    told = {
        name: replace(one, scores={**one.scores, "train": one.scores["train"][rows]}) if "train" in one.scores else one
        for name, one in data.references.items()
    }
    return replace(data, train=drawn, references=told)


def stacked(scores: Floats, y: npt.NDArray[Any]) -> Floats:
    """Non-negative weights (K,) of members' scores (K, rows, outputs) that minimize the loss on these rows."""
    count, rows, outputs = scores.shape
    if outputs == 1:
        return np.asarray(optimize.nnls(scores[:, :, 0].T, y.astype(np.float64))[0])
    logs = np.stack([log_softmax(one) for one in scores])

    def loss(w: Floats) -> tuple[float, Floats]:
        pooled = np.tensordot(w, logs, axes=1)
        pulled = softmax(pooled)
        pulled[np.arange(rows), y] -= 1
        return float(metrics.row_losses(pooled, y).mean()), np.einsum("krc,rc->k", logs, pulled) / rows

    start = np.full(count, 1 / count)
    options = {"ftol": 1e-15, "gtol": 1e-10, "maxiter": 1000}
    found = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * count, options=options)
    return np.asarray(found.x)


def _report(members: Sequence[Fitted], weights: Floats | None) -> FitReport:
    """The first member's story, with the steps of all."""
    first = members[0].report
    notes = {**first.notes, "ensemble.members": len(members)}
    if weights is not None:
        notes["ensemble.weights"] = weights.tolist()
    return replace(first, steps=sum(member.report.steps for member in members), notes=notes)


@dataclass(slots=True)
class FittedEnsemble:
    """Members as one model. `member_weights` (K,) of stacking; None averages."""

    members: Sequence[Fitted]
    member_weights: Floats | None
    classes: int
    report: FitReport

    def member_scores(self, x: npt.NDArray[np.float32]) -> Floats:
        """(K, rows, outputs), for the spread between members."""
        return np.stack([member.scores(x) for member in self.members])

    def scores(self, x: npt.NDArray[np.float32]) -> Floats:
        """Log of the mean probability, or the pool of stacking; means of values."""
        return self.combined(self.member_scores(x))

    def combined(self, scores: Floats) -> Floats:
        """(K, rows, outputs) to (rows, outputs)."""
        if self.member_weights is not None:
            told = np.stack([log_softmax(one) for one in scores]) if self.classes else scores
            return np.asarray(np.tensordot(self.member_weights, told, axes=1))
        if not self.classes:
            return np.asarray(scores.mean(axis=0))
        return np.asarray(np.log(np.maximum(np.stack([softmax(one) for one in scores]).mean(axis=0), LEAST)))

    def graph(self, graph: Graph, standardized: str) -> str:
        """All members side by side."""
        outputs = [member.graph(graph, standardized) for member in self.members]
        if self.member_weights is not None:
            told = [graph.add("LogSoftmax", one, axis=1) for one in outputs] if self.classes else outputs
            parts = [
                graph.add("Mul", one, graph.scalar(float(w))) for one, w in zip(told, self.member_weights, strict=True)
            ]
            return graph.add("Sum", *parts)
        if not self.classes:
            return graph.add("Mean", *outputs)
        mean = graph.add("Mean", *(graph.add("Softmax", one, axis=1) for one in outputs))
        return graph.add("Log", graph.add("Max", mean, graph.scalar(LEAST)))

    def weights(self) -> Mapping[str, npt.NDArray[Any]]:
        """`members.<i>.<name>`."""
        return {f"members.{i}.{name}": w for i, one in enumerate(self.members) for name, w in one.weights().items()}

    def files(self) -> Mapping[str, bytes]:
        """What each member came to."""
        told = {
            "members": [
                {"epochs": one.report.epochs, "steps": one.report.steps, "last": (one.report.history or [{}])[-1]}
                for one in self.members
            ],
            "weights": None if self.member_weights is None else self.member_weights.tolist(),
        }
        return {FILE: (json.dumps(told, indent=1, sort_keys=True) + "\n").encode()}


def losses(fitted: FittedEnsemble, x: npt.NDArray[np.float32], y: npt.NDArray[Any]) -> tuple[float, float, float]:
    """(loss of the ensemble, mean loss of its members, mean spread between them) on rows: the first is never above the second unless
    stacking weighs them.
    """
    scores = fitted.member_scores(x)
    answers = np.stack([softmax(one) for one in scores]) if fitted.classes else scores
    each = [float(metrics.row_losses(one, y).mean()) for one in scores]
    whole = float(metrics.row_losses(fitted.combined(scores), y).mean())
    return whole, float(np.mean(each)), float(variance.spread(answers).mean())
