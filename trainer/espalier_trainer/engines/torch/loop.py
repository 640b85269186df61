"""The fit: one explicit loop over optimizer steps that walks LOSS → GRAD → STEP, with EPOCH at the end of each pass.

All randomness is a function of (seed, step), all schedules are functions of the done fraction; therefore the state is the model, the
optimizer, the blocks' own state and the step number, and a fit resumed in the middle of an epoch ends in the same bits.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import torch

from espalier_trainer import rng
from espalier_trainer.engines import Contribution, FitReport
from espalier_trainer.engines.torch import evaluator, layers
from espalier_trainer.engines.torch.audit import Audit
from espalier_trainer.engines.torch.objective import Objective, only
from espalier_trainer.engines.torch.optimizers import OptimizerView
from espalier_trainer.engines.torch.optimizers import build as build_optimizer
from espalier_trainer.engines.torch.scaling import Backward, ScaledBackward
from espalier_trainer.engines.torch.telemetry import TermLog
from espalier_trainer.engines.torch.tensors import Settings, Tensors, seed_generators, steps_per_epoch
from espalier_trainer.errors import DivergedError
from espalier_trainer.peers import ALONE, Peers
from espalier_trainer.protocol import FitView, Params, Regularizer, Step, acting, ordered
from espalier_trainer.schedule import Coefficient
from espalier_trainer.session import Progress

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from espalier_trainer.session import Session

__all__ = ["Fit", "Settings", "Tensors"]

PROBE_ROWS: Final = 2048
AUDITS: Final = 20  # how often per fit the gradients of terms are compared with the data's


class Fit:
    """One fit of one model. `run` may be called once; `weights` are the shipped ones afterwards."""

    def __init__(
        self,
        model: nn.Module,
        blocks: Sequence[Regularizer[Any]],
        train: Tensors,
        validation: Tensors | None,
        settings: Settings,
        extra: Mapping[str, Tensors] | None = None,
        peers: Peers = ALONE,
    ) -> None:
        self.peers = peers
        self.model, self.train, self.validation, self.settings = model, train, validation, settings
        self.blocks = ordered(blocks)
        device, dtype = train.x.device, train.x.dtype
        self.coefficients = {
            b.name: Coefficient(
                b.strength(),
                getattr(b.config, "schedule", None) if b.annealed else None,
                torch.zeros((), device=device, dtype=dtype),
            )
            for b in self.blocks
        }
        for block in sorted(acting(self.blocks, "surgery"), key=lambda b: not b.factors):
            block.surgery(model, self.coefficients[block.name])
        self.parameters = dict(model.named_parameters())
        self.params = {b.name: self._params(b) for b in self.blocks if b.selects == "parameters"}
        self.optimizer = build_optimizer(settings.optimizer, self.parameters.values(), settings.rate.at(0.0))
        self.view = OptimizerView(self.optimizer)
        half = settings.autocast is torch.float16
        self.backward = (ScaledBackward if half else Backward)(self.optimizer, list(self.parameters.values()), peers)
        self.objective = Objective(
            model,
            self.blocks,
            self.coefficients,
            regression=settings.regression,
            autocast=settings.autocast,
            peers=peers,
        )
        self._plan_hooks()
        self.probe = self._probe()
        self.steps_per_epoch = steps_per_epoch(len(train), settings.batch_size)
        self.total = settings.epochs * self.steps_per_epoch
        self.fit_view = self._attach(extra or {})
        self.log = TermLog(self.logged, settings.log_every, device)
        self.audit = Audit([b.name for b in self.blocks], peers)
        self.step, self.stopped = 0, False
        self.report = FitReport()
        self._epoch_sum, self._epoch_steps = 0.0, 0
        self._last_values: list[Tensor] = []

    def _probe(self) -> Tensors:
        """Evenly spaced training rows, as many as validation has: the training loss of each epoch is told on them."""
        size = min(len(self.train), 0 if self.validation is None else min(len(self.validation), PROBE_ROWS))
        rows = torch.linspace(0, len(self.train) - 1, size).long().to(self.train.x.device)
        return Tensors(self.train.x[rows], self.train.y[rows])

    def _attach(self, extra: Mapping[str, Tensors]) -> FitView:
        outputs = 0 if self.settings.regression else self.scores(self.train.x[:1]).shape[-1]
        view = FitView(
            model=self.model,
            parameters=self.parameters,
            train=self.train.all(),
            extra={name: part.all() for name, part in extra.items()},
            forward=self.objective.forward,
            rows=self.objective.rows,
            objective=self.objective.split,
            recording=lambda: self.objective.recording,
            regression=self.settings.regression,
            classes=outputs,
            total=self.total,
            steps_per_epoch=self.steps_per_epoch,
            seed=self.settings.seed,
            validation=None if self.validation is None else self.validation.all(),
        )
        for block in acting(self.blocks, "attach"):
            block.attach(view)
        return view

    def _params(self, block: Regularizer[Any]) -> Params:
        names = block.selector.choose(self.parameters, block.name, "parameter")
        return Params(names, [self.parameters[name] for name in names])

    def _plan_hooks(self) -> None:
        """Bind hooks once: a hook that no block overrides costs nothing per step."""
        self.batch_blocks = acting(self.blocks, "batch")
        self.drawing = only(self.blocks, "draw", "choose the rows of an epoch")
        self.backward_block = only(self.blocks, "backward", "compute the gradient")
        self.grad_blocks = acting(self.blocks, "penalty_grad")
        self.transform_blocks = acting(self.blocks, "transform_grad")
        self.before_blocks = acting(self.blocks, "before_step")
        self.after_blocks = acting(self.blocks, "after_step")
        self.valued = acting(self.blocks, "penalty_value")
        self.logged = [b.name for b in (*self.objective.terms, *self.valued)]

    # --- run --------------------------------------------------------------------------------------------------------
    def run(self, session: Session) -> None:
        """All steps that are left, then SELECT. Raises DivergedError, or PreemptedError after saving a checkpoint."""
        if (state := session.restore()) is not None:
            self.load_state_dict(state)
        self.model.train()
        audit_every = max(1, min(500, self.total // AUDITS))
        order, order_epoch = torch.empty(0, dtype=torch.int64), -1
        while self.step < self.total and not self.stopped:
            epoch, position = divmod(self.step, self.steps_per_epoch)
            if epoch != order_epoch:
                order, order_epoch = self._order(epoch), epoch
            rows = self._rows(order, position)
            self._one_step(rows, epoch, audit=self.step % audit_every == 0)
            self.step += 1
            if position + 1 == self.steps_per_epoch:
                self._end_epoch(epoch, session)
            if session.wants_checkpoint():
                self._flush()
                session.save(self.state_dict())
            session.stop_if_preempted()
        self._flush()
        self._finish()

    def _rows(self, order: Tensor, position: int) -> Tensor:
        """The rows of one batch; the last one has whatever is left."""
        start = position * self.settings.batch_size
        end = len(order) if position + 1 == self.steps_per_epoch else start + self.settings.batch_size
        return order[start:end]

    def _order(self, epoch: int) -> Tensor:
        """The permutation of rows of this epoch, on the device; one full batch stays in order (nothing to shuffle)."""
        n = len(self.train)
        if self.drawing is not None:
            drawn = self.drawing.draw(rng.derive(self.settings.seed, "draw", epoch), n)
            return torch.from_numpy(drawn).to(self.train.x.device)
        if self.steps_per_epoch == 1:
            return torch.arange(n, device=self.train.x.device)
        return torch.from_numpy(rng.permutation(rng.derive(self.settings.seed, "order", epoch), n)).to(
            self.train.x.device
        )

    def _one_step(self, rows: Tensor, epoch: int, *, audit: bool) -> None:
        step = Step(self.step, epoch, self.total, rng.derive(self.settings.seed, "step", self.step))
        seed_generators(step.seed, self.train.x.device)
        for coefficient in self.coefficients.values():
            if coefficient.schedule is not None:
                coefficient.update(step.fraction)
        self.view.set_rate(self.settings.rate.at(step.fraction))
        batch = self.train.take(rows)
        for block in self.batch_blocks:
            batch = block.batch(batch, step, self.coefficients[block.name])
        self._draw_apart(step, self.peers.rank)
        self.fit_view.batch = batch
        audited = self.audit if audit else None
        data, terms = self.objective(batch, step, list(self.parameters.values()), audited)
        total = data
        for name, value in terms.items():
            total = total + self.coefficients[name].tensor * value
        if self.backward_block is None:
            self.backward(total)
        else:
            self.optimizer.zero_grad(set_to_none=True)
            self.backward_block.backward(total, batch, step)
        self._draw_apart(step, "again")
        with torch.no_grad():
            self._gradients(step, audit=audit)
            self._move(audit=audit)
            if self.log.add(
                self.step, [data, *(self.coefficients[n].tensor * v for n, v in terms.items()), *self._values()]
            ):
                self._flush()

    def _draw_apart(self, step: Step, who: int | str) -> None:
        """Batches and gradients are drawn alike by all processes; noise in between is each one's own, for its rows."""
        if self.peers.size > 1:
            seed_generators(rng.derive(step.seed, "process", who), self.train.x.device)

    def _gradients(self, step: Step, *, audit: bool) -> None:
        for block in self.grad_blocks:
            params, coefficient = self.params[block.name], self.coefficients[block.name]
            before = [g.clone() for g in params.grads] if audit else []
            block.penalty_grad(params, coefficient)
            if audit:
                self.audit.penalty(block.name, self._indices(block), before, params.grads)
        for block in self.transform_blocks:
            block.transform_grad(self.params[block.name], step, self.coefficients[block.name])

    def _move(self, *, audit: bool) -> None:
        for block in self.before_blocks:
            self._moved_by(block, block.before_step, audit=audit)
        before = [p.detach().clone() for p in self.parameters.values()] if audit else []
        self.optimizer.step()
        if audit:
            self.audit.moved(before, [p.detach() for p in self.parameters.values()])
        for block in self.after_blocks:
            self._moved_by(block, block.after_step, audit=audit)

    def _moved_by(self, block: Regularizer[Any], hook: Any, *, audit: bool) -> None:  # noqa: ANN401 - either STEP hook
        params = self.params[block.name]
        before = [p.detach().clone() for p in params.values] if audit else []
        hook(params, self.view, self.coefficients[block.name])
        if audit:
            self.audit.displaced(block.name, before, [p.detach() for p in params.values])

    def _values(self) -> list[Tensor]:
        """Weighted penalties. Read on the first step of each log window only: they change slowly and cost a pass over the weights."""
        if self.valued and self.log.empty:
            self._last_values = [
                self.coefficients[b.name].tensor * b.penalty_value(self.params[b.name]).to(self.train.x.dtype)
                for b in self.valued
            ]
        return self._last_values

    def _indices(self, block: Regularizer[Any]) -> list[int]:
        position = {name: i for i, name in enumerate(self.parameters)}
        return [position[name] for name in self.params[block.name].names]

    # --- epoch ------------------------------------------------------------------------------------------------------
    def _flush(self) -> None:
        filled = self.log.filled
        if filled:
            self._epoch_sum += self.log.flush()[0] * filled
            self._epoch_steps += filled
            self.audit.collect()

    def _end_epoch(self, epoch: int, session: Session) -> None:
        self._flush()
        entry = {"epoch": float(epoch), "objective": self._epoch_sum / max(self._epoch_steps, 1)}
        self._epoch_sum, self._epoch_steps = 0.0, 0
        if self.validation is not None:
            weights, regression = self.shipped(), self.settings.regression
            settled = not any(block.unsettled() for block in acting(self.blocks, "unsettled"))
            report = evaluator.validate(
                self.model, self.validation, weights, epoch, regression=regression, settled=settled
            )
            if not math.isfinite(report.loss):
                raise DivergedError(
                    f"epoch {epoch + 1}: the validation loss is not a finite number; lower the learning rate"
                )
            told = evaluator.loss(self.model, self.probe, weights, regression=regression)
            entry |= {"train": told, "validation": report.loss, "metric": report.metric}
            verdicts = [b.end_epoch(report, weights) for b in acting(self.blocks, "end_epoch")]  # all of them look
            self.stopped = self.peers.any(flag=any(verdicts))
        self.report.history.append(entry)
        losses = entry | {"learningRate": self.view.learning_rate}
        done = self.step / self.total
        session.progress(Progress(done, epoch + 1, self.settings.epochs, self.step, losses, self.contributions()))

    def scores(self, x: Tensor, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """Evaluation-mode scores (rows, outputs), with the given weights and buffers or the model's own."""
        return evaluator.scores(self.model, x, weights)

    def shipped(self) -> dict[str, Tensor]:
        """Parameters and buffers that would be shipped now."""
        return evaluator.shipped(self.model, self.blocks, self.train.x)

    def _finish(self) -> None:
        chosen = {name: w.clone() for name, w in self.shipped().items()}
        for block in acting(self.blocks, "select"):
            chosen = block.select(chosen)
        chosen = evaluator.constrained(self.blocks, chosen)
        with torch.no_grad():
            for name, tensor in evaluator.state_of(self.model).items():
                tensor.copy_(chosen[name])
        self.model.eval()
        layers.bake(self.model)
        for block in reversed(acting(self.blocks, "finish")):
            block.finish(self.model)
        self.parameters = dict(self.model.named_parameters())
        self.report.epochs, self.report.steps = len(self.report.history), self.step
        self.report.contributions = self.contributions()
        self.report.gradient_norms = list(self.audit.data_norms)

    def contributions(self) -> dict[str, Contribution]:
        """What each block did so far, means over the logged steps."""
        steps = max(self.log.steps, 1)
        means = dict(zip(self.log.terms, (s / steps for s in self.log.sums), strict=True))
        apart = {b.name for b in self.blocks if not b.in_objective}
        objective = sum(abs(v) for name, v in means.items() if name not in apart)
        told: dict[str, Contribution] = {}
        for block in self.blocks:
            coefficient = self.coefficients[block.name]
            one = Contribution(coefficient.value if block.annealed else block.strength())
            if block.name in means and block.name in self.logged:
                one.weighted = means[block.name]
                one.value = one.weighted / coefficient.value if coefficient.value else None
                one.share = abs(one.weighted) / objective if objective and block.in_objective else None
            told[block.name] = self.audit.complete(block.name, one)
        return told

    # --- state ------------------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed fit needs; tensors by name, so that it survives a change in parameter order."""
        moments = {
            name: {k: v for k, v in self.optimizer.state[p].items() if v is not None}
            for name, p in self.parameters.items()
        }
        return {
            "step": self.step,
            "stopped": self.stopped,
            "model": dict(self.model.state_dict()),
            "optimizer": moments,
            "blocks": {b.name: b.state_dict() for b in self.blocks},
            "history": self.report.history,
            "epoch": [self._epoch_sum, self._epoch_steps],
            "log": [self.log.sums, self.log.steps],
            "audit": self.audit.state_dict(),
            "backward": self.backward.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse."""
        self.step, self.stopped = state["step"], state["stopped"]
        self.model.load_state_dict(state["model"])
        for name, moments in state["optimizer"].items():
            parameter = self.parameters[name]
            self.optimizer.state[parameter] = {
                k: v.to(parameter.device if v.dim() else v.device) if isinstance(v, torch.Tensor) else v
                for k, v in moments.items()
            }
        for block in self.blocks:
            block.load_state_dict(state["blocks"][block.name])
        self.report.history = list(state["history"])
        self._epoch_sum, self._epoch_steps = state["epoch"]
        self.log.sums, self.log.steps = list(state["log"][0]), state["log"][1]
        self.audit.load_state_dict(state["audit"])
        self.backward.load_state_dict(state.get("backward", {}))
