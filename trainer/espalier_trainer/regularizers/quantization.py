"""Quantization: weights in `bits` bits, their inputs in 8 (formulas: engines/torch/rounding.py; Jacob et al. 2018).

static: after the fit, the ranges of inputs are the least and largest values on calibration rows. dynamic: each row has its own
range. qat: from `startEpoch` on the network is trained as it will be rounded, with straight-through gradients; ranges are moving
averages of each batch's (constant 0.01, as torch's MovingAverageMinMaxObserver), and for the network that is shipped they
are measured anew on training rows, because an average of weights or an earlier epoch's has other activations (R23).

What follows the fit (calibration, metrics, gates, parity) sees the rounded network: it is the one that is served.
The last layer stays in floats unless `target` names it; with fewer than 8 bits, weights are stored in 8.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from espalier_api.regularizers import Quantization as QuantizationConfig
from espalier_api.rules import at_run_time as rules
from espalier_trainer.engines.torch import rounding
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.peers import Sharing
from espalier_trainer.protocol import LAST, Batch, FitView, PlanContext, Regularizer, Stage, Step, register

if TYPE_CHECKING:
    from collections.abc import Mapping

    from espalier_trainer.schedule import Coefficient

CALIBRATION_ROWS: Final = 256
QAT_ROWS: Final = 4096  # the ranges of what was trained rounded: more rows cost milliseconds
QAT_START: Final = 0.7
MOVING: Final = 0.01
HEAD: Final = "head"


@register
class Quantization(Regularizer[QuantizationConfig]):
    """Every selected linear map and convolution."""

    name = "quantization"
    stage = Stage.SURGERY
    sharing = Sharing.EXACT
    order = LAST + 50  # outermost: what is rounded is the weight that other blocks have made
    selects = "parameters"

    def __init__(self, config: QuantizationConfig) -> None:
        super().__init__(config)
        self.trained = config.mode == "qat"
        self.active = False
        self.weights: dict[str, rounding.RoundedWeight] = {}
        self.ranges: dict[str, Tensor] = {}  # by layer: least and largest input, moving averages
        self._hooks: list[Any] = []
        self._rows: Tensor | None = None
        self._view: FitView | None = None
        self._layers: list[str] = []
        self._model: nn.Module | None = None

    def shared(self) -> Sharing:
        """Ranges of activations in training would be those of own rows."""
        return Sharing.REFUSED if self.trained else self.sharing

    def acts(self, hook: str) -> bool:
        """Only qat takes part in training."""
        return super().acts(hook) and (self.trained or hook != "batch")

    def plan(self, context: PlanContext) -> None:
        """Calibration needs its rows (R22), and an exponential average the steps to forget the time before rounding (R23)."""
        wanted, averaging = self.config.calibration_samples, context.blocks.get("weightAveraging")
        findings = () if wanted is None else rules.check_ranges(wanted, context.rows)
        if self.trained and averaging is not None and averaging.kind == "ema":
            total = context.epochs * context.steps_per_epoch
            findings += rules.check_average_window(averaging.decay, total - math.ceil(self._start() * total))
        for finding in findings:
            raise InvalidConfigError(f"{finding.rule}: {finding.field}: {finding.message}. {finding.remedy}")

    def _start(self) -> float:
        return QAT_START if self.config.start_epoch is None else self.config.start_epoch

    # --- fit --------------------------------------------------------------------------------------------------------
    def surgery(self, model: nn.Module, coefficient: Coefficient) -> None:
        """Choose layers; qat puts simulated rounding around each weight and before each layer."""
        self._layers = self._chosen(model)
        if not self.trained:
            return
        for name in self._layers:
            module = model.get_submodule(name)
            self.weights[name] = rounding.RoundedWeight(self.config.bits, per_channel=self.config.per_channel)
            parametrize.register_parametrization(module, "weight", self.weights[name])
            self._hooks.append(module.register_forward_pre_hook(partial(self._simulate, name)))

    def _chosen(self, model: nn.Module) -> list[str]:
        able = rounding.candidates(model)
        wanted = [f"{name}.weight" for name in able]
        if self.config.target is None or self.config.target.include is None:
            wanted = [name for name in wanted if name != f"{HEAD}.weight"]
        else:
            named = (name for name, p in model.named_parameters() if p.dim() > 1 and self.selector.takes(name))
            if unable := [n for n in named if rounding.parameter_layer(n) not in able]:
                raise InvalidConfigError(
                    f"regularizers.{self.name}.target: {', '.join(unable[:5])} cannot be rounded; only weights of linear "
                    "maps and of convolutions with zero padding, outside of attention, can"
                )
        return [
            n.removesuffix(".weight") for n in self.selector.choose(wanted, self.name, "weight that can be rounded")
        ]

    def attach(self, view: FitView) -> None:
        """Keep the rows that ranges will be measured on, evenly spaced. What pruning put around a weight goes below rounding (R16)."""
        self._view = view
        for name, rounded in self.weights.items():
            rounding.outermost(view.model.get_submodule(name), rounded)
        limit = QAT_ROWS if self.trained else self.config.calibration_samples or CALIBRATION_ROWS
        rows = len(view.train.x)
        self._rows = view.train.x[torch.linspace(0, rows - 1, min(limit, rows)).long().to(view.train.x.device)]

    def batch(self, batch: Batch, step: Step, coefficient: Coefficient) -> Batch:
        """Rounding starts at its step."""
        self._set(active=step.index >= self._start() * step.total)
        return batch

    def _set(self, *, active: bool) -> None:
        self.active = active
        for weight in self.weights.values():
            weight.active = active

    def _simulate(self, name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """A layer's input as it will be rounded; ranges move with the batch's own pass and with no other."""
        if not self.active:
            return None
        x = inputs[0]
        if module.training and self._view is not None and self._view.recording():
            with torch.no_grad():
                now = torch.stack([x.amin(), x.amax()]).to(self._view.train.x.dtype)
                self.ranges[name] = torch.lerp(self.ranges[name], now, MOVING) if name in self.ranges else now
        if name not in self.ranges:
            return None
        low, high = self.ranges[name].unbind()
        return (rounding.rounded_input(x, rounding.range_of(low, high)), *inputs[1:])

    # --- the network that is shipped ----------------------------------------------------------------------------------
    def finish(self, model: nn.Module) -> None:
        """Put the layers in integers and measure the ranges of their inputs with the weights that were chosen."""
        for hook in self._hooks:
            hook.remove()
        self._set(active=False)
        for name in self._layers:
            original: Any = model.get_submodule(name)
            seen = self.weights[name].seen if name in self.weights else None
            if seen is not None and seen.shape == original.weight.shape:
                with torch.no_grad():
                    original.weight.copy_(seen)  # baked were the rounded ones
            layer = rounding.Rounded(original, self.config.bits, per_channel=self.config.per_channel)
            rounding.replace(model, name, layer.train(model.training))
        if self.config.mode != "dynamic":
            self._measure(model)
        self._model = model

    def _measure(self, model: nn.Module) -> None:
        assert self._rows is not None  # noqa: S101 - attach comes first
        layers = rounding.installed(model).values()
        for layer in layers:
            layer.observing = True
        with torch.no_grad():
            model(self._rows)
        for layer in layers:
            layer.observing = False
            assert layer.bounds is not None  # noqa: S101 - the pass above went through it
            layer.known = rounding.range_of(*layer.bounds)

    def notes(self) -> dict[str, Any]:
        """Which layers, how far the weights moved, and the largest singular value of what they became (R17)."""
        if self._model is None:
            return {}
        layers = rounding.installed(self._model)
        known = {name for name, p in self._model.named_parameters() if p.dim() > 1}
        return {
            "bits": self.config.bits,
            "storedBits": 8,
            "layers": list(layers),
            "inFloats": sorted(known - {f"{name}.weight" for name in layers}),
            "weightErrorInSteps": max(layer.error for layer in layers.values()),
            "sigma": {
                name: float(torch.linalg.matrix_norm(layer.rounded_weight().detach().flatten(1), 2))
                for name, layer in layers.items()
            },
        }

    # --- state ------------------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """Ranges."""
        return {"ranges": self.ranges, "active": self.active}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse."""
        self.ranges = dict(state["ranges"])
        self._set(active=state["active"])
