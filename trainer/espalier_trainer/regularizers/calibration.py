"""Calibration: probabilities fitted to outcomes on held-out rows, folded into the exported graph so that serving cannot forget it.

temperature: scores / T (Guo et al. 2017); every decision stays. vector: scores * w + b per class (Guo et al. 2017, 4.2).
platt: one sigmoid per class on the log-odds, fitted to Platt's smoothed targets (Platt 1999). isotonic: an increasing step
curve per class (Zadrozny and Elkan 2002). beta: a ln p - b ln(1 - p) + c with a, b >= 0 (Kull et al. 2017). All but
temperature may change decisions. No torch here: every engine has scores.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from espalier_api.regularizers import Calibration as CalibrationConfig
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.evaluation.calibration import fit_temperature, log_loss, log_softmax
from espalier_trainer.evaluation.score_maps import BINARY, Affine, PerClass, Piecewise, Sigmoid, odds
from espalier_trainer.peers import Sharing
from espalier_trainer.protocol import PlanContext, PostContext, Regularizer, ScoreTransform, Stage, register

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Labels = npt.NDArray[Any]

TOLERANCE: Final = 1e-12


def fit_vector(scores: Floats, y: Labels) -> Affine:
    """w and b of least log loss; the problem is convex."""
    rows, classes = scores.shape
    onehot = np.eye(classes)[y]

    def objective(theta: Floats) -> tuple[float, Floats]:
        scale, shift = theta[:classes], theta[classes:]
        log_p = log_softmax(scores * scale + shift)
        wrong = (np.exp(log_p) - onehot) / rows
        return float(-(onehot * log_p).sum() / rows), np.concatenate([(wrong * scores).sum(0), wrong.sum(0)])

    start = np.concatenate([np.ones(classes), np.zeros(classes)])
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options={"ftol": TOLERANCE, "gtol": 1e-9})
    return Affine(found.x[:classes], found.x[classes:])


def _sigmoid(p: Floats, rest: Floats, target: Floats, *, tied: bool) -> Sigmoid:
    """Cross-entropy of `target` (rows,) in 0..1; tied: a = b and free sign, else a, b >= 0."""
    inputs = np.stack([np.log(p), -np.log(rest)], axis=1)
    features = inputs.sum(axis=1, keepdims=True) if tied else inputs

    def objective(theta: Floats) -> tuple[float, Floats]:
        z = features @ theta[:-1] + theta[-1]
        loss = np.logaddexp(0.0, z) - target * z
        wrong = expit(z) - target
        return float(loss.mean()), np.append(features.T @ wrong, wrong.sum()) / len(z)

    bounds = [(None, None)] * 2 if tied else [(0.0, None), (0.0, None), (None, None)]
    start = np.append(np.ones(features.shape[1]), 0.0)
    options = {"ftol": TOLERANCE, "gtol": 1e-9}
    theta = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x
    return Sigmoid(float(theta[0]), float(theta[0] if tied else theta[1]), float(theta[-1]))


def platt(p: Floats, rest: Floats, positive: npt.NDArray[np.bool_]) -> Sigmoid:
    """On log-odds, with targets (n+ + 1)/(n+ + 2) and 1/(n- + 2)."""
    yes, no = int(positive.sum()), int((~positive).sum())
    return _sigmoid(p, rest, np.where(positive, (yes + 1.0) / (yes + 2.0), 1.0 / (no + 2.0)), tied=True)


def beta(p: Floats, rest: Floats, positive: npt.NDArray[np.bool_]) -> Sigmoid:
    """On ln p and -ln(1 - p), with 0 and 1 as targets."""
    return _sigmoid(p, rest, positive.astype(np.float64), tied=False)


def isotonic(p: Floats, rest: Floats, positive: npt.NDArray[np.bool_]) -> Piecewise:  # noqa: ARG001 - one interface
    """Pool adjacent violators by scikit-learn; only the knots where the curve bends are kept."""
    from sklearn.isotonic import IsotonicRegression  # noqa: PLC0415 - a second of import that one method needs

    fitted = IsotonicRegression(out_of_bounds="clip").fit(p, positive.astype(np.float64))
    return Piecewise(np.asarray(fitted.X_thresholds_, np.float64), np.asarray(fitted.y_thresholds_, np.float64))


CURVES: Final[dict[str, Callable[..., Sigmoid | Piecewise]]] = {"platt": platt, "isotonic": isotonic, "beta": beta}


def fit(method: str, scores: Floats, y: Labels) -> ScoreTransform:
    """The transform of a method other than temperature, from scores (rows, classes) and class indices (rows,)."""
    if method == "vector":
        return fit_vector(scores, y)
    p, rest = odds(scores)
    classes = range(1, BINARY) if scores.shape[1] == BINARY else range(scores.shape[1])
    return PerClass([CURVES[method](p[:, k], rest[:, k], y == k) for k in classes])


@register
class Calibration(Regularizer[CalibrationConfig]):
    """Sets the temperature of the packaged graph, or adds a transform before it."""

    name = "calibration"
    stage = Stage.POST
    sharing = Sharing.EXACT
    selects = None

    def plan(self, context: PlanContext) -> None:
        """Needs classes and rows to fit on."""
        if context.regression:
            raise InvalidConfigError(
                "regularizers.calibration: a regression has no probabilities to calibrate; remove the block"
            )
        if self.config.split not in context.splits:
            raise InvalidConfigError(
                f"regularizers.calibration.split: data.split.{self.config.split} has no rows; set data.split.{self.config.split} "
                "(for example 0.1) or choose another split"
            )

    def post(self, context: PostContext) -> None:
        """Fit; keep scores as they are when the fit does not help its own rows."""
        scores, y = context.scores[self.config.split], context.y[self.config.split]
        before = log_loss(scores, y)
        temperature, transform = 1.0, None
        if self.config.method == "temperature":
            temperature = fit_temperature(scores, y)
            after = log_loss(scores, y, temperature)
        else:
            transform = fit(self.config.method, scores, y)
            after = log_loss(transform.apply(scores), y)
        kept = after <= before
        if kept and transform is not None:
            context.transform(transform)
        context.temperature = temperature if kept else 1.0
        context.notes["calibration"] = {
            "method": self.config.method,
            "split": self.config.split,
            "rows": len(y),
            "temperature": context.temperature,
            "kept": kept,
            "logLossBefore": before,
            "logLossAfter": min(before, after),
        }
