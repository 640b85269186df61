"""Safety: a second dataset in the objective, against scikit-learn's weighted fit; violations on rows that were held out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from espalier_trainer.data.safety import _halves
from espalier_trainer.engines.torch.architectures.mlp import Mlp
from espalier_trainer.errors import InvalidConfigError
from tests.unit.trainer import jobs
from tests.unit.trainer.problems import Problem, classification, regression, solve

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Prove

SAFETY = {"dataset": "s3://datasets/safe/"}
L2 = {"l2": {"strength": 1e-2}}


def tasks(seed: int = 0) -> tuple[Problem, Problem, Problem]:
    """A task whose rows never show where the safe answers live, safe rows there, and more of them to judge by."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(200, 4))
    main = Problem(x, (x[:, 0] + 0.3 * rng.normal(size=200) > 0).astype(np.int64), 2)
    there = np.array([2.0, 3.0, 0, 0]) + rng.normal(size=(260, 4))  # looks positive to the task, and must be refused
    return (
        main,
        Problem(there[:60], np.zeros(60, dtype=np.int64), 2),
        Problem(there[60:], np.zeros(200, dtype=np.int64), 2),
    )


def declared(**changes: Any) -> dict[str, Any]:
    return {"safety": {**SAFETY, **changes}, **L2}


def test_the_term_is_a_weighted_dataset(proof: Prove) -> None:
    """mean over the task + strength * mean over safety is a weighted log loss over both, which scikit-learn minimizes."""
    main, safe, _ = tasks()
    strength = 0.5
    fit = solve(
        main, declared(strength=strength), extra={"safety": safe}, rate=0.4, options={"momentum": 0.9}, steps=1200
    )
    weight = np.concatenate([np.full(200, 1 / 200), np.full(60, strength / 60)])
    head = fit.model.head.weight.detach().numpy()
    # ours penalizes both columns: |w1|^2 + |w2|^2 = |w1 - w2|^2 / 2 at the optimum
    worst = float(np.abs(head[1] - head[0] - _binary(main, safe, weight)).max())
    proof("safety", "sklearn LogisticRegression with weights: coefficients", worst, at_most=1e-6)


def _binary(main: Problem, safe: Problem, weight: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Coefficients with the penalty 1e-2/4 |w|^2, i.e. C = 1 / (1e-2 / 2)."""
    oracle = LogisticRegression(C=2 / 1e-2, tol=1e-12, max_iter=5000)
    oracle.fit(np.concatenate([main.x, safe.x]), np.concatenate([main.y, safe.y]), weight)
    return np.asarray(oracle.coef_[0])


def test_violations_fall_and_come_back_without_the_block(proof: Prove) -> None:
    main, safe, held = tasks()

    def violated(blocks: dict[str, Any]) -> float:
        torch.manual_seed(0)
        model = Mlp(4, [16], 2).double()
        solve(main, blocks, kind="adam", rate=0.02, steps=150, batch=50, extra={"safety": safe}, model=model)
        return float((model(torch.tensor(held.x)).argmax(-1).numpy() != held.y).mean())

    with_it, without = violated({"safety": SAFETY}), violated({})
    proof("safety", "held-out rows answered wrongly without the block, minus with it", without - with_it, at_least=0.5)
    proof("safety", "held-out rows answered wrongly with the block", with_it, at_most=0.05)


def test_labels_stay_hard_when_excluded_from_smoothing() -> None:
    """The gradient of the term is that of plain cross-entropy, or of the smoothed one."""
    main, safe, _ = tasks()
    smoothing = {"labelSmoothing": {"epsilon": 0.2}}

    def term(**changes: Any) -> float:
        fit = solve(main, {"safety": {**SAFETY, **changes}, **smoothing}, extra={"safety": safe}, rate=0.1, steps=5)
        view = fit.fit_view
        (block,) = (b for b in fit.blocks if b.name == "safety")
        scores = view.forward(torch.tensor(main.x))
        found = block.loss_terms(scores, fit.train.all(), None)["safety"]  # type: ignore[arg-type]
        answers = view.forward(torch.tensor(safe.x))
        hard = torch.nn.functional.cross_entropy(answers, torch.tensor(safe.y))
        return float((found - hard).detach())

    assert term(excludeFromSmoothing=True) == pytest.approx(0, abs=1e-15)
    assert term() > 1e-3


def test_strength_zero_is_the_plain_fit_bit_for_bit() -> None:
    main, safe, _ = tasks()
    off = declared(schedule={"kind": "constant", "to": 0.0})
    one, other = (
        solve(main, d, extra={"safety": safe}, steps=20, batch=50).parameters["head.weight"] for d in (off, L2)
    )
    assert torch.equal(one, other)


def test_a_quarter_is_held_out() -> None:
    taught, held = _halves(103, 5)
    assert sorted([*taught.tolist(), *held.tolist()]) == list(range(103))
    assert len(held) == 26


def test_what_has_no_safety_is_refused() -> None:
    with pytest.raises(InvalidConfigError, match="a violation is a wrong class"):
        solve(regression(), {"safety": SAFETY}, steps=1)
    with pytest.raises(InvalidConfigError, match="was not loaded for this fit"):
        solve(classification(), {"safety": SAFETY}, steps=1)


def test_a_job_reads_its_safety_rows_and_tells_violations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERMINATION_LOG", str(tmp_path / "term"))
    jobs.stage(tmp_path)
    (tmp_path / "datasets/safe").mkdir()
    pq.write_table(jobs.gaussians(80, seed=1), tmp_path / "datasets/safe/part-0.parquet")
    result = jobs.train(tmp_path, regularizers={"safety": SAFETY, "calibration": {}})
    assert result.outcome == "Succeeded", result.message
    told = json.loads((tmp_path / jobs.VERSION / "metrics.json").read_text())["metrics"]["safetyViolation"]
    assert told["n"] == 20
    assert 0 <= told["value"] <= 1
    pq.write_table(jobs.line(80, seed=1), tmp_path / "datasets/safe/part-0.parquet")
    again = {"model": {"namespace": "vision", "name": "other"}, "artifact": {"uri": "s3://models/vision/other/v1/"}}
    refused = jobs.train(tmp_path, regularizers={"safety": SAFETY, "calibration": {}}, **again)
    assert refused.outcome == "DataProblem"
    assert "regularizers.safety.dataset" in refused.message
