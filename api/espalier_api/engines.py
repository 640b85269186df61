"""Engines behind one vocabulary: torch, scikit-learn, XGBoost. A block that an engine cannot honour is refused (R38), never ignored."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, WithJsonSchema

from espalier_api.base import ApiModel, Cel, exactly_one

Width = Annotated[int, Field(ge=1, le=65_536)]
Scalar = Annotated[int | float | str | bool, WithJsonSchema({"x-kubernetes-preserve-unknown-fields": True})]
"""A JSON scalar whose type the estimator knows."""
ParameterName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]


class Mlp(ApiModel):
    """Fully connected layers. Without hidden layers it is a linear (logistic) model."""

    hidden: tuple[Width, ...] = Field(default=(256, 256), max_length=32)
    """Width of each hidden layer."""
    activation: Literal["relu", "gelu", "silu", "tanh", "selu"] = "relu"
    """Between layers."""
    residual: bool = False
    """Add the input of each hidden layer of equal width to its output (needed for stochasticDepth)."""


class Cnn(ApiModel):
    """Convolutions over features that are pixels in row-major order."""

    image: tuple[Width, Width, Width]
    """Channels, height, width; their product is the number of features."""
    channels: tuple[Width, ...] = Field(default=(32, 64), min_length=1, max_length=32)
    """Channels of each stage; stages halve the resolution while it stays above 2."""
    kernel: int = Field(default=3, ge=1, le=15)
    """Edge of each kernel."""
    hidden: tuple[Width, ...] = Field(default=(128,), max_length=8)
    """Fully connected layers after the last stage."""


class ResNet(ApiModel):
    """Residual convolutions (He et al. 2016) over features that are pixels in row-major order."""

    image: tuple[Width, Width, Width]
    """Channels, height, width."""
    blocks: tuple[Annotated[int, Field(ge=1, le=64)], ...] = Field(default=(2, 2, 2), min_length=1, max_length=8)
    """Residual blocks per stage."""
    width: Width = 32
    """Channels of the first stage; each stage doubles them."""


class TabularTransformer(ApiModel):
    """Attention over features (FT-Transformer, Gorishniy et al. 2021)."""

    dim: int = Field(default=64, ge=8, le=4096)
    """Size of a feature's token."""
    depth: int = Field(default=3, ge=1, le=48)
    """Layers."""
    heads: int = Field(default=4, ge=1, le=64)
    """Attention heads; divides dim."""

    cel = (
        Cel(
            rule="(has(self.dim) ? self.dim : 64) % (has(self.heads) ? self.heads : 4) == 0",
            message="tabularTransformer: heads must divide dim",
            holds=lambda model: model.dim % model.heads == 0,
        ),
    )


class TokenTransformer(ApiModel):
    """Attention over tokens (Vaswani et al. 2017), pre-norm, for data.preprocessing.tokens."""

    dim: int = Field(default=64, ge=8, le=4096)
    """Size of a token's embedding."""
    depth: int = Field(default=2, ge=1, le=48)
    """Layers."""
    heads: int = Field(default=4, ge=1, le=64)
    """Attention heads; divides dim."""

    cel = (
        Cel(
            rule="(has(self.dim) ? self.dim : 64) % (has(self.heads) ? self.heads : 4) == 0",
            message="tokenTransformer: heads must divide dim",
            holds=lambda model: model.dim % model.heads == 0,
        ),
    )


class CustomArchitecture(ApiModel):
    """Your own function in your own image: build(features: int, outputs: int) -> torch.nn.Module."""

    module: Annotated[
        str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*$", max_length=253)
    ]
    """`package.module:function`."""


class Architecture(ApiModel):
    """Exactly one network."""

    mlp: Mlp | None = None
    cnn: Cnn | None = None
    resnet: ResNet | None = None
    tabular_transformer: TabularTransformer | None = None
    token_transformer: TokenTransformer | None = None
    custom: CustomArchitecture | None = None

    cel = (
        exactly_one("mlp", "cnn", "resnet", "tabular_transformer", "token_transformer", "custom", what="architecture"),
    )


class Sgd(ApiModel):
    """Stochastic gradient descent."""

    learning_rate: float = Field(default=1e-2, gt=0, le=10)
    """Step length."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of the gradient."""
    nesterov: bool = False
    """Look ahead (needs momentum)."""


class Adam(ApiModel):
    """Adam (Kingma and Ba 2015); l2 is coupled with its metric, see adamw."""

    learning_rate: float = Field(default=1e-3, gt=0, le=1)
    """Step length."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Memory of the gradient."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Memory of its square."""


class AdamW(Adam):
    """Adam whose weight decay (the block weightDecay, nothing hidden here) is apart from the gradient."""


class Optimizer(ApiModel):
    """Exactly one optimizer. Decay is a regularizer block, never an optimizer's hidden default."""

    sgd: Sgd | None = None
    adam: Adam | None = None
    adamw: AdamW | None = None

    cel = (exactly_one("sgd", "adam", "adamw", what="optimizer"),)


class CosineRate(ApiModel):
    """Half a cosine from the optimizer's rate down."""

    warmup: float = Field(default=0.0, ge=0, lt=1)
    """Part of training in which the rate rises linearly."""
    final: float = Field(default=0.0, ge=0, le=1)
    """Last rate, as a part of the first."""


class StepRate(ApiModel):
    """The rate falls by a factor every so many epochs."""

    every: int = Field(default=30, ge=1, le=100_000)
    """Epochs."""
    factor: float = Field(default=0.1, gt=0, lt=1)
    """What the rate is multiplied by."""


class LearningRateSchedule(ApiModel):
    """At most one way for the learning rate to move; none means constant."""

    cosine: CosineRate | None = None
    step: StepRate | None = None

    cel = (exactly_one("cosine", "step", what="schedule"),)


class TorchEngine(ApiModel):
    """A network, trained by gradients."""

    architecture: Architecture
    """The network."""
    optimizer: Optimizer = Optimizer(adamw=AdamW())
    """How weights move."""
    batch_size: int = Field(default=128, ge=1, le=1_048_576)
    """Examples per step, over all processes."""
    epochs: int = Field(default=100, ge=1, le=100_000)
    """Passes over the training rows, at most."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of forward and backward; terms are always summed in fp32."""
    schedule: LearningRateSchedule | None = None
    """How the learning rate moves."""


class SklearnEngine(ApiModel):
    """An estimator of scikit-learn. Strengths come from regularizer blocks; params are the rest."""

    estimator: Literal[
        "logisticRegression",
        "ridge",
        "lasso",
        "elasticNet",
        "svc",
        "svr",
        "randomForest",
        "histGradientBoosting",
        "mlp",
    ]
    """Which; classifier or regressor follows from the task."""
    params: dict[ParameterName, Scalar] = Field(default_factory=dict, max_length=64)
    """Constructor arguments, by scikit-learn's names; what a block sets is refused here."""


class XgboostEngine(ApiModel):
    """Boosted trees."""

    rounds: int = Field(default=500, ge=1, le=100_000)
    """Trees, at most."""
    params: dict[ParameterName, Scalar] = Field(default_factory=dict, max_length=64)
    """XGBoost's own parameters; what a block sets is refused here."""


class Engine(ApiModel):
    """Exactly one engine."""

    torch: TorchEngine | None = None
    sklearn: SklearnEngine | None = None
    xgboost: XgboostEngine | None = None

    cel = (exactly_one("torch", "sklearn", "xgboost", what="engine"),)

    @property
    def name(self) -> str:
        """`torch`, `sklearn` or `xgboost`."""
        return next(iter(self.chosen()))

    def chosen(self) -> dict[str, Any]:
        """{name: settings} of the one engine that is set."""
        return {name: value for name in ("torch", "sklearn", "xgboost") if (value := getattr(self, name)) is not None}
