"""engine.sklearn against scikit-learn's own predictions, and blocks against what they are elsewhere in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy.special import expit
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier
from sklearn.svm import SVC, SVR

from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.session import Alone
from tests.unit.trainer.classical import curve, engine, gaussians, golden, parts, served

if TYPE_CHECKING:
    from espalier_trainer.engines import FitData
    from tests.conftest import Prove

NEEDED: dict[str, dict[str, Any]] = {
    "svc": {"l2": {"strength": 1e-2}, "calibration": {}},
    "svr": {"l2": {"strength": 1e-2}},
}


def fit(
    estimator: str,
    data: FitData,
    blocks: dict[str, Any] | None = None,
    params: dict[str, Any] | None = None,
    seed: int = 0,
) -> Any:
    made = engine(
        {"sklearn": {"estimator": estimator, "params": params or {}}}, NEEDED.get(estimator, {}) | (blocks or {})
    )
    made.plan(data)
    return made.fit(data, seed, Alone())


def softmax(scores: np.ndarray) -> np.ndarray:
    e = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


# --- the graph ---------------------------------------------------------------------------------------------------------
KERNELS: list[dict[str, Any]] = [
    {},
    {"kernel": "linear"},
    {"kernel": "poly", "degree": 2, "coef0": 1.0},
    {"kernel": "sigmoid", "gamma": 0.05},
    {"gamma": "auto"},
]


@pytest.mark.parametrize("params", KERNELS, ids=str)
def test_a_binary_machine_is_scikit_learns(params: dict[str, Any], proof: Prove) -> None:
    data = gaussians(300, 2)
    fitted = fit("svc", data, params=params)
    own = SVC(C=1 / (225 * 1e-2), **params).fit(data.train.x.astype(float), data.train.y)
    x = golden(data)
    decision = own.decision_function(x.astype(float))
    assert np.abs(fitted.scores(x)[:, 1]).max() > 0.5
    scale = np.abs(decision).max()
    proof("l2", "sklearn SVC(C = 1/(n s)), largest relative difference of a margin",
          np.abs(fitted.scores(x)[:, 1] - decision).max() / scale, at_most=1e-8)  # fmt: skip
    assert np.abs(served(fitted, data, x)[:, 1] - expit(decision)).max() <= 1e-4


def test_many_classes_are_one_machine_each_against_the_rest() -> None:
    data = gaussians(300, 3)
    fitted = fit("svc", data)
    own = OneVsRestClassifier(SVC(C=1 / (225 * 1e-2))).fit(data.train.x.astype(float), data.train.y)
    x = golden(data)
    decision = own.decision_function(x.astype(float))
    assert np.abs(fitted.scores(x) - decision).max() <= 1e-8
    assert np.abs(served(fitted, data, x) - softmax(decision)).max() <= 1e-5


@pytest.mark.parametrize("params", KERNELS, ids=str)
def test_a_regression_machine_is_scikit_learns(params: dict[str, Any]) -> None:
    data = curve(300)
    fitted = fit("svr", data, params=params)
    own = SVR(C=1 / (225 * 1e-2), **params).fit(data.train.x.astype(float), data.train.y)
    x = golden(data)
    expected = own.predict(x.astype(float))
    scale = max(1.0, np.abs(expected).max())
    assert np.abs(fitted.scores(x)[:, 0] - expected).max() <= 1e-8 * scale
    assert np.abs(served(fitted, data, x)[:, 0] - expected).max() <= 1e-5 * scale


@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic", "identity"])
@pytest.mark.parametrize("classes", [0, 2, 3])
def test_the_network_is_scikit_learns(classes: int, activation: str) -> None:
    data = gaussians(200, classes) if classes else curve(200)
    params = {"activation": activation, "hidden_layer_sizes": 8, "max_iter": 30}
    fitted = fit("mlp", data, {"l2": {"strength": 1e-3}}, params)
    x = golden(data)
    own = fitted.estimator.predict_proba(x) if classes else fitted.estimator.predict(x)[:, None]
    assert np.abs(served(fitted, data, x) - own).max() <= 1e-5
    assert own.std(axis=0).min() > 0.01


CLASSIFIERS: dict[str, dict[str, Any]] = {
    "logisticRegression": {},
    "randomForest": {"n_estimators": 12, "max_depth": 4},
    "histGradientBoosting": {"max_iter": 15},
    "mlp": {"hidden_layer_sizes": 8, "max_iter": 40},
}


@pytest.mark.parametrize("estimator", CLASSIFIERS)
@pytest.mark.parametrize("classes", [2, 3])
def test_rebalanced_graphs_answer_with_the_prior_that_scikit_learn_was_asked_to_forget(
    estimator: str, classes: int
) -> None:
    """p(c) ~ p'(c) / w_c with p' scikit-learn's own probabilities and w_c = n / (K n_c) (Elkan 2001)."""
    shares = (0.85, 0.15) if classes == 2 else (0.7, 0.2, 0.1)
    data = gaussians(400, classes, shares=shares)
    fitted = fit(estimator, data, {"classRebalancing": {"method": "inverse"}}, CLASSIFIERS[estimator])
    x = golden(data)
    counts = np.bincount(data.train.y)
    even = np.clip(fitted.estimator.predict_proba(x), 1e-7, None)
    back = even * counts
    assert np.abs(served(fitted, data, x) - back / back.sum(axis=1, keepdims=True)).max() <= 1e-4


# --- units and blocks --------------------------------------------------------------------------------------------------
def test_l2_of_a_linear_network_is_the_norm_that_it_implies(proof: Prove) -> None:
    """One identity unit: w = v u, and the least s/2 (|u|^2 + v^2) for a given w is s |w|. So the optimum has grad loss = -s w/|w|."""
    data = curve(400)
    strength = 0.05
    params = {"activation": "identity", "hidden_layer_sizes": 1, "solver": "lbfgs", "tol": 1e-12, "max_iter": 20000}
    fitted = fit("mlp", data, {"l2": {"strength": strength}}, params)
    first, second = fitted.estimator.coefs_
    w = (first @ second)[:, 0]
    x, y = data.train.x.astype(float), data.train.y
    free = float(np.mean(y - x @ w))
    gradient = -x.T @ (y - x @ w - free) / len(y)
    worst = np.abs(gradient + strength * w / np.linalg.norm(w)).max()
    assert np.linalg.norm(w) > 0.1
    proof(
        "l2",
        "sklearn MLP(alpha = batch s): gradient of the equivalent norm problem at the optimum",
        float(worst),
        at_most=1e-4,
    )


def test_rebalancing_is_scikit_learns_balanced_class_weight(proof: Prove) -> None:
    data = gaussians(600, 2, shares=(0.85, 0.15))
    block = {"classRebalancing": {"method": "inverse", "priorCorrection": False}, "l2": {"strength": 1e-2}}
    fitted = fit("logisticRegression", data, block)
    own = LogisticRegression(C=1 / (450 * 1e-2), class_weight="balanced", tol=1e-9, max_iter=10_000)
    own.fit(data.train.x.astype(float), data.train.y)
    worst = np.abs(fitted.coefficients[1] - own.coef_[0]).max()
    proof(
        "classRebalancing",
        "sklearn class_weight=balanced, largest difference of a coefficient",
        float(worst),
        at_most=1e-5,
    )


@pytest.mark.parametrize("monitor", ["valLoss", "metric", "refinement"])
def test_stopped_boosting_is_the_shorter_fit(monitor: str, proof: Prove) -> None:
    data = gaussians(300, 3, seed=4)
    params = {"learning_rate": 0.5, "max_iter": 60}
    fitted = fit("histGradientBoosting", data, {"earlyStopping": {"patience": 5, "monitor": monitor}}, params)
    best = fitted.report.notes["earlyStopping.bestEpoch"]
    assert 1 < best < 60
    assert len(fitted.report.history) == best + 5
    own = HistGradientBoostingClassifier(learning_rate=0.5, max_iter=best, early_stopping=False)
    own.fit(data.train.x.astype(float), data.train.y)
    x = golden(data)
    worst = np.abs(served(fitted, data, x) - own.predict_proba(x)).max()
    proof("earlyStopping", "sklearn's shorter fit, largest difference of p", float(worst), at_most=1e-5)


def test_a_stopped_network_goes_back_to_its_best_epoch() -> None:
    data = gaussians(120, 3, seed=2)
    params = {"hidden_layer_sizes": 64, "max_iter": 200, "learning_rate_init": 0.02}
    fitted = fit("mlp", data, {"earlyStopping": {"patience": 5}}, params)
    best = fitted.report.notes["earlyStopping.bestEpoch"]
    assert best + 5 == len(fitted.report.history) < 200
    assert data.validation is not None
    p = fitted.estimator.predict_proba(data.validation.x)
    loss = -np.log(p[np.arange(len(p)), data.validation.y]).mean()
    assert loss == pytest.approx(fitted.report.history[best - 1]["validation"], rel=1e-6)


def test_contributions_are_the_penalty_at_the_solution() -> None:
    data = curve()
    fitted = fit("ridge", data, {"l2": {"strength": 0.1}})
    own = Ridge(alpha=300 * 0.1).fit(data.train.x.astype(float), data.train.y)
    assert fitted.report.contributions["l2"].value == pytest.approx((own.coef_**2).sum() / 2)
    machine = fit("svr", data, params={"kernel": "linear"})
    (value,) = (machine.report.contributions["l2"].value,)
    svr = SVR(C=1 / (300 * 1e-2), kernel="linear").fit(data.train.x.astype(float), data.train.y)
    assert value == pytest.approx((svr.coef_**2).sum() / 2, rel=1e-6)


REFUSED: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "svc without calibration": ("svc", {"l2": {}}, {}, "svc needs calibration"),
    "svc without l2": ("svc", {"calibration": {}}, {}, "svc needs l2"),
    "dropout on mlp": ("mlp", {"dropout": {}}, {}, "R38: regularizers.dropout"),
    "logit adjustment": ("mlp", {"classRebalancing": {}}, {}, "classRebalancing.method: .* cannot do logitAdjustment"),
    "rebalanced svc": (
        "svc",
        {"l2": {}, "calibration": {}, "classRebalancing": {}},
        {},
        "R38: regularizers.classRebalancing",
    ),
    "a block's parameter": ("mlp", {}, {"alpha": 1.0}, "params.alpha"),
    "stopping lbfgs": ("mlp", {"earlyStopping": {}}, {"solver": "lbfgs"}, "lbfgs has no epochs"),
    "Platt by the back door": ("svc", {"l2": {}, "calibration": {}}, {"probability": True}, "params.probability"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_honoured_is_refused_before_the_fit(name: str) -> None:
    estimator, blocks, params, message = REFUSED[name]
    made = engine({"sklearn": {"estimator": estimator, "params": params}}, blocks)
    with pytest.raises(InvalidConfigError, match=message):
        made.plan(gaussians(80, 2))


def test_a_class_without_rows_cannot_be_rebalanced() -> None:
    data = gaussians(80, 2)
    missing = parts(data.train.x, np.zeros(len(data.train), dtype=np.int64), 2)
    made = engine({"sklearn": {"estimator": "randomForest"}}, {"classRebalancing": {"method": "inverse"}})
    with pytest.raises(InvalidConfigError, match="a class without rows"):
        made.plan(missing)
