"""Priors, uncertainty, and knowledge of an earlier model (guide: T8, T9, P2)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from espalier_api.regularizers.block import Block, ModelReference, Scheduled, Targeted


class Bayesian(Block):
    """A distribution over weights instead of a point."""

    method: Literal["map", "lastLayerLaplace", "swag"] = "lastLayerLaplace"
    """Mode only, Gaussian around the last layer (Daxberger et al. 2021), or from the optimizer's path (Maddox et al. 2019)."""
    prior_precision: float = Field(default=1.0, gt=0, le=1e4)
    """Precision of the Gaussian prior."""


class SparsityPrior(Targeted, Scheduled):
    """A prior that switches weights off."""

    kind: Literal["ard", "l0"] = "ard"
    """Variational dropout with learned rates (Molchanov et al. 2017) or hard-concrete gates (Louizos et al. 2018)."""
    strength: float = Field(default=1e-4, gt=0, le=1)
    """Weight of the KL or of the expected number of weights."""


class TrustRegion(Targeted):
    """Keeps a new fit near a reference: never further than `radius`."""

    kind: Literal["kl", "l2ball"] = "kl"
    """Distance of predictions on each batch, or of weights."""
    radius: float = Field(default=0.01, gt=0, le=10)
    """Largest mean KL(reference || ours), or largest ||w - w0||."""
    reference: ModelReference = "previousModel"
    """The model to stay near."""


class Ewc(Targeted, Scheduled):
    """Elastic weight consolidation: a quadratic penalty in the Fisher metric of the old task (Kirkpatrick et al. 2017)."""

    strength: float = Field(default=100.0, ge=0, le=1e6)
    """Lambda of strength/2 * sum F_i (w_i - w0_i)^2."""
    fisher: Literal["empirical", "exact"] = "empirical"
    """Gradients at the given labels, or the expectation over the model's own labels."""
    samples: int = Field(default=1024, ge=1, le=1_000_000)
    """Examples for the estimate."""
    decay: float = Field(default=0.9, ge=0, le=1)
    """How much of the older Fisher goes into the one that is left for the next task."""
    reference: ModelReference = "previousModel"
    """The model whose task is kept."""


class Functional(Scheduled):
    """Penalizes disagreement with an earlier model's predictions (learning without forgetting, Li and Hoiem 2016; L2-SP)."""

    prior: ModelReference = "previousModel"
    """The earlier model."""
    kind: Literal["kl", "mse", "l2sp"] = "kl"
    """Of probabilities, of outputs, or distance of weights to its weights."""
    strength: float = Field(default=1.0, gt=0, le=100)
    """Weight of the term."""
    temperature: float = Field(default=2.0, ge=1, le=20)
    """Softens both sides of kl."""


class Distillation(Scheduled):
    """Learns from a teacher's soft labels (Hinton et al. 2015)."""

    teacher: ModelReference
    """The model to learn from."""
    temperature: float = Field(default=4.0, ge=1, le=20)
    """Softens both sides; the term is scaled by its square."""
    alpha: float = Field(default=0.9, ge=0, le=1)
    """Share of the soft term; 0 is plain training."""
