"""The plug-in contract: one regularizer is one file that registers one class, and everything it may do is a hook below.

Order is never the user's business: the engine walks the stages PLAN → SURGERY → DATA → LOSS → GRAD → STEP → EPOCH → SELECT → POST →
PACKAGE, and within a stage the blocks by their `order`. A class overrides the hooks it needs; hooks that nobody overrides cost
nothing in the loop. Torch is imported by the files that use it, never here: classical engines start without it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, Protocol, TypeVar

from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.peers import Sharing
from espalier_trainer.preprocessing.scaling import UNITS
from espalier_trainer.targets import Selector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import numpy as np
    import numpy.typing as npt
    from torch import Tensor, nn

    from espalier_trainer.export.graph import Graph
    from espalier_trainer.schedule import Coefficient


class Stage(IntEnum):
    """When a block acts. The numbers are the order."""

    PLAN = 0
    SURGERY = 1
    DATA = 2
    LOSS = 3
    GRAD = 4
    STEP = 5
    EPOCH = 6
    SELECT = 7
    POST = 8
    PACKAGE = 9


# Positions within a stage: what must come before what, whoever adds a file later.
FIRST: Final = 0
MIDDLE: Final = 50
LAST: Final = 100


@dataclass(frozen=True, slots=True)
class PlanContext:
    """What is known before anything is built; `plan` refuses by raising InvalidConfigError."""

    regression: bool
    classes: int
    features: tuple[str, ...]
    rows: int
    epochs: int
    steps_per_epoch: int
    optimizer: str
    target_scale: float  # standard deviation of the target in its own unit; 1 for classification
    splits: frozenset[str]  # names of the splits that have rows
    declared: frozenset[str]  # names of all declared blocks
    batch_size: int = 0
    blocks: Mapping[str, Any] = field(default_factory=dict)  # configs of all declared blocks
    groups: frozenset[str] = frozenset()  # group columns that rows carry
    extra: frozenset[str] = frozenset()  # blocks that got a dataset of their own (safety)
    references: Mapping[str, Reference] = field(default_factory=dict)  # by the name that blocks use for them
    class_counts: tuple[int, ...] = ()  # training rows of each class
    location: npt.NDArray[np.float32] | None = None  # (features,): raw x = x * scale + location; None: x is raw
    scale: npt.NDArray[np.float32] | None = None
    unit: str = UNITS["standard"]  # what 1 is in x, in words
    image: tuple[int, int, int] | None = None  # channels, height, width, where features are pixels


@dataclass(frozen=True, slots=True)
class Reference:
    """Another fitted model: a teacher, a prior, the previous version. Verified, and compatible as far as the manifest tells (R33).

    `scores` are its outputs on this job's rows, per split: log-probabilities (rows, classes) or values (rows, 1) standardized like our
    own target. `weights` by parameter name are empty for models that are not networks; `arrays` are what its blocks left
    for later tasks (a Fisher diagonal).
    """

    uri: str
    digest: str
    same_preprocessing: bool  # its preprocessor is ours: only then do weights mean the same
    scores: Mapping[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    weights: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    arrays: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)


@dataclass(slots=True)
class Batch:
    """One batch on the device: `x` (rows, features) standardized, `y` (rows,) class index or value, or (rows, classes) shares.

    Everything else is row-aligned too. Change it by `dataclasses.replace`, so that what other blocks put there stays.
    """

    x: Tensor
    y: Tensor
    weight: Tensor | None = None
    index: Tensor | None = None  # (rows,) position among the training rows; None once rows were blended
    groups: Mapping[str, Tensor] = field(default_factory=dict)  # column: (rows,) group code
    extra: Mapping[str, Tensor] = field(default_factory=dict)  # by block name; floats are blended with x (batchMixing)


@dataclass(frozen=True, slots=True)
class Step:
    """Where the fit is. `index` counts all optimizer steps from 0; `seed` is this step's own."""

    index: int
    epoch: int
    total: int
    seed: int

    @property
    def fraction(self) -> float:
        """Done part of the fit, 0 at the first step, 1 at the last."""
        return self.index / max(self.total - 1, 1)


@dataclass(slots=True)
class Params:
    """Selected parameters of the model; the lists are parallel."""

    names: list[str]
    values: list[Tensor]

    @property
    def grads(self) -> list[Tensor]:
        """Their gradients; exist after backward."""
        return [p.grad for p in self.values if p.grad is not None]


@dataclass(slots=True)
class FitView:
    """What a block may use of the fit it takes part in; `attach` gets it once, after all surgery and before the first step."""

    model: nn.Module
    parameters: Mapping[str, nn.Parameter]
    train: Batch  # all training rows
    extra: Mapping[str, Batch]  # whole datasets by block name (safety)
    forward: Callable[[Tensor], Tensor]  # x (rows, features) to scores, in the model's current mode, with autocast
    rows: Callable[[Tensor, Batch], Tensor]  # (scores, batch) to the data loss of each row (rows,) that is in force
    objective: Callable[[Batch, Step], tuple[Tensor, Tensor]]  # data loss and weighted terms (scalars) of any batch
    recording: Callable[[], bool]  # True during the batch's own forward pass: what modules remember belongs to it
    regression: bool
    classes: int
    total: int  # optimizer steps of the whole fit
    steps_per_epoch: int
    seed: int
    batch: Batch | None = None  # of the step being taken, after DATA
    validation: Batch | None = None


class ScoreTransform(Protocol):
    """What POST does to scores before they become probabilities; the same numbers in numpy and in the exported graph."""

    def apply(self, scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Scores (rows, outputs) to scores of the same shape."""
        ...

    def graph(self, graph: Graph, scores: str) -> str:
        """The same as ONNX nodes; returns the output's name."""
        ...


@dataclass(frozen=True, slots=True)
class EpochReport:
    """What EPOCH hooks judge: evaluation mode, unpenalised, on the validation split with the weights that would be shipped."""

    epoch: int  # counted from 0
    loss: float
    metric: float  # accuracy, or R2 for regression: larger is better
    scores: npt.NDArray[np.float64]  # (rows, classes) logits or (rows, 1) values
    y: npt.NDArray[Any]
    settled: bool = True  # False: some block is not done with the model, so this epoch is no candidate


@dataclass(slots=True)
class PostContext:
    """What POST hooks work on: final scores per split and what the packaged graph does after the network."""

    scores: Mapping[str, npt.NDArray[np.float64]]  # per split name: (rows, classes) logits or (rows, 1) values
    y: Mapping[str, npt.NDArray[Any]]
    temperature: float = 1.0  # applied after the transforms
    notes: dict[str, Any] = field(default_factory=dict)  # goes into metrics.json
    transforms: list[ScoreTransform] = field(default_factory=list)  # in order; a block that appends calls `transform`
    files: dict[str, bytes] = field(default_factory=dict)  # more files of the artifact, by name
    x: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)  # per split: standardized features
    min_confidence: float | None = None  # below it the server does not answer

    def transform(self, transform: ScoreTransform) -> None:
        """Append a transform; blocks after this one see its effect in `scores`."""
        self.transforms.append(transform)
        self.scores = {name: transform.apply(scores) for name, scores in self.scores.items()}


class StepView:
    """What STEP hooks may know of the optimizer: learning rate now, and the step size that one parameter's elements get."""

    learning_rate: float = 0.0

    def step_size(self, parameter: Tensor) -> Tensor | float:
        """Effective step per unit of a constant gradient, scalar or elementwise like `parameter`."""
        raise NotImplementedError


C = TypeVar("C")


class Regularizer(Generic[C]):
    """Base of every block; all hooks do nothing until overridden. One instance per fit: state lives in attributes."""

    name: ClassVar[str]
    stage: ClassVar[Stage]
    order: ClassVar[int] = MIDDLE
    annealed: ClassVar[str | None] = None  # the config field that `schedule` scales; None: a schedule is refused
    in_objective: ClassVar[bool] = True  # False: acts apart from the objective (decay), so it has no share of it
    sharing: ClassVar[Sharing] = Sharing.REFUSED
    selects: str | None = "parameters"  # what `target` globs over: parameters | layers | features; None: refused

    def __init__(self, config: C) -> None:
        self.config = config
        self.factors = False  # surgery puts factors in place of weights: before any other parametrization
        self.selector = Selector.of(
            getattr(config, "target", None), **({} if self.selects == "parameters" else {"default_exclude": ()})
        )

    def acts(self, hook: str) -> bool:
        """True when this block takes part in `hook`: its class defines it. A block whose config decides narrows this down."""
        return getattr(type(self), hook) is not getattr(Regularizer, hook)

    def shared(self) -> Sharing:
        """How several processes may train it; a block whose config decides narrows `sharing` down."""
        return self.sharing

    def strength(self) -> float:
        """The declared value of the annealed field; 1 when nothing can be annealed."""
        return float(getattr(self.config, self.annealed)) if self.annealed else 1.0

    # PLAN ---------------------------------------------------------------------------------------------------------
    def plan(self, context: PlanContext) -> None:
        """Refuse what cannot work with this task, data or optimizer, before anything is spent."""

    # SURGERY ------------------------------------------------------------------------------------------------------
    def surgery(self, model: nn.Module, coefficient: Coefficient) -> None:
        """Change modules in place; called once, before the optimizer exists."""

    def attach(self, view: FitView) -> None:
        """Keep what the hooks below need of the fit (its `forward`, references, other rows). Nothing in it is state."""

    # DATA ---------------------------------------------------------------------------------------------------------
    def draw(self, seed: int, rows: int) -> npt.NDArray[np.int64]:
        """The training rows of one epoch in order, (rows,), a function of `seed` alone. At most one block of a job overrides it."""
        raise NotImplementedError

    def batch(self, batch: Batch, step: Step, coefficient: Coefficient) -> Batch:
        """Change the batch; randomness comes from torch's generator, which is seeded by the step."""
        raise NotImplementedError

    # LOSS ---------------------------------------------------------------------------------------------------------
    def data_loss(self, scores: Tensor, batch: Batch, coefficient: Coefficient) -> Tensor:
        """Per-row data loss (rows,) that replaces the plain one. At most one block of a job overrides it."""
        raise NotImplementedError

    def adjust_scores(self, scores: Tensor, batch: Batch, coefficient: Coefficient) -> Tensor:
        """Scores (rows, outputs) as the data loss sees them in training (logit adjustment, margins). Evaluation sees plain ones."""
        raise NotImplementedError

    def mix_loss(self, rows: Tensor, scores: Tensor, batch: Batch, coefficient: Coefficient) -> Tensor:
        """Per-row losses (rows,) made from the per-row losses so far: shares of other losses, weights of rows. Chained in order."""
        raise NotImplementedError

    def loss_terms(self, scores: Tensor, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Terms added to the data loss, before their coefficient: scalars, fp32 or better."""
        raise NotImplementedError

    # GRAD ---------------------------------------------------------------------------------------------------------
    def backward(self, objective: Tensor, batch: Batch, step: Step) -> None:
        """Set every `.grad` in place of plain backward (per-example gradients). At most one block of a job overrides it."""
        raise NotImplementedError

    def penalty_grad(self, params: Params, coefficient: Coefficient) -> None:
        """Add the penalty's gradient, coefficient included, to each `.grad` in place."""
        raise NotImplementedError

    def penalty_value(self, params: Params) -> Tensor:
        """The penalty before its coefficient (scalar, on device). Asked only on logged steps: it reads every weight."""
        raise NotImplementedError

    def transform_grad(self, params: Params, step: Step, coefficient: Coefficient) -> None:
        """Change complete gradients in place (clip, noise)."""
        raise NotImplementedError

    # STEP ---------------------------------------------------------------------------------------------------------
    def before_step(self, params: Params, view: StepView, coefficient: Coefficient) -> None:
        """Change weights before the optimizer moves them (decay)."""
        raise NotImplementedError

    def after_step(self, params: Params, view: StepView, coefficient: Coefficient) -> None:
        """Prox, projection, masks, averages."""
        raise NotImplementedError

    # EPOCH, SELECT, POST, PACKAGE -----------------------------------------------------------------------------------
    def evaluation_weights(self) -> Mapping[str, Tensor]:
        """Weights that would be shipped if they are not the model's own (an average)."""
        raise NotImplementedError

    def constrain(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """What this block guarantees of shipped weights, whoever made them (masks on an average); by name, as in `select`."""
        raise NotImplementedError

    def unsettled(self) -> bool:
        """True while the block has not yet made of the model what it declares (a pruning ramp): no epoch before that is shipped."""
        raise NotImplementedError

    def end_epoch(self, report: EpochReport, weights: Mapping[str, Tensor]) -> bool:
        """Look at the validation result and the weights behind it; True stops the fit."""
        raise NotImplementedError

    def select(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Choose the weights to ship (parameters and buffers by name); gets those that the block before chose."""
        raise NotImplementedError

    def finish(self, model: nn.Module) -> None:
        """After the selected weights are in the model: remove parametrizations, shrink layers. Called last block first."""
        raise NotImplementedError

    def members(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Scores (K, rows, outputs) of K members or samples on standardized rows: what M4, the spread of one fit, is measured on."""
        raise NotImplementedError

    def post(self, context: PostContext) -> None:
        """Work on the final scores (calibrate, choose thresholds)."""
        raise NotImplementedError

    def package(self) -> Mapping[str, bytes]:
        """More files for the artifact, by name."""
        raise NotImplementedError

    # STATE --------------------------------------------------------------------------------------------------------
    def notes(self) -> dict[str, Any]:
        """What a person wants to know afterwards (best epoch, zeros reached); goes into regularizers.json."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed fit needs: tensors, numbers, text, lists and dicts of them."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse."""


R = TypeVar("R", bound="type[Regularizer[Any]]")
REGISTRY: Final[dict[str, type[Regularizer[Any]]]] = {}


def register(cls: R) -> R:
    """Class decorator: make a block known under its `name`. A name is given once."""
    if cls.name in REGISTRY and REGISTRY[cls.name].__module__ != cls.__module__:
        raise ValueError(
            f"regularizer {cls.name!r} is registered by {REGISTRY[cls.name].__module__} and {cls.__module__}"
        )
    REGISTRY[cls.name] = cls
    return cls


def lookup(name: str) -> type[Regularizer[Any]]:
    """The class behind a block's name; its file is regularizers/<snake_case name>.py. R38: what no file implements is refused."""
    if name not in REGISTRY:
        module = f"{__package__}.regularizers.{snake_case(name)}"
        try:
            import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
            raise InvalidConfigError(
                f"R38: regularizers.{name}: this trainer does not implement the block, and a declared block is never ignored. "
                "Remove it or use an image that has it"
            ) from None
    return REGISTRY[name]


def snake_case(name: str) -> str:
    """`labelSmoothing` → `label_smoothing`."""
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name)


def ordered(blocks: Iterable[Regularizer[Any]]) -> list[Regularizer[Any]]:
    """In stage order, then by `order`, then by name: the same whatever order a user wrote."""
    return sorted(blocks, key=lambda b: (b.stage, b.order, b.name))


def acting(blocks: Iterable[Regularizer[Any]], hook: str) -> list[Regularizer[Any]]:
    """The blocks that take part in `hook`, ordered."""
    return ordered(b for b in blocks if b.acts(hook))
