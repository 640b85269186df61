"""Calibration methods and abstention against scikit-learn, closed forms and resampling; graphs against onnxruntime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import expit, softmax
from sklearn.calibration import _SigmoidCalibration
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.export.graph import Graph
from espalier_trainer.protocol import PostContext
from espalier_trainer.regularizers import calibration
from tests.unit.trainer import graphs
from tests.unit.trainer.problems import blocks, classification, context, regression

if TYPE_CHECKING:
    from espalier_trainer.protocol import ScoreTransform
    from tests.conftest import Prove

METHODS = ("vector", "platt", "isotonic", "beta")


def overconfident(
    rows: int = 600, classes: int = 2, factor: float = 3.0, seed: int = 0
) -> tuple[np.ndarray[Any, Any], ...]:
    """Scores that are `factor` times too sure, and labels drawn from the honest probabilities."""
    rng = np.random.default_rng(seed)
    honest = rng.normal(size=(rows, classes)) * 1.5
    p = softmax(honest, axis=1)
    y = np.array([rng.choice(classes, p=row) for row in p])
    return honest * factor, y, p


def run(transform: ScoreTransform, scores: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    graph = Graph()
    return graphs.run(graph, transform.graph(graph, "scores"), "scores", scores)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("method", METHODS)
def test_graphs_answer_as_numpy_does(method: str, classes: int) -> None:
    scores, y, _ = overconfident(classes=classes)
    transform = calibration.fit(method, scores, y)
    ours = softmax(transform.apply(scores), axis=1)
    assert_allclose(softmax(run(transform, scores).astype(np.float64), axis=1), ours, atol=2e-5)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("method", METHODS)
def test_honest_probabilities_come_back(method: str, classes: int) -> None:
    scores, y, p = overconfident(rows=4000, classes=classes)
    ours = softmax(calibration.fit(method, scores, y).apply(scores), axis=1)
    before = abs(softmax(scores, axis=1) - p).mean()
    assert abs(ours - p).mean() < 0.25 * before


def test_platt_is_scikit_learns(proof: Prove) -> None:
    scores, y, _ = overconfident()
    margin = scores[:, 1] - scores[:, 0]
    theirs = _SigmoidCalibration().fit(margin, y).predict(margin)
    ours = softmax(calibration.fit("platt", scores, y).apply(scores), axis=1)[:, 1]
    proof("calibration", "sklearn sigmoid calibration (platt)", float(abs(ours - theirs).max()), at_most=2e-4)


def test_isotonic_is_scikit_learns() -> None:
    scores, y, _ = overconfident()
    p = softmax(scores, axis=1)[:, 1]
    theirs = IsotonicRegression(out_of_bounds="clip").fit(p, y).predict(p)
    ours = softmax(calibration.fit("isotonic", scores, y).apply(scores), axis=1)[:, 1]
    assert_allclose(ours, np.clip(theirs, 1e-6, 1 - 1e-6), atol=1e-9)


def test_beta_and_vector_are_logistic_regressions() -> None:
    """Beta calibration is logistic regression on (ln p, -ln(1-p)) (Kull et al. 2017, 3.2), vector scaling of two classes one on scores."""
    scores, y, _ = overconfident()
    p = softmax(scores, axis=1)
    features = np.stack([np.log(p[:, 1]), -np.log(p[:, 0])], axis=1)
    fitted = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000).fit(features, y)
    assert (fitted.coef_ > 0).all()
    ours = softmax(calibration.fit("beta", scores, y).apply(scores), axis=1)[:, 1]
    assert_allclose(ours, fitted.predict_proba(features)[:, 1], atol=1e-4)
    fitted = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000).fit(scores * [-1, 1], y)
    ours = softmax(calibration.fit("vector", scores, y).apply(scores), axis=1)[:, 1]
    assert_allclose(ours, fitted.predict_proba(scores * [-1, 1])[:, 1], atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_later_blocks_see_calibrated_scores(method: str) -> None:
    scores, y, _ = overconfident()
    told = PostContext({"calibration": scores, "test": scores[:50]}, {"calibration": y, "test": y[:50]})
    (block,) = blocks({"calibration": {"method": method}})
    block.plan(context(classification()))
    block.post(told)
    assert told.temperature == 1.0
    assert_allclose(told.scores["test"], told.transforms[0].apply(scores[:50]))
    assert told.notes["calibration"]["logLossAfter"] < told.notes["calibration"]["logLossBefore"]


# --- abstention -------------------------------------------------------------------------------------------------------
def test_the_promise_holds_in_most_resamples(proof: Prove) -> None:
    """The true risk among answers is within the bound in at least 95 % of draws of the calibration rows."""
    held = tried = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        z = rng.normal(size=(500, 1)) * 4
        y = (rng.random(500) < expit(z[:, 0])).astype(int)
        told = PostContext({"calibration": np.hstack([0 * z, z])}, {"calibration": y})
        (block,) = blocks({"abstention": {"maxRisk": 0.1}})
        try:
            block.post(told)
        except InvalidConfigError:
            continue
        assert told.min_confidence is not None
        fresh = rng.normal(size=200_000) * 4  # the true risk: label noise among the answered
        sure = np.maximum(expit(fresh), 1 - expit(fresh))
        answered = sure >= told.min_confidence
        tried += 1
        held += float((1 - sure[answered]).mean()) <= 0.1
    proof("abstention", "true risk within the bound, share of 200 resamples", held / tried, at_least=0.95)
    assert tried > 150


def test_a_promise_that_cannot_be_made_is_refused() -> None:
    rng = np.random.default_rng(0)
    told = PostContext({"calibration": rng.normal(size=(60, 2))}, {"calibration": rng.integers(0, 2, 60)})
    (block,) = blocks({"abstention": {"maxRisk": 0.01}})
    with pytest.raises(InvalidConfigError, match="cannot be promised"):
        block.post(told)
    with pytest.raises(InvalidConfigError, match="no confidence"):
        block.plan(context(regression()))
