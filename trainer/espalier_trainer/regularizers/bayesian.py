"""A Gaussian prior of priorPrecision on every weight but normalization: priorPrecision / (2 n) ||w||^2, so that the fit is the mode of the
posterior (map). lastLayerLaplace: at the mode, a Gaussian over the last layer from the full curvature of its likelihood (Daxberger et
al. 2021); swag: the mean of the weights over the last quarter, with their diagonal and low-rank spread, of which the last layer's is used
(Maddox et al. 2019). Both fold the expected softmax into the served graph (engines/torch/posterior.py). For values the mean stays,
and posterior.safetensors holds mean, covariance and noise of the last layer, weights first and bias last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors.torch import save
from torch import nn

from espalier_api.regularizers import Bayesian as BayesianConfig
from espalier_trainer.engines.torch import evaluator, posterior
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.peers import Sharing
from espalier_trainer.protocol import FitView, Params, PlanContext, Regularizer, Stage, StepView, register
from espalier_trainer.targets import Selector

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from espalier_trainer.schedule import Coefficient

HEAD: Final = "head"
START: Final = 0.75
SNAPSHOTS: Final = 20
POSTERIOR: Final = "posterior.safetensors"
OF_SWAG: Final = frozenset({"after_step", "evaluation_weights", "select"})
OF_HEAD: Final = frozenset({"attach", "finish", "package"})


@register
class Bayesian(Regularizer[BayesianConfig]):
    """Prior on all weights, posterior over the last layer's."""

    name = "bayesian"
    stage = Stage.POST
    sharing = Sharing.EXACT

    def __init__(self, config: BayesianConfig) -> None:
        super().__init__(config)
        self.selector = Selector(exclude=("*norm.*",))
        self._rows, self._start, self._every = 1, 0, 1
        self._view: FitView | None = None
        self._files: dict[str, bytes] = {}
        self.seen, self.count = 0, 0
        self.mean: dict[str, Tensor] = {}
        self.square: Tensor | None = None  # running mean of the last layer's squared weights (outputs, inputs + 1)
        self.deviations: list[Tensor] = []  # of the last snapshots from the running mean

    def acts(self, hook: str) -> bool:
        """map only penalizes; swag also watches the path."""
        if hook in OF_HEAD:
            return self.config.method != "map" and super().acts(hook)
        return super().acts(hook) and (hook not in OF_SWAG or self.config.method == "swag")

    def strength(self) -> float:
        """Of the L2 penalty beside a mean loss: priorPrecision / n."""
        return self.config.prior_precision / self._rows

    def plan(self, context: PlanContext) -> None:
        """The mean of the path is the only one that chooses weights."""
        self._rows = context.rows
        total = context.epochs * context.steps_per_epoch
        self._start = int(START * total)
        self._every = max(1, (total - self._start) // SNAPSHOTS)
        if self.config.method == "map":
            return
        if (
            rival := sorted({"weightAveraging", "earlyStopping", "modelSoup"} & context.declared)
            if self.config.method == "swag"
            else []
        ):
            raise InvalidConfigError(
                f"regularizers.bayesian.method: swag ships the mean of the last quarter of the fit, and {rival[0]} chooses other weights; "
                f"remove {rival[0]}, or use lastLayerLaplace"
            )
        if later := sorted({"structuredPruning", "quantization", "pruning"} & context.declared):
            raise InvalidConfigError(
                f"regularizers.bayesian.method: {later[0]} changes weights after their posterior was found; "
                "remove one of them, or use map"
            )

    def attach(self, view: FitView) -> None:
        """There is a last layer, and its covariance is of a size that can be inverted."""
        self._view = view
        head = _head(view.model)
        size = head.out_features * (head.in_features + 1)
        if self.config.method == "swag" and f"{HEAD}.weight" not in view.parameters:
            raise InvalidConfigError(
                "regularizers.bayesian.method: swag needs the last layer's weights as they are, and a block parametrizes them; "
                "remove that block or give it a target without head.*"
            )
        if self.config.method == "lastLayerLaplace" and size > posterior.LARGEST:
            raise InvalidConfigError(
                f"regularizers.bayesian.method: lastLayerLaplace inverts a matrix of the last layer's {size} numbers, and "
                f"{posterior.LARGEST} is the most; make the last hidden layer narrower, or use swag"
            )

    def penalty_grad(self, params: Params, coefficient: Coefficient) -> None:
        """grad += priorPrecision / n * w."""
        torch._foreach_add_(params.grads, params.values, alpha=coefficient.value)

    def penalty_value(self, params: Params) -> Tensor:
        """||w||^2 / 2."""
        return torch.stack(torch._foreach_norm(params.values)).square().sum() / 2  # noqa: SLF001 - torch's own fused form

    # swag -------------------------------------------------------------------------------------------------------------
    def after_step(self, params: Params, view: StepView, coefficient: Coefficient) -> None:
        """A snapshot now and then in the last quarter."""
        self.seen += 1
        if self.seen <= self._start or (self.seen - self._start) % self._every:
            return
        assert self._view is not None  # noqa: S101 - attach comes first
        self.count += 1
        now = {name: p.detach() for name, p in self._view.parameters.items()}
        if not self.mean:
            self.mean = {name: w.clone() for name, w in now.items()}
        for name, w in now.items():
            self.mean[name].lerp_(w, 1 / self.count)
        last = _rows_of(now)
        self.square = last.square() if self.square is None else self.square.lerp(last.square(), 1 / self.count)
        self.deviations = [*self.deviations, last - _rows_of(self.mean)][-SNAPSHOTS:]

    def evaluation_weights(self) -> Mapping[str, Tensor]:
        """The mean, once there is one."""
        return self.mean

    def select(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Ship the mean."""
        return {**weights, **{name: w.clone() for name, w in self.mean.items()}}

    # posterior --------------------------------------------------------------------------------------------------------
    def finish(self, model: nn.Module) -> None:
        """The posterior at the shipped weights: into the last layer for classes, into a file for values."""
        assert self._view is not None  # noqa: S101 - attach comes first
        head, view = _head(model), self._view
        phi = posterior.with_one(posterior.inputs_of(model, head, view.train.x))
        scores = evaluator.scores(model, view.train.x)
        if view.regression:
            self._files[POSTERIOR] = self._of_values(head, phi, scores, view.train.y)
            return
        if self.config.method == "swag":
            factor, diagonal = self._of_path()
        else:
            sigma = posterior.covariance(phi, torch.softmax(scores.double(), -1), self.config.prior_precision)
            factor = posterior.factors(sigma, head.out_features)
            diagonal = phi.new_zeros(head.out_features, phi.shape[1])
        model.add_module(HEAD, posterior.ProbitHead(head, factor, diagonal))

    def _of_path(self) -> tuple[Tensor, Tensor]:
        """SWAG's covariance, half diagonal and half low rank (Maddox et al. 2019, equation 1): (d, outputs, rank), (outputs, d)."""
        assert self.square is not None  # noqa: S101 - the last quarter has at least one snapshot
        spread = (self.square - _rows_of(self.mean).square()).clamp_min(0)
        path = torch.stack(self.deviations, dim=-1) / (2 * max(len(self.deviations) - 1, 1)) ** 0.5
        return path.permute(1, 0, 2).contiguous(), spread / 2

    def _of_values(self, head: nn.Linear, phi: Tensor, scores: Tensor, y: Tensor) -> bytes:
        """Residual variance times the covariance at unit variance: mean (d,), covariance (d, d), noise (1,)."""
        noise = (scores.squeeze(-1) - y).double().square().mean()
        if self.config.method == "swag":
            factor, diagonal = self._of_path()
            sigma = factor[:, 0] @ factor[:, 0].T + torch.diag(diagonal[0])
        else:
            sigma = noise * posterior.covariance(phi, None, self.config.prior_precision)
        mean = torch.cat([head.weight[0], head.bias]).detach()
        told = {"mean": mean, "covariance": sigma, "noise": noise.reshape(1)}
        return save({name: tensor.float().cpu().contiguous() for name, tensor in told.items()})

    def package(self) -> Mapping[str, bytes]:
        """posterior.safetensors, for values."""
        return self._files

    def notes(self) -> dict[str, Any]:
        """What the prior weighs, and how many weights the mean is of."""
        return {"strength": self.strength(), **({"snapshots": self.count} if self.config.method == "swag" else {})}

    def state_dict(self) -> dict[str, Any]:
        """Counts, mean and spread."""
        spread = {} if self.square is None else {"square": self.square}
        return {"seen": self.seen, "count": self.count, "mean": self.mean, "deviations": self.deviations, **spread}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse."""
        self.seen, self.count, self.mean = state["seen"], state["count"], dict(state["mean"])
        self.deviations, self.square = list(state["deviations"]), state.get("square")


def _head(model: nn.Module) -> nn.Linear:
    head = dict(model.named_children()).get(HEAD)
    if not isinstance(head, nn.Linear) or head.bias is None:
        raise InvalidConfigError(
            f"regularizers.bayesian.method: the network has no linear last layer called {HEAD} with a bias; name it so, or use map"
        )
    return head


def _rows_of(weights: Mapping[str, Tensor]) -> Tensor:
    """The last layer's weights and bias (outputs, inputs + 1)."""
    return torch.cat([weights[f"{HEAD}.weight"], weights[f"{HEAD}.bias"].unsqueeze(1)], dim=1)
