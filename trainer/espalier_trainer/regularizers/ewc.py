"""Elastic weight consolidation: strength/2 sum_i F_i (w_i - w0_i)^2 around the weights of the model whose task is kept, from a start
there (Kirkpatrick et al. 2017). F is the diagonal Fisher information of the *old* task. Only a fit with this block leaves it in its
artifact (fisher.safetensors); of any other reference it is estimated at its weights on this job's training rows, which is honest only
as far as the two tasks share their inputs. Afterwards decay F_old + F_new is packaged for the next task (online EWC, Schwarz et al. 2018).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save

from espalier_api.regularizers import Ewc as EwcConfig
from espalier_trainer import references
from espalier_trainer.engines.torch import evaluator, fisher, transfer
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.peers import Sharing
from espalier_trainer.protocol import FitView, Params, PlanContext, Reference, Regularizer, Stage, register

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor, nn

    from espalier_trainer.schedule import Coefficient


@register
class Ewc(Regularizer[EwcConfig]):
    """A quadratic penalty in the Fisher metric. In a first version it only measures the Fisher for the next one."""

    name = "ewc"
    stage = Stage.GRAD
    sharing = Sharing.EXACT
    annealed = "strength"

    def __init__(self, config: EwcConfig) -> None:
        super().__init__(config)
        self._reference: Reference | None = None
        self._view: FitView | None = None
        self._start: dict[str, Tensor] = {}
        self._state: dict[str, Tensor] = {}
        self._fisher: dict[str, Tensor] = {}
        self._left: dict[str, Tensor] = {}

    def acts(self, hook: str) -> bool:
        """The penalty needs a previous model; measuring does not."""
        return super().acts(hook) and (self._reference is not None or not hook.startswith("penalty"))

    def plan(self, context: PlanContext) -> None:
        """The reference exists."""
        self._reference = references.of(context, self.name, self.config.reference)

    def attach(self, view: FitView) -> None:
        """Start at the old task's weights."""
        self._view = view
        if self._reference is not None:
            self._start = transfer.start_at(self._reference, view, self.name)
            self._state = {n: t.clone() for n, t in evaluator.state_of(view.model).items()}

    def penalty_grad(self, params: Params, coefficient: Coefficient) -> None:
        """grad += strength F (w - w0)."""
        metric, away = self._away(params)
        torch._foreach_addcmul_(params.grads, metric, away, value=coefficient.value)

    def penalty_value(self, params: Params) -> Tensor:
        """sum_i F_i (w_i - w0_i)^2 / 2."""
        metric, away = self._away(params)
        return torch.stack([(f * a.square()).sum() for f, a in zip(metric, away, strict=True)]).sum() / 2

    def _away(self, params: Params) -> tuple[list[Tensor], list[Tensor]]:
        metric = self._old_fisher()
        away = torch._foreach_sub(params.values, [self._start[n] for n in params.names])  # noqa: SLF001 - torch's own fused form
        return [metric[n] for n in params.names], list(away)

    def _old_fisher(self) -> dict[str, Tensor]:
        """Of the reference's task: packaged, or estimated at its weights; a function of them alone, so resuming needs no state."""
        if not self._fisher:
            assert self._reference is not None  # noqa: S101 - acts() said so
            assert self._view is not None  # noqa: S101 - attach comes first
            self._fisher = self._packaged(self._reference) or self._measure(self._view.model, self._state)
        return self._fisher

    def _packaged(self, reference: Reference) -> dict[str, Tensor]:
        """What its own ewc left; a name that is missing there belongs to another `target`."""
        found = {n: torch.as_tensor(f).to(self._start[n]) for n, f in reference.arrays.items() if n in self._start}
        lacking = [n for n in self._chosen(self._start) if n not in found]
        if found and lacking:
            raise InvalidConfigError(
                f"regularizers.ewc.target: the reference's {references.FISHER} holds no {lacking[0]}; "
                f"it was made with another target, which chose {', '.join(sorted(found)[:6])}"
            )
        return found

    def _chosen(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if self.selector.takes(name)]

    def _measure(self, model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        assert self._view is not None  # noqa: S101 - attach comes first
        train, view = self._view.train, self._view
        rows = fisher.some_rows(len(train.y), self.config.samples, view.seed).to(train.x.device)
        chosen = self._chosen(name for name, _ in model.named_parameters())
        exact = self.config.fisher == "exact"
        return fisher.diagonal(
            model, state, chosen, train.x[rows], train.y[rows], exact=exact, regression=view.regression
        )

    def finish(self, model: nn.Module) -> None:
        """The Fisher that the next task will need, at the weights that are shipped."""
        old = self._old_fisher() if self._reference is not None else {}
        self._left = {
            name: value + self.config.decay * old[name] if name in old else value
            for name, value in self._measure(model, evaluator.state_of(model)).items()
        }

    def package(self) -> Mapping[str, bytes]:
        """fisher.safetensors."""
        return {references.FISHER: save({n: f.float().cpu().contiguous() for n, f in self._left.items()})}

    def notes(self) -> dict[str, Any]:
        """Whose task is kept, and where its Fisher came from."""
        if self._reference is None:
            return {"reference": "none: this is the first version"}
        return {
            "reference": self._reference.digest,
            "fisher": "packaged" if self._reference.arrays else "estimated on this job's rows",
        }
