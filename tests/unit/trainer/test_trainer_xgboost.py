"""engine.xgboost against XGBoost's own predictions and against Newton steps worked out by hand."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xgboost
from scipy.special import expit, softmax

from espalier_trainer.checkpoint import Identity, decode, encode
from espalier_trainer.errors import InvalidConfigError, PreemptedError
from espalier_trainer.session import Alone
from tests.unit.trainer import jobs
from tests.unit.trainer.classical import curve, engine, gaussians, golden, parts, served

if TYPE_CHECKING:
    from pathlib import Path

    from espalier_trainer.engines import FitData
    from espalier_trainer.engines.xgboost.engine import FittedXgboost
    from tests.conftest import Prove

SMALL = {"max_depth": 3, "learning_rate": 0.3}


def fit(
    data: FitData,
    blocks: dict[str, Any] | None = None,
    *,
    rounds: int = 40,
    params: dict[str, Any] | None = None,
    session: Any = None,
    seed: int = 5,
) -> FittedXgboost:
    made = engine({"xgboost": {"rounds": rounds, "params": SMALL | (params or {})}}, blocks)
    made.plan(data)
    return made.fit(data, seed, session or Alone())  # type: ignore[return-value]


# --- the graph ---------------------------------------------------------------------------------------------------------
CASES: dict[str, tuple[int, dict[str, Any], dict[str, Any]]] = {
    "regression": (0, {}, {}),
    "binary": (2, {}, {}),
    "multiclass": (3, {}, {}),
    "dart": (2, {"dropout": {"p": 0.3}}, {}),
    "dart of many classes": (3, {"dropout": {"p": 0.3}}, {"normalize_type": "forest"}),
    "stopped": (3, {"earlyStopping": {"patience": 3}}, {"learning_rate": 0.8}),
    "stopped dart": (2, {"dropout": {"p": 0.2}, "earlyStopping": {"patience": 3}}, {"learning_rate": 0.8}),
    "lossguide": (3, {"l2": {"strength": 0.01}}, {"grow_policy": "lossguide", "max_leaves": 7, "max_depth": 0}),
    "exact, pruned": (2, {}, {"tree_method": "exact", "gamma": 3.0, "max_depth": 6}),
    "forest of a round": (0, {}, {"num_parallel_tree": 3, "subsample": 0.5}),
}


@pytest.mark.parametrize("name", CASES)
def test_the_graph_answers_as_xgboost_does(name: str) -> None:
    classes, blocks, params = CASES[name]
    data = gaussians(classes=classes) if classes else curve()
    fitted = fit(data, blocks, params=params)
    x = golden(data)
    own = fitted.booster.predict(xgboost.DMatrix(x))
    own = np.stack([1 - own, own], axis=1) if classes == 2 else own.reshape(len(x), -1)
    assert np.abs(served(fitted, data, x) - own).max() <= 1e-5
    assert own.std(axis=0).min() > 0.01


@pytest.mark.parametrize("classes", [0, 3])
def test_missing_values_go_where_training_sent_them(classes: int) -> None:
    """The data room refuses NaN; a graph that is asked anyway answers like the booster."""
    data = gaussians(classes=classes) if classes else curve()
    x = np.where(np.random.default_rng(1).random(data.train.x.shape) < 0.2, np.float32(np.nan), data.train.x)
    fitted = fit(parts(x, data.train.y, classes))
    rows = x[:64]
    own = fitted.booster.predict(xgboost.DMatrix(rows)).reshape(len(rows), -1)
    assert np.isnan(rows).any(axis=1).sum() > 20
    assert np.abs(served(fitted, data, rows) - own).max() <= 1e-5


# --- units -------------------------------------------------------------------------------------------------------------
def leaves(fitted: FittedXgboost) -> np.ndarray:
    (tree,) = fitted.trees.leaves()
    return tree.astype(np.float64)


def groups(weighted: bool) -> tuple[FitData, np.ndarray, np.ndarray]:
    """One feature with two values, a target, and weights of the training rows."""
    draw = np.random.default_rng(3)
    side = np.arange(400) % 2
    y = np.where(side == 1, 1.5, -0.5) + draw.normal(size=400)
    weight = draw.integers(1, 4, 400).astype(float) if weighted else np.ones(400)
    data = parts(side[:, None].astype(float), y, 0, weight if weighted else None)
    return data, y[:300], weight[:300]


@pytest.mark.parametrize("weighted", [False, True])
def test_l2_and_l1_are_newton_steps_of_a_mean_loss(proof: Prove, weighted: bool) -> None:
    """One split, rate 1, base 0: each leaf minimizes mean loss + l2/2 w^2 + l1 |w|, worked out by hand (Chen and Guestrin 2016)."""
    data, y, weight = groups(weighted)
    blocks: dict[str, Any] = {"l2": {"strength": 0.05}, "l1": {"strength": 0.03}}
    if weighted:
        blocks["sampleWeighting"] = {"column": "w"}
    only = {"max_depth": 1, "learning_rate": 1.0, "min_child_weight": 0}
    fitted = fit(data, blocks, rounds=1, params=only)
    (base,) = fitted.trees.base
    share = weight / weight.sum()
    expected = []
    for value in (0, 1):
        rows = data.train.x[:, 0] == value
        pull, mass = (share * (y - base))[rows].sum(), share[rows].sum()
        expected.append(np.sign(pull) * max(abs(pull) - 0.03, 0) / (mass + 0.05))
    worst = float(np.abs(leaves(fitted) - expected).max())
    for block in ("l2", "l1", *(("sampleWeighting",) if weighted else ())):
        proof(block, "leaf of one XGBoost split in closed form, largest difference", worst, at_most=1e-6)


def test_elastic_net_is_both(proof: Prove) -> None:
    data, _, _ = groups(weighted=False)
    only = {"max_depth": 1, "learning_rate": 1.0}
    both = fit(data, {"elasticNet": {"strength": 0.08, "l1Ratio": 0.375}}, rounds=1, params=only)
    apart = xgboost.train(
        {"max_depth": 1, "eta": 1.0, "lambda": 300 * 0.05, "alpha": 300 * 0.03},
        xgboost.DMatrix(data.train.x, data.train.y),
        1,
    )
    x = data.train.x[:64]
    worst = float(np.abs(both.scores(x)[:, 0] - apart.predict(xgboost.DMatrix(x))).max())
    proof(
        "elasticNet", "xgboost.train with lambda = n(1-r)s and alpha = n r s, largest difference", worst, at_most=1e-6
    )


def test_without_blocks_nothing_is_penalized() -> None:
    """XGBoost's own lambda is 1; here a penalty is a block or is not."""
    data, y, _ = groups(weighted=False)
    fitted = fit(data, rounds=1, params={"max_depth": 1, "learning_rate": 1.0})
    means = [y[data.train.x[:, 0] == v].mean() for v in (0, 1)]
    assert np.allclose(leaves(fitted) + fitted.trees.base[0], means, atol=1e-6)


# --- blocks ------------------------------------------------------------------------------------------------------------
def test_early_stopping_is_xgboosts_own(proof: Prove) -> None:
    """The best round and the kept model are those of xgboost.train(early_stopping_rounds=…)."""
    data = gaussians(classes=3, seed=4)
    fitted = fit(data, {"earlyStopping": {"patience": 7, "minDelta": 0.0}}, rounds=60, params={"learning_rate": 0.5})
    assert data.validation is not None
    own = xgboost.train(
        {"objective": "multi:softprob", "num_class": 3, "max_depth": 3, "eta": 0.5, "lambda": 0.0},
        xgboost.DMatrix(data.train.x, data.train.y),
        60,
        evals=[(xgboost.DMatrix(data.validation.x, data.validation.y), "v")],
        early_stopping_rounds=7,
        verbose_eval=False,
    )
    notes = fitted.report.notes
    assert 3 < own.best_iteration + 1 < 60 - 7
    assert notes["earlyStopping.restored"] is True
    assert len(fitted.trees.trees) == 3 * (own.best_iteration + 1)
    proof("earlyStopping", "xgboost's early_stopping_rounds, difference of the best round",
          abs(notes["earlyStopping.bestEpoch"] - own.best_iteration - 1), at_most=0)  # fmt: skip
    x = golden(data)
    theirs = own.predict(xgboost.DMatrix(x), iteration_range=(0, own.best_iteration + 1))
    assert np.abs(softmax(fitted.scores(x), axis=1) - theirs).max() <= 1e-6


def test_dart_goes_back_to_the_booster_that_was_best() -> None:
    """Later rounds rescale earlier trees, so the first trees of the last booster are not the best model; its bytes are."""
    data = gaussians(classes=2, seed=4)
    blocks = {"dropout": {"p": 0.3}, "earlyStopping": {"patience": 6}}
    fitted = fit(data, blocks, rounds=25, params={"learning_rate": 0.6})
    best = int(fitted.report.notes["earlyStopping.bestEpoch"])
    assert 1 < best < len(fitted.report.history)
    assert data.validation is not None
    z = fitted.scores(data.validation.x)[:, 1]
    loss = float(np.mean(np.logaddexp(0, z) - z * data.validation.y))
    assert loss == pytest.approx(fitted.report.history[best - 1]["validation"], abs=1e-7)


def test_dropout_is_dart(proof: Prove) -> None:
    data = gaussians(classes=2)
    fitted = fit(data, {"dropout": {"p": 0.4}}, rounds=200, params={"max_depth": 1})
    weights = fitted.trees.weights
    assert (weights < 1).mean() > 0.5
    assert (fit(data, rounds=5).trees.weights == 1).all()
    # without its dropped trees DART is plain boosting, and at rate 0 it is so bit for bit
    none = fit(data, {"dropout": {"p": 0.0}}, rounds=5, params={"max_depth": 1})
    x = golden(data)
    gap = np.abs(none.scores(x) - fit(data, rounds=5, params={"max_depth": 1}).scores(x)).max()
    proof("dropout", "XGBoost DART at rate 0 is plain boosting, largest difference", float(gap), at_most=1e-6)


@pytest.mark.parametrize("method", ["inverse", "effectiveNumber", "logitAdjustment"])
@pytest.mark.parametrize("classes", [2, 3])
def test_rebalanced_probabilities_have_the_true_prior_again(method: str, classes: int) -> None:
    """One leaf per class: the served probabilities are the frequencies (constants have a closed form), the uncorrected ones even."""
    shares = (0.9, 0.1) if classes == 2 else (0.7, 0.25, 0.05)
    data = gaussians(2000, classes, shares=shares, seed=1)
    still = parts(np.zeros((2000, 1)), np.concatenate([data.train.y, data.validation.y]), classes)  # type: ignore[union-attr]
    x = np.zeros((1, 1), dtype=np.float32)
    counts = np.bincount(still.train.y, minlength=classes)
    slow = {"learning_rate": 0.5, "max_depth": 1}
    block = {"classRebalancing": {"method": method}}
    corrected = served(fit(still, block, rounds=60, params=slow), still, x)[0]
    assert np.allclose(corrected, counts / counts.sum(), atol=1e-3)
    block["classRebalancing"]["priorCorrection"] = False  # type: ignore[assignment]
    even = served(fit(still, block, rounds=60, params=slow), still, x)[0]
    if method == "effectiveNumber":
        assert corrected[0] > even[0]
    else:
        assert np.allclose(even, 1 / classes, atol=1e-3)


def test_weights_of_classes_are_scale_pos_weight(proof: Prove) -> None:
    data = gaussians(600, 2, shares=(0.85, 0.15))
    block = {"classRebalancing": {"method": "inverse", "priorCorrection": False}, "l2": {"strength": 1e-2}}
    exact = {"tree_method": "exact", "min_child_weight": 0}  # quantile sketches differ: they see weights of rows alone
    fitted = fit(data, block, params=exact)
    negative, positive = np.bincount(data.train.y)
    weight = len(data.train) / (2 * negative)  # of the negatives: weights have mean 1
    rows = xgboost.DMatrix(data.train.x, data.train.y, weight=np.full(len(data.train), weight))
    own = xgboost.train(
        {"objective": "binary:logistic", "scale_pos_weight": negative / positive, "lambda": 1e-2 * len(data.train),
         **exact, **SMALL, "base_score": float(expit(fitted.trees.base[0]))},
        rows, 40,
    )  # fmt: skip
    x = golden(data)
    worst = np.abs(served(fitted, data, x)[:, 1] - own.predict(xgboost.DMatrix(x))).max()
    proof("classRebalancing", "xgboost's scale_pos_weight, largest difference of p", float(worst), at_most=1e-4)


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "a block of torch": ({"gradientClipping": {}}, {}, r"R38: regularizers.gradientClipping"),
    "trust region": ({"trustRegion": {"reference": "m@v1"}}, {}, r"R38: regularizers.trustRegion"),
    "alpha dropout": ({"dropout": {"kind": "alpha"}}, {}, r"R38: regularizers.dropout.kind"),
    "a schedule": ({"l2": {"schedule": {"kind": "linear"}}}, {}, r"regularizers.l2.schedule"),
    "oversampling": ({"classRebalancing": {"method": "oversample"}}, {}, r"classRebalancing.method"),
    "a block's parameter": ({}, {"reg_lambda": 1}, r"params.reg_lambda: .*set from regularizers"),
    "scale_pos_weight": ({}, {"scale_pos_weight": 3}, r"params.scale_pos_weight"),
    "an unknown parameter": ({}, {"max_dept": 3}, r"params.max_dept: XGBoost .* has no such parameter"),
    "a parameter of DART alone": ({}, {"skip_drop": 0.5}, r"params.skip_drop"),
    "a wrong value": ({}, {"max_depth": -3}, r"engine.xgboost.params: .*max_depth"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_honoured_is_refused_before_the_fit(name: str) -> None:
    blocks, params, message = REFUSED[name]
    made = engine({"xgboost": {"params": params}}, blocks)
    with pytest.raises(InvalidConfigError, match=message):
        made.plan(gaussians(80, 2))


# --- resuming ----------------------------------------------------------------------------------------------------------
class Interrupted(Alone):
    """Saves and leaves after a round; through bytes, like a store."""

    def __init__(self, after: int | None = None, saved: bytes | None = None) -> None:
        self.after, self.saved, self.rounds = after, saved, 0

    def restore(self) -> Any:
        return decode(self.saved)[0] if self.saved is not None else None

    def wants_checkpoint(self) -> bool:
        self.rounds += 1
        return self.rounds == self.after

    def save(self, state: Any) -> None:
        self.saved = encode(state, Identity("c", "d", 0, "w"))

    def stop_if_preempted(self) -> None:
        if self.rounds == self.after:
            raise PreemptedError("now")


STATEFUL: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "sampling": ({"l2": {"strength": 1e-3}}, {"subsample": 0.7, "colsample_bytree": 0.5, "colsample_bynode": 0.7}),
    "dart": ({"dropout": {"p": 0.3}}, {"subsample": 0.7}),
    "stopping": ({"earlyStopping": {"patience": 50}}, {"colsample_bylevel": 0.5}),
    "stopping dart": ({"dropout": {"p": 0.3}, "earlyStopping": {"patience": 50}}, {}),
}


@pytest.mark.parametrize("name", STATEFUL)
def test_resuming_anywhere_ends_in_the_same_bits(name: str) -> None:
    blocks, params = STATEFUL[name]
    data = gaussians(160, 3)
    straight = fit(data, blocks, params=params, rounds=60)
    for after in (1, 25, 26, 43):
        session = Interrupted(after)
        with pytest.raises(PreemptedError):
            fit(data, blocks, params=params, rounds=60, session=session)
        resumed = fit(data, blocks, params=params, rounds=60, session=Interrupted(saved=session.saved))
        assert resumed.booster.save_raw("ubj") == straight.booster.save_raw("ubj"), after
        assert resumed.report.history == straight.report.history


def test_seeds_differ_and_spans_do_not_repeat_themselves() -> None:
    data = gaussians(160, 2)
    params = {"subsample": 0.5, "max_depth": 1}
    one, other = (fit(data, params=params, rounds=50, seed=s).booster.save_raw("ubj") for s in (1, 2))
    assert one != other
    again = fit(data, params=params, rounds=50, seed=1)
    assert again.booster.save_raw("ubj") == one
    hessians = [tree["sum_hessian"][0] for tree in again.trees.trees]
    assert hessians[:25] != hessians[25:]


def test_contributions_and_history_are_told() -> None:
    data = gaussians(200, 3)
    made = engine({"xgboost": {"rounds": 12, "params": SMALL}}, {"l2": {"strength": 1e-2}, "dropout": {"p": 0.1}})
    made.plan(data)
    told = made.fit(data, 1, Alone()).report
    assert [set(h) for h in told.history] == [{"epoch", "train", "validation", "metric"}] * 12
    assert told.history[-1]["train"] < told.history[0]["train"]
    l2 = told.contributions["l2"]
    assert l2.value is not None
    assert l2.weighted == pytest.approx(1e-2 * l2.value)
    resolved = made.resolved()
    assert resolved["xgboost"]["parameters"]["reg_lambda"] == pytest.approx(1e-2 * 150)
    assert resolved["xgboost"]["parameters"]["rate_drop"] == 0.1


# --- whole jobs --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_a_job_becomes_a_version_that_answers_as_it_was_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("TERMINATION_LOG", str(tmp_path / "term"))
    classes = kind == "classification"
    jobs.stage(tmp_path, None if classes else jobs.line())
    blocks: dict[str, Any] = {"l2": {"strength": 1e-2}, "earlyStopping": {"patience": 5}}
    changes: dict[str, Any] = {
        "engine": {"xgboost": {"rounds": 40, "params": {"max_depth": 3}}},
        "regularizers": blocks | ({"calibration": {}, "classRebalancing": {}} if classes else {}),
        "task": {"type": kind},
        "seeds": 2,
    }
    result = jobs.train(tmp_path, **changes)
    assert result.exit_code == 0
    folder = tmp_path / jobs.VERSION
    saved = json.loads((folder / "regularizers.json").read_text())
    assert saved["resolved"]["xgboost"]["parameters"]["reg_lambda"] > 0
    assert saved["contributions"]["l2"]["value"] > 0
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["parity"]["maxAbsDiff"] <= 1e-5
    assert len(metrics["history"]) > 5
    assert json.loads((folder / "lineage.json").read_text())["framework"].startswith("xgboost ")
    assert result.metrics["accuracy" if classes else "r2"].value > 0.7
