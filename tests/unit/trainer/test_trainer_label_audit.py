"""Confident learning against noise that was planted: the true joint of given and true labels is the oracle."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest

from espalier_trainer.selection import label_audit
from tests.unit.trainer import jobs

if TYPE_CHECKING:
    from pathlib import Path


def planted(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(points of three Gaussians far apart, true labels, given labels): a fifth of class 0 is called 1, a tenth of class 2 is called 0."""
    draw = np.random.default_rng(seed)
    true = draw.integers(0, 3, n)
    x = np.array([[0.0, 0], [5, 0], [0, 5]])[true] + draw.normal(size=(n, 2))
    given, chance = true.copy(), draw.random(n)
    given[(true == 0) & (chance < 0.2)] = 1
    given[(true == 2) & (chance < 0.1)] = 0
    return x, true, given


def test_the_joint_is_the_planted_one() -> None:
    """Probabilities of the truth, blurred by the noise's own transition, as a fit on many such rows would give them."""
    _, true, given = planted(20_000)
    transition = np.array([[0.8, 0.2, 0.0], [0.0, 1.0, 0.0], [0.1, 0.0, 0.9]])
    expected = np.zeros((3, 3))
    np.add.at(expected, (given, true), 1 / len(true))
    assert np.abs(label_audit.joint(transition[true], given) - expected).max() < 1e-12


def test_clean_labels_have_no_noise_and_absent_classes_do_no_harm() -> None:
    y = np.array([0, 0, 1, 1, 1])
    assert label_audit.joint(np.eye(3)[y], y).tolist() == [[0.4, 0, 0], [0, 0.6, 0], [0, 0, 0]]


def test_a_job_tells_how_many_labels_are_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERMINATION_LOG", str(tmp_path / "term"))
    x, true, given = planted(900)
    jobs.stage(tmp_path, pa.table({"a": x[:, 0], "b": x[:, 1], "label": given}))
    data = {**jobs.job()["data"], "labelColumnNoiseAudit": True}
    blocks = {"l2": {"strength": 1e-3}}
    result = jobs.train(
        tmp_path, data=data, engine={"sklearn": {"estimator": "logisticRegression"}}, regularizers=blocks
    )
    assert result.exit_code == 0, result.message
    told = json.loads((tmp_path / jobs.VERSION / label_audit.FILE).read_text())
    assert told["share"] == pytest.approx((true != given).mean(), abs=0.02)
    assert told["rows"] == 540
    assert {(c["given"], c["likely"]) for c in told["confusions"][:2]} == {("1", "0"), ("0", "2")}
    assert told["byLabel"]["2"] < 0.02


@pytest.mark.slow
def test_an_attempt_after_the_audit_does_not_repeat_it(tmp_path: Path) -> None:
    """Cut in the middle of the fit that follows: the checkpoint has what the five fits came to, beside the fit's own state."""
    x, _, given = planted(300)
    jobs.stage(tmp_path, pa.table({"a": x[:, 0], "b": x[:, 1], "label": given}))
    spec = jobs.job(regularizers={"l2": {"strength": 1e-3}})
    spec["data"], spec["engine"]["torch"]["epochs"] = {**spec["data"], "labelColumnNoiseAudit": True}, 100
    spec["checkpoint"] = {**spec["checkpoint"], "interval": "20ms"}
    with jobs.start(tmp_path, spec) as process:
        entry = next(entry for entry in process.stdout if '"event": "checkpoint"' in entry)
        process.send_signal(signal.SIGTERM)
        log = entry + process.communicate(timeout=60)[0]
        assert process.returncode == 75, log
    with jobs.start(tmp_path, spec) as process:
        log, _ = process.communicate(timeout=120)
        assert process.returncode == 0, log
    said = {event["event"]: event for event in jobs.events(log)}
    assert "label-audit" not in said
    assert said["resumed"]["step"] > 0
    assert json.loads((tmp_path / jobs.VERSION / label_audit.FILE).read_text())["folds"] == label_audit.FOLDS
