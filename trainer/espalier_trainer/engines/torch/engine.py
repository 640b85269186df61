"""`engine.torch`: from the API's words to a Fit, and from a Fit to scores and graph nodes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from espalier_api.regularizers import Regularizers
from espalier_api.rules.privacy import private_normalization
from espalier_trainer import peers, rng
from espalier_trainer.engines.torch import architectures, losses, measure
from espalier_trainer.engines.torch.convert import append
from espalier_trainer.engines.torch.evaluator import BATCH_NORMS
from espalier_trainer.engines.torch.layers import on_device
from espalier_trainer.engines.torch.loop import Fit
from espalier_trainer.engines.torch.optimizers import OptimizerSpec
from espalier_trainer.engines.torch.tensors import Settings, Tensors, as_numpy, seed_generators, steps_per_epoch
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.machine import cpu_limit, threads_for
from espalier_trainer.peers import Sharing
from espalier_trainer.protocol import Batch, PlanContext, Regularizer, acting, lookup
from espalier_trainer.schedule import ConstantRate, CosineRate, LearningRate, StepRate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt
    from torch import Tensor, nn

    from espalier_api.engines import TorchEngine as TorchConfig
    from espalier_api.regularizers import Block
    from espalier_trainer.engines import FitData, FitReport, Part
    from espalier_trainer.export.graph import Graph
    from espalier_trainer.peers import Peers
    from espalier_trainer.session import Session

PRECISIONS: Final = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def build(config: TorchConfig, regularizers: Mapping[str, Block]) -> TorchEngine:
    """The engine for a job; with privacy, groups take the place of batches in normalization layers (R1)."""
    declared = Regularizers.model_validate({name: block.dump() for name, block in regularizers.items()})
    return TorchEngine(config, dict(private_normalization(declared).declared()))


class TorchEngine:
    """Networks by gradients."""

    resumable = True

    def __init__(self, config: TorchConfig, regularizers: Mapping[str, Block]) -> None:
        self.config, self.regularizers = config, regularizers
        self.framework = f"torch {torch.__version__.split('+')[0]}"
        self._context: PlanContext | None = None
        make_deterministic()
        self.peers = peers.current()
        gpu = torch.device("cuda", self.peers.place.local % max(torch.cuda.device_count(), 1))
        self.device = gpu if torch.cuda.is_available() else torch.device("cpu")

    @property
    def world(self) -> str:
        """What bit-equality is promised for."""
        together = f", {self.peers.size} processes" if self.peers.size > 1 else ""
        return f"torch {torch.__version__}, {self.device.type}, {torch.get_num_threads()} threads{together}"

    def plan(self, data: FitData) -> None:
        """Every block has a file and agrees; the architecture and the precision exist here."""
        if self.config.precision == "fp16" and "privacy" in self.regularizers:
            raise InvalidConfigError(
                "engine.torch.precision: fp16 scales the gradient of a batch, and privacy needs one per row; use bf16 or fp32"
            )
        steps = steps_per_epoch(len(data.train), self.config.batch_size)
        self._context = PlanContext(
            regression=not data.classes,
            classes=data.classes,
            features=data.features,
            rows=len(data.train),
            epochs=self.config.epochs,
            steps_per_epoch=steps,
            optimizer=next(iter(self.config.optimizer.dump())),
            target_scale=data.target_scale,
            splits=data.splits,
            declared=frozenset(self.regularizers),
            batch_size=min(self.config.batch_size, len(data.train)),
            blocks=self.regularizers,
            groups=frozenset(data.train.groups),
            extra=frozenset(data.extra),
            references=data.references,
            location=data.location,
            scale=data.scale,
            unit=data.unit,
            image=self._image(),
            class_counts=tuple(np.bincount(data.train.y, minlength=data.classes).tolist()) if data.classes else (),
        )
        model = self._model(data, 0)
        work = measure.flops(model, len(data.features)) // 2 * min(self.config.batch_size, len(data.train))
        torch.set_num_threads(threads_for(work // self.peers.size, cpu_limit() // self.peers.place.locals))
        fit = self._new_fit(model, self._blocks(), data, None, 0)  # targets select something
        refuse_what_is_not_shared(fit.model, fit.blocks, self.peers)

    def _image(self) -> tuple[int, int, int] | None:
        (network,) = architectures.declared(self.config.architecture).values()
        return getattr(network, "image", None)

    def _blocks(self) -> list[Regularizer[Any]]:
        blocks = [lookup(name)(config) for name, config in self.regularizers.items()]
        context = self._context
        assert context is not None  # noqa: S101 - plan comes first
        for block in blocks:
            block.plan(context)
        return blocks

    def _model(self, data: FitData, seed: int) -> nn.Module:
        seed_generators(rng.derive(seed, "init"), torch.device("cpu"))
        model = architectures.build(self.config.architecture, len(data.features), data.outputs, data.tokens)
        begin_at(model, data.start)
        return model.to(self.device)

    def _tensors(self, part: Part) -> Tensors:
        y = on_device(part.y, self.device, torch.int64 if part.y.dtype.kind == "i" else torch.float32)
        weight = None if part.weight is None else on_device(part.weight, self.device, torch.float32)
        groups = {name: on_device(codes, self.device, torch.int64) for name, codes in part.groups.items()}
        return Tensors(on_device(part.x, self.device, torch.float32), y, weight, groups)

    def _new_fit(
        self, model: nn.Module, blocks: list[Regularizer[Any]], data: FitData, validation: Tensors | None, seed: int
    ) -> Fit:
        extra = {name: self._tensors(part) for name, part in data.extra.items()}
        settings = self._settings(data, seed)
        return Fit(model, blocks, self._tensors(data.train), validation, settings, extra, self.peers)

    def _settings(self, data: FitData, seed: int) -> Settings:
        return Settings(
            optimizer=optimizer_spec(self.config),
            rate=learning_rate(self.config),
            epochs=self.config.epochs,
            batch_size=self.config.batch_size,
            seed=seed,
            regression=not data.classes,
            autocast=PRECISIONS[self.config.precision],
        )

    def fit(self, data: FitData, seed: int, session: Session) -> FittedTorch:
        """Train once; resumes when the session holds a state."""
        blocks = self._blocks()
        validation = None if data.validation is None else self._tensors(data.validation)
        fit = self._new_fit(self._model(data, seed), blocks, data, validation, seed)
        fit.run(session)
        for block in blocks:
            fit.report.notes |= {f"{block.name}.{key}": value for key, value in block.notes().items()}
        fit.report.notes["world"] = self.world
        return FittedTorch(fit, blocks)

    def resolved(self) -> dict[str, Any]:
        """Blocks with defaults filled in."""
        return {name: config.dump() for name, config in self.regularizers.items()}

    def post_blocks(self) -> list[Regularizer[Any]]:
        """Blocks that act on final scores."""
        return acting(self._blocks(), "post")


class FittedTorch:
    """A trained network, in evaluation mode."""

    def __init__(self, fit: Fit, blocks: list[Regularizer[Any]]) -> None:
        self._fit, self._blocks = fit, blocks
        self.report: FitReport = fit.report

    def scores(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Standardized features (rows, features) to logits or standardized values."""
        return as_numpy(self._fit.scores(self._tensor(x)))

    def _tensor(self, x: npt.NDArray[np.float32]) -> Tensor:
        return on_device(x, self._fit.train.x.device, self._fit.train.x.dtype)

    def input_gradient(self, x: npt.NDArray[np.float32], y: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Gradient (rows, features) of each row's plain loss by its standardized features, in evaluation mode."""
        inputs = self._tensor(x).requires_grad_()
        targets = on_device(y, inputs.device, torch.int64 if y.dtype.kind == "i" else inputs.dtype)
        scores = self._fit.model(inputs)
        total = losses.per_row(scores, Batch(inputs, targets), regression=targets.is_floating_point()).sum()
        return as_numpy(torch.autograd.grad(total, inputs)[0])

    def member_scores(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float64] | None:
        """Scores (K, rows, outputs) of the members or samples of this fit; None without a block that has some."""
        return next((block.members(x) for block in acting(self._blocks, "members")), None)

    def post_blocks(self) -> list[Regularizer[Any]]:
        """The blocks of this very fit that act on final scores."""
        return acting(self._blocks, "post")

    def graph(self, graph: Graph, standardized: str) -> str:
        """The same function as ONNX nodes."""
        return append(graph, self._fit.model, standardized)

    def weights(self) -> Mapping[str, npt.NDArray[Any]]:
        """Parameters and buffers by name."""
        return {name: value.detach().cpu().numpy() for name, value in self._fit.model.state_dict().items()}

    def files(self) -> Mapping[str, bytes]:
        """What PACKAGE blocks add."""
        return {name: data for block in acting(self._blocks, "package") for name, data in block.package().items()}


@torch.no_grad()
def begin_at(model: nn.Module, start: Mapping[str, npt.NDArray[Any]]) -> None:
    """Copy the weights and buffers that the model has under the same name in the same shape; the others stay as they were drawn."""
    for name, value in model.state_dict().items():
        if name in start and tuple(start[name].shape) == tuple(value.shape):
            value.copy_(torch.as_tensor(start[name]))


def refuse_what_is_not_shared(model: nn.Module, blocks: Sequence[Regularizer[Any]], others: Peers) -> None:
    """R40 and R15 once more, by what blocks and modules are."""
    if others.size == 1:
        return
    for block in blocks:
        if block.shared() is Sharing.REFUSED:
            raise InvalidConfigError(
                f"R40: regularizers.{block.name}: it cannot be shared among {others.size} processes and give what one process gives. "
                f"Set training.nodes and training.processesPerNode to 1, or drop {block.name}"
            )
    for name, module in model.named_modules():
        if isinstance(module, BATCH_NORMS):
            raise InvalidConfigError(
                f"R15: {name} is {type(module).__name__}, and {others.size} processes would each know the statistics of their own rows. "
                "Use normalization.kind group or layer, or train in one process"
            )


def make_deterministic() -> None:
    """Same bits on the same machine: deterministic kernels, and nothing filled that will be written anyway."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def optimizer_spec(config: TorchConfig) -> OptimizerSpec:
    """The API's optimizer in torch's keywords."""
    chosen = config.optimizer
    if chosen.sgd is not None:
        return OptimizerSpec("sgd", {"momentum": chosen.sgd.momentum, "nesterov": chosen.sgd.nesterov})
    adam = chosen.adam or chosen.adamw
    assert adam is not None  # noqa: S101 - the API says exactly one
    return OptimizerSpec("adam" if chosen.adam else "adamw", {"betas": (adam.beta1, adam.beta2)})


def learning_rate(config: TorchConfig) -> LearningRate:
    """The API's schedule as a function of the done fraction."""
    (settings,) = (o for o in (config.optimizer.sgd, config.optimizer.adam, config.optimizer.adamw) if o is not None)
    rate, schedule = settings.learning_rate, config.schedule
    if schedule is not None and schedule.cosine is not None:
        return CosineRate(rate, schedule.cosine.warmup, schedule.cosine.final)
    if schedule is not None and schedule.step is not None:
        return StepRate(rate, schedule.step.every / config.epochs, schedule.step.factor)
    return ConstantRate(rate)
