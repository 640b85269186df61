"""Class rebalancing against scikit-learn, and probabilities that have the true prior again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pyarrow as pa
import pytest
import torch
from onnx import TensorProto, helper
from sklearn.linear_model import LogisticRegression

from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.evaluation.calibration import softmax
from espalier_trainer.export.graph import Graph
from espalier_trainer.protocol import PostContext
from espalier_trainer.regularizers.class_rebalancing import Shift, drawn_counts, row_weights
from tests.unit.trainer import jobs
from tests.unit.trainer.problems import Problem, blocks, classification, context, regression, solve

if TYPE_CHECKING:
    from pathlib import Path

    from espalier_trainer.engines.torch.loop import Fit
    from tests.conftest import Prove

METHODS = ("logitAdjustment", "inverse", "effectiveNumber", "oversample")
L2 = 1e-3


def rare(n: int = 6000, seed: int = 0) -> Problem:
    """Like ISLP's Default: a well-specified logistic model, about 3.3 % positive."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3))
    return Problem(x, (rng.random(n) < 1 / (1 + np.exp(4.05 - x @ [1.2, -0.6, 0.0]))).astype(np.int64), 2)


def skewed(seed: int = 0) -> Problem:
    """Three overlapping classes with 400, 80 and 20 rows."""
    rng = np.random.default_rng(seed)
    y = np.repeat([0, 1, 2], [400, 80, 20])
    return Problem(rng.normal(size=(3, 4))[y] + rng.normal(size=(500, 4)), y, 3)


def fitted(problem: Problem, method: str, tau: float = 1.0, *, correct: bool = True, steps: int = 1500) -> Fit:
    declared = {
        "classRebalancing": {"method": method, "tau": tau, "priorCorrection": correct},
        "l2": {"strength": L2},
    }
    return solve(problem, declared, rate=1.0, options={"momentum": 0.9}, steps=steps)


def served(fit: Fit, problem: Problem) -> np.ndarray[Any, Any]:
    """Probabilities (rows, classes) after POST."""
    scores = fit.model(torch.tensor(problem.x)).detach().numpy()
    told = PostContext({"test": scores}, {"test": problem.y})
    for block in fit.blocks:
        if block.acts("post"):
            block.post(told)
    return softmax(told.scores["test"])


def plain(problem: Problem, **options: Any) -> np.ndarray[Any, Any]:
    oracle = LogisticRegression(C=1 / (len(problem.y) * L2), tol=1e-10, max_iter=10000, **options)
    return np.asarray(oracle.fit(problem.x, problem.y).predict_proba(problem.x))


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
def test_logit_adjustment_is_the_plain_maximum_likelihood_once_corrected(proof: Prove, tau: float) -> None:
    """A constant per class is absorbed by the bias: corrected probabilities are those of the unadjusted fit, prior included."""
    problem = skewed()
    p = served(fitted(problem, "logitAdjustment", tau, steps=2000), problem)
    proof(
        "classRebalancing",
        "sklearn LogisticRegression: served probabilities under logitAdjustment",
        float(np.abs(p - plain(problem)).max()),
        at_most=1e-6,
    )
    proof(
        "classRebalancing",
        "closed form: mean probabilities are the prior",
        float(np.abs(p.mean(0) - np.bincount(problem.y) / 500).max()),
        at_most=1e-9,
    )


@pytest.mark.parametrize("method", ["inverse", "effectiveNumber"])
def test_weights_are_sklearns_class_weights(proof: Prove, method: str) -> None:
    """`class_weight="balanced"` for inverse, Cui's formula by class for effectiveNumber."""
    problem = skewed()
    fit = fitted(problem, method, correct=False, steps=2000)
    counts = np.bincount(problem.y)
    beta = 1 - 1 / 500
    cui = (1 - beta) / (1 - beta**counts)
    cui = cui * 500 / (cui * counts).sum()
    weights = "balanced" if method == "inverse" else dict(enumerate(cui))
    worst = float(np.abs(served(fit, problem) - plain(problem, class_weight=weights)).max())
    proof("classRebalancing", "sklearn LogisticRegression(class_weight): probabilities", worst, at_most=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_corrected_probabilities_have_the_true_prior(proof: Prove, method: str) -> None:
    """Uncorrected, balancing makes 3 % look like 20; corrected, the mean probability is the share again."""
    problem = rare()
    share = float(problem.y.mean())
    assert 0.025 < share < 0.045
    balanced = served(fitted(problem, method, correct=False, steps=600), problem)[:, 1].mean()
    corrected = served(fitted(problem, method, steps=600), problem)[:, 1].mean()
    if method == "logitAdjustment":  # its trained scores are the balanced ones
        assert balanced > 5 * share
    if method in {"inverse", "oversample"}:
        assert balanced > 5 * share
    proof(
        "classRebalancing",
        "definition: mean served probability minus the true prior",
        abs(float(corrected) - share),
        at_most=0.003,
    )


def test_oversampling_draws_classes_evenly_and_every_row_in_turn() -> None:
    problem = skewed()
    (block,) = blocks({"classRebalancing": {"method": "oversample"}})
    block.plan(context(problem))
    labels = torch.tensor(problem.y)
    block.attach(solve(problem, {}, steps=1).fit_view)
    drawn = block.draw(7, 500)
    assert sorted(np.bincount(labels[drawn]).tolist()) == [166, 167, 167]
    rarest = np.bincount(drawn, minlength=500)[480:]
    assert set(rarest.tolist()) <= {8, 9}
    assert (block.draw(7, 500) == drawn).all()
    assert (block.draw(8, 500) != drawn).any()


def test_tau_zero_is_no_rebalancing() -> None:
    problem = skewed()
    base = solve(problem, {"l2": {"strength": L2}}, rate=0.5, steps=50).parameters["head.weight"]
    for method in ("logitAdjustment", "inverse", "effectiveNumber"):
        declared = {"classRebalancing": {"method": method, "tau": 0.0}, "l2": {"strength": L2}}
        ours = solve(problem, declared, rate=0.5, steps=50).parameters["head.weight"]
        torch.testing.assert_close(ours, base, rtol=0, atol=1e-15)
    counts = np.array([400.0, 80.0, 20.0])
    assert drawn_counts(counts, 0.0).tolist() == [400, 80, 20]
    assert row_weights(counts, "inverse", 0.0).tolist() == [1, 1, 1]


@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_extreme_priors_keep_every_class(tau: float) -> None:
    drawn = drawn_counts(np.array([9990.0, 9.0, 1.0]), tau)
    assert drawn.sum() == 10000
    assert drawn.min() >= 1


def test_the_exported_shift_is_the_same() -> None:
    shift, scores = Shift(np.array([0.5, -2.0, 1.5])), np.random.default_rng(0).normal(size=(6, 3))
    graph = Graph()
    output = shift.graph(graph, "scores")
    proto = helper.make_graph(
        graph.nodes,
        "shift",
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", 3])],
        graph.constants,
    )
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    runtime = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = runtime.run(None, {"scores": scores.astype(np.float32)})
    np.testing.assert_allclose(found, shift.apply(scores), atol=1e-6)


def test_what_cannot_be_rebalanced_is_refused() -> None:
    with pytest.raises(InvalidConfigError, match="a regression has no classes to rebalance"):
        solve(regression(), {"classRebalancing": {}}, steps=1)
    (block,) = blocks({"classRebalancing": {}})
    with pytest.raises(InvalidConfigError, match=r"training rows per class are \[3, 0, 1\]"):
        block.plan(context(classification(), class_counts=(3, 0, 1)))


def test_a_job_serves_corrected_probabilities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the whole trainer, beside its siblings: the published graph has the prior of the training rows."""
    monkeypatch.setenv("TERMINATION_LOG", str(tmp_path / "term"))
    table = jobs.gaussians(900)
    keep = (np.asarray(table["label"]) != 2) | (np.arange(900) % 8 == 0)
    table = table.filter(pa.array(keep))
    jobs.stage(tmp_path, table)
    declared = {
        "classRebalancing": {"method": "inverse"},
        "fairness": {"column": "g", "strength": 0.5},
        "adversarial": {"attack": "fgsm", "epsilon": 0.05},
        "calibrationLoss": {"strength": 0.1},
    }
    result = jobs.train(tmp_path, regularizers=declared)
    assert result.outcome == "Succeeded", result.message
    x = np.stack([np.asarray(table[f"f{i}"], dtype=np.float32) for i in range(5)], axis=1)
    p = jobs.answer(tmp_path / jobs.VERSION, x)["probabilities"].mean(axis=0)
    share = np.bincount(np.asarray(table["label"])) / len(table)
    assert share[2] < 0.08
    np.testing.assert_allclose(p, share, atol=0.04)
