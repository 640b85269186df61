"""The rounds of one fit: trees are added, validation is watched, the state can be saved between any two of them.

Every SPAN rounds the booster is made anew from its own bytes with a seed of (fit seed, round). XGBoost's column sampler keeps a generator
that no saved model holds, so this is what makes a resumed fit end in the same bits: every fit goes through the states that are saved.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import xgboost

from espalier_trainer import rng
from espalier_trainer.engines.classical import binary, mean_loss, report, stopper
from espalier_trainer.engines.xgboost.parameters import told
from espalier_trainer.errors import DivergedError, InvalidConfigError
from espalier_trainer.session import Progress

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from espalier_api.regularizers import Block
    from espalier_trainer.engines import Contribution, FitData, Part
    from espalier_trainer.engines.classical import Rebalancing
    from espalier_trainer.session import Session

SPAN: Final = 25


class Rounds:
    """One fit. `history` has one entry per round; after `run`, `raw` is the booster that is shipped, as UBJSON."""

    def __init__(
        self,
        parameters: Mapping[str, Any],
        blocks: Mapping[str, Block],
        data: FitData,
        rebalancing: Rebalancing,
        rounds: int,
        seed: int,
    ) -> None:
        self.parameters, self.data, self.rebalancing = dict(parameters), data, rebalancing
        self.total, self.seed = rounds, seed
        self.stopping = stopper(blocks)
        self.history: list[dict[str, float]] = []
        self.raw, self.kept, self.done = b"", b"", 0  # the booster at the span's start; DART's best; rounds
        self.stopped = False
        self._dart = "rate_drop" in parameters
        self._train = matrix(data.train, rebalancing, training=True, weight=rebalancing.rows(data))
        self._held = None if data.validation is None else matrix(data.validation, rebalancing)

    def run(self, session: Session, contributions: Mapping[str, Contribution]) -> None:
        """All rounds that are left, or until earlyStopping says so."""
        if (saved := session.restore()) is not None:
            self._load(saved)
        while self.done < self.total and not self.stopped:
            self._span(session, contributions)
        self._select()

    def _span(self, session: Session, contributions: Mapping[str, Contribution]) -> None:
        state = self._state()
        booster = self._booster()
        for index in range(self.done, min(self.done + SPAN, self.total)):
            try:
                booster.update(self._train, index)
            except xgboost.core.XGBoostError as error:  # some values are only looked at when a tree is grown
                raise InvalidConfigError(f"engine.xgboost.params: {told(error)}") from error
            self.done = index + 1
            self._watch(booster, index)
            entry = {k: v for k, v in self.history[-1].items() if k != "epoch"}
            session.progress(Progress(self.done / self.total, self.done, self.total, self.done, entry, contributions))
            if session.wants_checkpoint():
                session.save(_storable(state))
            session.stop_if_preempted()
            if self.stopped:
                break
        self.raw = bytes(booster.save_raw("ubj"))

    def _booster(self) -> xgboost.Booster:
        seed = rng.derive(self.seed, "xgboost", self.done) % 2**31
        booster = xgboost.Booster({**self.parameters, "seed": seed, "verbosity": 0}, [self._train])
        if self.raw:
            booster.load_model(bytearray(self.raw))
            booster.set_param({**self.parameters, "seed": seed, "verbosity": 0})
        return booster

    # --- validation ---------------------------------------------------------------------------------------------------
    def _watch(self, booster: xgboost.Booster, index: int) -> None:
        """The round's plain losses with the scores that would be served, and earlyStopping's verdict."""
        held, validation = self._held, self.data.validation
        train = mean_loss(self._served(booster, self._train, training=True), self.data.train.y)
        entry = {"epoch": float(index), "train": train}
        if held is not None and validation is not None:
            judged = report(index, self._served(booster, held), validation.y)
            entry |= {"validation": judged.loss, "metric": judged.metric}
            if self.stopping is not None:
                self.stopped = self.stopping.end_epoch(judged, {})
                if self._dart and self._restores and self._best == index + 1:
                    self.kept = bytes(booster.save_raw("ubj"))
        if not np.isfinite(list(entry.values())).all():
            raise DivergedError(
                f"round {index + 1}: the loss is not a finite number; lower engine.xgboost.params.learning_rate"
            )
        self.history.append(entry)

    def _served(
        self, booster: xgboost.Booster, rows: xgboost.DMatrix, *, training: bool = False
    ) -> npt.NDArray[np.float64]:
        scores = margins(booster, rows, self.data.classes)
        if not self.data.classes:
            return scores
        return scores - (self.rebalancing.margin if training else 0.0) + self.rebalancing.shift

    @property
    def _restores(self) -> bool:
        return self.stopping is not None and bool(self.stopping.config.restore_best)

    @property
    def _best(self) -> int:
        return int(self.stopping.notes()["bestEpoch"]) if self.stopping is not None else self.done

    def _select(self) -> None:
        """restoreBest. DART's later rounds rescale earlier trees, so its best state was kept as bytes; else the first trees are it."""
        if not self._restores or not self._best or self._best == self.done:
            return
        booster = xgboost.Booster(model_file=bytearray(self.kept or self.raw))
        self.raw = bytes((booster if self.kept else booster[: self._best]).save_raw("ubj"))

    def notes(self) -> dict[str, Any]:
        """For the report."""
        if self.stopping is None:
            return {}
        notes = {**self.stopping.notes(), "restored": self._restores}
        return {f"earlyStopping.{name}": value for name, value in notes.items()}

    # --- state --------------------------------------------------------------------------------------------------------
    def _state(self) -> dict[str, Any]:
        """At the start of a span."""
        return {
            "step": self.done,
            "booster": self.raw,
            "kept": self.kept,
            "history": [dict(entry) for entry in self.history],
            "stopping": None if self.stopping is None else self.stopping.state_dict(),
        }

    def _load(self, saved: Mapping[str, Any]) -> None:
        self.done, self.history = int(saved["step"]), [dict(entry) for entry in saved["history"]]
        self.raw, self.kept = (saved[name].numpy().tobytes() for name in ("booster", "kept"))
        if self.stopping is not None:
            self.stopping.load_state_dict(saved["stopping"])


def _storable(state: Mapping[str, Any]) -> dict[str, Any]:
    """Bytes travel as uint8 tensors; a checkpoint never holds a pickle."""
    import torch  # noqa: PLC0415 - the checkpoint's format is torch's; a fit that saves nothing needs none of it

    def tensor(data: bytes) -> torch.Tensor:
        return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)

    return {name: tensor(value) if isinstance(value, bytes) else value for name, value in state.items()}


def matrix(
    part: Part, rebalancing: Rebalancing, *, training: bool = False, weight: npt.NDArray[np.float64] | None = None
) -> xgboost.DMatrix:
    """Rows for XGBoost. While training, logit adjustment's margin stands on every row instead of base_score."""
    rows = xgboost.DMatrix(part.x, label=part.y, weight=weight)
    margin = rebalancing.margin
    if training and margin.any():
        one = np.asarray([margin[1] - margin[0]]) if len(margin) == 2 else margin  # noqa: PLR2004 - log odds
        rows.set_base_margin(np.tile(one.astype(np.float32), (len(part), 1)))
    return rows


def margins(booster: xgboost.Booster, rows: xgboost.DMatrix, classes: int) -> npt.NDArray[np.float64]:
    """Raw scores: (rows, classes) logits or (rows, 1) values."""
    raw = np.asarray(booster.predict(rows, output_margin=True), dtype=np.float64)
    if raw.ndim == 1:
        return binary(raw) if classes else raw[:, None]
    return raw
