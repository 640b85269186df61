"""`spec.regularizers`: a map of named optional blocks. Order never matters: the engine runs them by stage.

A map gives uniqueness for free, each block its own schema, and lets CEL say which ones exclude each other. Adding a technique is
adding a class in its family's file and a line here.
"""

from __future__ import annotations

from collections.abc import Iterator

from espalier_api.base import ApiModel, Cel
from espalier_api.regularizers.block import Block, Schedule, Scheduled, Target, Targeted
from espalier_api.regularizers.compression import Pruning, Quantization, StructuredPruning
from espalier_api.regularizers.noise import (
    Augmentation,
    BatchMixing,
    DropConnect,
    Dropout,
    InformationBottleneck,
    Latent,
    McDropout,
    NoiseInjection,
    StochasticDepth,
)
from espalier_api.regularizers.objective import (
    Adversarial,
    CalibrationLoss,
    ClassRebalancing,
    Fairness,
    LabelSmoothing,
    Privacy,
    RobustLoss,
    Safety,
    SampleWeighting,
)
from espalier_api.regularizers.priors import Bayesian, Distillation, Ewc, Functional, SparsityPrior, TrustRegion
from espalier_api.regularizers.selection import (
    Abstention,
    Calibration,
    CrossValidation,
    EarlyStopping,
    Ensemble,
    ModelSoup,
    RegularizationPath,
    WeightAveraging,
)
from espalier_api.regularizers.weights import (
    L1,
    L2,
    ElasticNet,
    GradientClipping,
    MaxMargin,
    Normalization,
    Reparameterization,
    SpectralNorm,
    StructuredSparsity,
    WeightDecay,
)


class Regularizers(ApiModel):
    """Which techniques are on. Each block that is present is applied, each that is absent is not."""

    # weights
    l2: L2 | None = None
    weight_decay: WeightDecay | None = None
    l1: L1 | None = None
    elastic_net: ElasticNet | None = None
    structured_sparsity: StructuredSparsity | None = None
    reparameterization: Reparameterization | None = None
    spectral_norm: SpectralNorm | None = None
    max_margin: MaxMargin | None = None
    gradient_clipping: GradientClipping | None = None
    normalization: Normalization | None = None
    # noise
    dropout: Dropout | None = None
    drop_connect: DropConnect | None = None
    stochastic_depth: StochasticDepth | None = None
    mc_dropout: McDropout | None = None
    noise_injection: NoiseInjection | None = None
    augmentation: Augmentation | None = None
    batch_mixing: BatchMixing | None = None
    information_bottleneck: InformationBottleneck | None = None
    latent: Latent | None = None
    # objective
    label_smoothing: LabelSmoothing | None = None
    robust_loss: RobustLoss | None = None
    sample_weighting: SampleWeighting | None = None
    class_rebalancing: ClassRebalancing | None = None
    calibration_loss: CalibrationLoss | None = None
    fairness: Fairness | None = None
    safety: Safety | None = None
    adversarial: Adversarial | None = None
    privacy: Privacy | None = None
    # priors
    bayesian: Bayesian | None = None
    sparsity_prior: SparsityPrior | None = None
    trust_region: TrustRegion | None = None
    ewc: Ewc | None = None
    functional: Functional | None = None
    distillation: Distillation | None = None
    # compression
    pruning: Pruning | None = None
    structured_pruning: StructuredPruning | None = None
    quantization: Quantization | None = None
    # selection
    early_stopping: EarlyStopping | None = None
    ensemble: Ensemble | None = None
    weight_averaging: WeightAveraging | None = None
    model_soup: ModelSoup | None = None
    cross_validation: CrossValidation | None = None
    regularization_path: RegularizationPath | None = None
    calibration: Calibration | None = None
    abstention: Abstention | None = None

    cel = (
        Cel(
            rule="!(has(self.elasticNet) && (has(self.l1) || has(self.l2)))",
            message="R7: elasticNet holds both penalties already; remove l1 and l2, or replace elasticNet by them",
            holds=lambda blocks: not (blocks.elastic_net and (blocks.l1 or blocks.l2)),
            judged_by="registry",
        ),
        Cel(
            rule="!(has(self.labelSmoothing) && (has(self.robustLoss) || has(self.maxMargin)))",
            message="R13: labelSmoothing is defined for cross-entropy only; remove it, or remove robustLoss and maxMargin",
            holds=lambda blocks: not (blocks.label_smoothing and (blocks.robust_loss or blocks.max_margin)),
            judged_by="registry",
        ),
        Cel(
            rule="!(has(self.privacy) && has(self.batchMixing))",
            message="R3: privacy needs per-example gradients and batchMixing blends examples; remove one of them",
            holds=lambda blocks: not (blocks.privacy and blocks.batch_mixing),
            judged_by="registry",
        ),
    )

    def references(self) -> dict[str, tuple[str, ...]]:
        """Other models by the block that names them, as the user wrote them (ModelReference)."""
        named: dict[str, tuple[str, ...]] = {}
        for name, block in self.declared():
            fields = (getattr(block, field, None) for field in ("reference", "prior", "teacher", "candidates"))
            if found := [each for each in fields if each is not None]:
                named[name] = found[0] if isinstance(found[0], tuple) else (found[0],)
        return named

    def declared(self) -> Iterator[tuple[str, Block]]:
        """(camelCase name, block) of every block that is on, in the order of this class."""
        for name, field in type(self).model_fields.items():
            if (block := getattr(self, name)) is not None:
                yield field.alias or name, block


BLOCKS: dict[str, str] = {field.alias or name: name for name, field in Regularizers.model_fields.items()}
"""camelCase name -> attribute, of every block of the API."""

__all__ = [
    "BLOCKS",
    "L1",
    "L2",
    "Abstention",
    "Adversarial",
    "Augmentation",
    "BatchMixing",
    "Bayesian",
    "Block",
    "Calibration",
    "CalibrationLoss",
    "ClassRebalancing",
    "CrossValidation",
    "Distillation",
    "DropConnect",
    "Dropout",
    "EarlyStopping",
    "ElasticNet",
    "Ensemble",
    "Ewc",
    "Fairness",
    "Functional",
    "GradientClipping",
    "InformationBottleneck",
    "LabelSmoothing",
    "Latent",
    "MaxMargin",
    "McDropout",
    "ModelSoup",
    "NoiseInjection",
    "Normalization",
    "Privacy",
    "Pruning",
    "Quantization",
    "RegularizationPath",
    "Regularizers",
    "Reparameterization",
    "RobustLoss",
    "Safety",
    "SampleWeighting",
    "Schedule",
    "Scheduled",
    "SparsityPrior",
    "SpectralNorm",
    "StochasticDepth",
    "StructuredPruning",
    "StructuredSparsity",
    "Target",
    "Targeted",
    "TrustRegion",
    "WeightAveraging",
    "WeightDecay",
]
