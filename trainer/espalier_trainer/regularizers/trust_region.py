"""Trust region: a fit that starts at the reference and is never further from it than `radius`. l2ball: after every step the chosen
weights are projected onto ||w - w0|| <= radius, up to their own rounding. kl: after every step mean KL(reference || ours) on the
batch, in evaluation mode, is at most radius: the update is halved until it is (backtracking, Schulman et al. 2015, appendix C), and
where even the weights before it are too far on this batch, they are halved back towards the reference. For values KL is half the
squared difference (unit variance).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from espalier_api.regularizers import TrustRegion as TrustRegionConfig
from espalier_trainer import references
from espalier_trainer.engines.torch import evaluator, transfer
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.peers import Sharing
from espalier_trainer.protocol import (
    FitView,
    Params,
    PlanContext,
    Reference,
    Regularizer,
    Stage,
    StepView,
    register,
)
from espalier_trainer.targets import Selector

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from espalier_trainer.schedule import Coefficient

AFTER_PROX: Final = 60
HALVINGS: Final = 10


@register
class TrustRegion(Regularizer[TrustRegionConfig]):
    """Projection after the optimizer and any prox, before masks and averages."""

    name = "trustRegion"
    stage = Stage.STEP
    sharing = Sharing.EXACT
    order = AFTER_PROX
    in_objective = False

    def __init__(self, config: TrustRegionConfig) -> None:
        super().__init__(config)
        if config.kind == "kl":
            self.selector = Selector()  # predictions hang on all weights
        self._reference: Reference | None = None
        self._view: FitView | None = None
        self._start: dict[str, Tensor] = {}
        self._state: dict[str, Tensor] = {}
        self._before: list[Tensor] = []
        self.steps, self.bounded = 0, 0

    def strength(self) -> float:
        """The radius, for the log."""
        return self.config.radius

    def acts(self, hook: str) -> bool:
        """Nothing to stay near in a first version; only kl needs the weights before the step."""
        return (
            super().acts(hook) and self._reference is not None and (hook != "before_step" or self.config.kind == "kl")
        )

    def plan(self, context: PlanContext) -> None:
        """kl bounds the weights that were stepped to: of all parameters, and not of an average of them."""
        self._reference = references.of(context, self.name, self.config.reference)
        if self.config.kind == "l2ball":
            return
        if self.config.target is not None:
            raise InvalidConfigError(
                "regularizers.trustRegion.target: kind kl bounds predictions, which hang on all weights; "
                "remove target, or use kind: l2ball"
            )
        if averaging := sorted({"weightAveraging", "bayesian"} & context.declared):
            raise InvalidConfigError(
                f"regularizers.trustRegion.kind: kl bounds each step and not what {averaging[0]} makes of them; use l2ball, whose "
                f"ball holds every average, or remove {averaging[0]}"
            )

    def attach(self, view: FitView) -> None:
        """Start at the reference."""
        assert self._reference is not None  # noqa: S101 - acts() said so
        self._view = view
        self._start = transfer.start_at(self._reference, view, self.name)
        self._state = (
            {n: t.clone() for n, t in evaluator.state_of(view.model).items()} if self.config.kind == "kl" else {}
        )

    def before_step(self, params: Params, view: StepView, coefficient: Coefficient) -> None:
        """Where the update starts."""
        self._before = [p.detach().clone() for p in params.values]

    def after_step(self, params: Params, view: StepView, coefficient: Coefficient) -> None:
        """Back into the region."""
        if self.config.kind == "kl":
            self._backtrack(params)
            return
        centre = [self._start[n] for n in params.names]
        away = list(torch._foreach_sub(params.values, centre))  # noqa: SLF001 - torch's own fused form
        length = transfer.norm(away)
        share = (self.config.radius / length.clamp_min(torch.finfo(length.dtype).tiny)).clamp_max(1.0)
        for p, c, a in zip(params.values, centre, away, strict=True):
            p.copy_(torch.where(share < 1, c + share * a, p))

    def _backtrack(self, params: Params) -> None:
        """The longest halving of the update that stays inside. Asks for one number per try: the price of a bound that holds."""
        after = [p.detach().clone() for p in params.values]
        self.steps += 1
        if self._apart() <= self.config.radius:
            return
        self.bounded += 1
        for origin, end in ((self._before, after), ([self._start[n] for n in params.names], self._before)):
            for share in (*(0.5**k for k in range(HALVINGS)), 0.0):
                for p, a, b in zip(params.values, origin, end, strict=True):
                    p.copy_(a if share == 0 else a.lerp(b, share))
                if self._apart() <= self.config.radius:
                    return

    def _apart(self) -> float:
        """Mean KL(reference || ours) on the rows of the step."""
        assert self._view is not None  # noqa: S101 - attach comes first
        assert self._view.batch is not None  # noqa: S101 - a step has a batch
        x = self._view.batch.x
        return float(apart(evaluator.scores(self._view.model, x, self._state), evaluator.scores(self._view.model, x)))

    def notes(self) -> dict[str, Any]:
        """How often the region bound; always for l2ball means a radius that decides the fit."""
        if self._reference is None:
            return {"reference": "none: this is the first version"}
        told: dict[str, Any] = {"reference": self._reference.digest}
        return told | ({"bounded": self.bounded, "steps": self.steps} if self.config.kind == "kl" else {})

    def state_dict(self) -> dict[str, Any]:
        """Counts."""
        return {"steps": self.steps, "bounded": self.bounded}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse."""
        self.steps, self.bounded = state["steps"], state["bounded"]


def apart(reference: Tensor, ours: Tensor) -> Tensor:
    """Mean KL of predictions, from scores (rows, classes), or of unit-variance Gaussians around values (rows, 1)."""
    if ours.shape[-1] == 1:
        return 0.5 * (ours - reference).square().mean()
    return transfer.divergence(transfer.softened(reference, 1.0), ours, 1.0).mean()
