"""Differential privacy by DP-SGD (Abadi et al. 2016): each example's gradient is cut to norm C = maxGradNorm, the sum gets Gaussian noise
sigma C, and what comes out may be used freely. sigma is the least one with which all steps of the fit stay within (epsilon, delta).

What the accountant assumes is what happens: rows enter a step by Poisson sampling, each on its own with probability q = batchSize / n, so a
batch has a random size, and the noisy sum is divided by the expected one, batchSize. An empty batch is a step of noise alone. Neighbouring
data differ by one training row. Penalties of weights are added after the noise (GRAD and STEP hooks run after `backward`), do
not depend on data and cost nothing; one that went through the loss would be cut and drowned with it (R2).

The noise and the sampling come from a secret of the operating system, not from `seed`: the seed is published with the model, and whoever
can repeat the draws can subtract them. The secret lives in the checkpoint, so a resumed fit goes on in the same bits and spends nothing
twice; it is never in the artifact. Two private fits with one seed therefore differ. The generator is Philox under a key of 128 bits, which
is not a cryptographic one, and rounding of floating-point noise (Mironov 2012) is not defended against.

Covered are the weights after all steps, each fit on its own: `seeds: 3` publishes three fits' metrics and spends three times. Not covered,
because they are computed without noise: the preprocessor's moments, the reference deciles, logged losses and metrics.

Gradients per example: torch.func's vmap(grad) over the objective of one row, in chunks; every network without batch statistics can do it.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from espalier_api.regularizers import Privacy as PrivacyConfig
from espalier_trainer import rng
from espalier_trainer.accounting import noise_for, spent
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.protocol import FIRST, Batch, FitView, PlanContext, Regularizer, Stage, Step, register

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from espalier_trainer.schedule import Coefficient

CHUNK_NUMBERS: Final = 1 << 25  # of per-example gradients at a time: 128 MiB in fp32
MIXING: Final = frozenset({"batchMixing", "fairness", "safety", "informationBottleneck"})
"""Blocks whose gradient has no part per training row."""


class OneRow(nn.Module):
    """The objective of a single training row as a module, so that functional_call can put weights under it."""

    def __init__(self, view: FitView) -> None:
        super().__init__()
        self.model = view.model
        self._objective = view.objective

    def forward(self, batch: dict[str, Any], step: Step) -> Tensor:
        """`batch` holds a Batch's fields without the leading dimension; the row's weight scales its data loss."""
        row = Batch(
            batch["x"][None],
            batch["y"][None],
            None,
            batch["index"][None],
            {name: code[None] for name, code in batch["groups"].items()},
            {name: value[None] for name, value in batch["extra"].items()},
        )
        data, terms = self._objective(row, step)
        weight: Tensor = batch["weight"]
        return data * weight + terms


def clipped_sum(gradients: Mapping[str, Tensor], keep: Tensor, bound: float) -> tuple[dict[str, Tensor], Tensor]:
    """Per-example gradients {name: (rows, ...)} to the sum of those cut to norm `bound`, and the norms before (rows,).

    `keep` (rows,) is 0 for rows that stand in for an empty batch.
    """
    squares = torch.stack([g.flatten(1).square().sum(1) for g in gradients.values()]).sum(0)
    norms = squares.sqrt()
    scale = keep * (bound / norms.clamp_min(1e-12)).clamp_max(1.0)
    return {name: torch.tensordot(scale, g, 1) for name, g in gradients.items()}, norms


@register
class Privacy(Regularizer[PrivacyConfig]):
    """Draws the rows of each step, and sets every gradient."""

    name = "privacy"
    stage = Stage.DATA
    order = FIRST - 1  # it replaces the batch: what others know of its rows or do to them comes after
    selects = None

    def __init__(self, config: PrivacyConfig) -> None:
        super().__init__(config)
        self._rate, self._expected, self._sigma, self._delta = 1.0, 1, 0.0, 1.0
        self._secret, self._steps = secrets.token_hex(16), 0
        self._checked, self._planned = False, 0
        self._view: FitView | None = None
        self._row: OneRow | None = None

    def strength(self) -> float:
        """The budget, for the log."""
        return self.config.epsilon

    def plan(self, context: PlanContext) -> None:
        """Find the noise; refuse what mixes rows."""
        if mixing := sorted(MIXING & context.declared):
            raise InvalidConfigError(
                f"regularizers.{mixing[0]}: privacy needs the gradient of each training row, and {mixing[0]} has none (R3); "
                f"drop {mixing[0]} or privacy"
            )
        n = context.rows
        self._expected = min(context.batch_size or n, n)
        self._rate = self._expected / n
        self._delta = 0.1 / n if self.config.delta is None else self.config.delta
        if self._delta >= 1.0 / n:
            raise InvalidConfigError(
                f"regularizers.privacy.delta: {self._delta:g} is not below 1/n = {1 / n:g}; a mechanism that publishes a row of "
                "every n-th person would meet it. Lower it, or leave it out for a tenth of 1/n"
            )
        self._planned = steps = context.epochs * context.steps_per_epoch
        try:
            self._sigma = noise_for(self.config.epsilon, self._delta, self._rate, steps, self.config.accountant)
        except ValueError as error:
            raise InvalidConfigError(
                f"regularizers.privacy.epsilon: {error}; raise epsilon, or lower engine.torch.epochs or batchSize"
            ) from error

    def attach(self, view: FitView) -> None:
        """Refuse a network whose rows see each other."""
        for name, module in view.model.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):  # noqa: SLF001 - torch has no public base of all batch norms
                raise InvalidConfigError(
                    f"R1: {name} is {type(module).__name__}, which mixes the rows whose gradients privacy must tell apart; "
                    "use normalization.kind: group, or drop privacy"
                )
            if hasattr(module, "per_row"):
                module.per_row = True
        self._view, self._row = view, OneRow(view)

    def draw(self, seed: int, rows: int) -> npt.NDArray[np.int64]:
        """Claims the choice of rows, so that no other block makes it; `batch` takes them step by step."""
        return rng.permutation(seed, rows)

    def batch(self, batch: Batch, step: Step, coefficient: Coefficient) -> Batch:
        """Each training row with probability q, whatever rows came in."""
        assert self._view is not None  # noqa: S101 - attach comes first
        drawn = self._generator("sample", step).random(len(self._view.train.y)) < self._rate
        return self._take(torch.from_numpy(np.flatnonzero(drawn)).to(batch.x.device))

    def _take(self, rows: Tensor) -> Batch:
        """These training rows, or the first one marked as absent, because a batch must have a row."""
        assert self._view is not None  # noqa: S101 - attach comes first
        train = self._view.train
        chosen = rows if len(rows) else rows.new_zeros(1)
        keep = torch.full((len(chosen),), float(len(rows) > 0), device=train.x.device, dtype=train.x.dtype)
        weight = None if train.weight is None else train.weight[chosen]
        groups = {name: codes[chosen] for name, codes in train.groups.items()}
        return Batch(train.x[chosen], train.y[chosen], weight, chosen, groups, {self.name: keep})

    def backward(self, objective: Tensor, batch: Batch, step: Step) -> None:
        """(sum of cut gradients + noise) / expected batch size. `objective` is what the log shows; its gradient is not used."""
        assert self._view is not None  # noqa: S101 - attach comes first
        if self._steps >= self._planned:  # fine-tuning, say: its steps would spend what nobody granted
            raise InvalidConfigError(
                f"regularizers.privacy: the budget is for {self._planned} steps, and another block trains longer; drop one of the two"
            )
        total = self._gradients(batch, step) if self._checked else self._first_gradients(batch, step)
        generator = self._generator("noise", step)
        scale = self._sigma * self.config.max_grad_norm
        for name, parameter in self._view.parameters.items():
            noise = torch.from_numpy(generator.standard_normal(tuple(parameter.shape))).to(parameter)
            parameter.grad = (total[name] + scale * noise) / self._expected
        self._steps += 1

    def _first_gradients(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Before any weight moves, and on a batch that every block has seen: is there a gradient per example at all?"""
        try:
            total = self._gradients(batch, step)
        except RuntimeError as error:
            raise InvalidConfigError(
                f"regularizers.privacy: this network or a declared block has no gradient per example ({str(error).splitlines()[0]}); "
                "drop the block that changes modules or losses, or privacy"
            ) from error
        self._checked = True
        return total

    def _gradients(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """The sum of cut gradients by parameter name."""
        view, row = self._view, self._row
        assert view is not None  # noqa: S101 - attach comes first
        assert row is not None  # noqa: S101 - attach comes first
        weights = {f"model.{name}": p.detach() for name, p in view.parameters.items()}

        def objective(weights: dict[str, Tensor], one: dict[str, Any]) -> Tensor:
            scalar: Tensor = torch.func.functional_call(row, weights, (one, step))
            return scalar

        each = torch.func.vmap(torch.func.grad(objective), in_dims=(None, 0), randomness="different")
        size = max(1, CHUNK_NUMBERS // max(1, sum(p.numel() for p in weights.values())))
        total = {name: torch.zeros_like(p) for name, p in view.parameters.items()}
        for rows in torch.split(torch.arange(len(batch.y), device=batch.x.device), size):
            fields = _fields(batch, rows)
            keep = fields["extra"].pop(self.name)
            cut, _ = clipped_sum(each(weights, fields), keep, self.config.max_grad_norm)
            for name, part in cut.items():
                total[name.removeprefix("model.")] += part
        return total

    def _generator(self, purpose: str, step: Step) -> np.random.Generator:
        """Philox under a key of 128 bits; torch's CPU generator would keep 32 bits of a seed, few enough to try them all."""
        digest = hashlib.sha256(f"{self._secret} {purpose} {step.index}".encode()).digest()
        return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))

    def notes(self) -> dict[str, Any]:
        """What was spent: less than the budget when the fit stopped early."""
        epsilon = spent(self._rate, self._sigma, self._steps, self._delta, self.config.accountant)
        return {
            "epsilon": epsilon,
            "delta": self._delta,
            "noiseMultiplier": self._sigma,
            "sampleRate": self._rate,
            "steps": self._steps,
            "accountant": self.config.accountant,
            "adjacency": "one training row added or removed",
        }

    def state_dict(self) -> dict[str, Any]:
        """The secret and how often it was used."""
        return {"secret": self._secret, "steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse."""
        self._secret, self._steps = str(state["secret"]), int(state["steps"])


def _fields(batch: Batch, rows: Tensor) -> dict[str, Any]:
    """The given rows as a tree of tensors with the row as leading dimension; absent weights are 1, absent indices -1."""
    whole = replace(
        batch,
        weight=torch.ones_like(batch.x[:, 0]) if batch.weight is None else batch.weight,
        index=torch.full_like(batch.y, -1, dtype=torch.int64) if batch.index is None else batch.index,
    )
    assert whole.weight is not None  # noqa: S101 - set above
    assert whole.index is not None  # noqa: S101 - set above
    return {
        "x": whole.x[rows],
        "y": whole.y[rows],
        "weight": whole.weight[rows],
        "index": whole.index[rows],
        "groups": {name: codes[rows] for name, codes in whole.groups.items()},
        "extra": {name: value[rows] for name, value in whole.extra.items()},
    }
