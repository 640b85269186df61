"""What regularizers are worth on digits: `python -m bench.quality [--seeds 5] [--trials 40] [--noise 0.3] [--out FILE]`.

The reference's set-up (section 8.2): 300 training rows (a share of whose labels are random), 100 clean validation rows, 700 test rows,
MLP 64-256-256-10, AdamW 1e-3, 100 epochs; other rows per seed. Single blocks, then a cocktail searched per seed with our own proposals
(optuna's TPE) by validation accuracy, XGBoost and SVMs beside them. Paired by seed; losses are printed like wins. ECE15 is told before
and after a temperature fitted on the validation rows. Strengths are those of the reference in units of a feature's deviation.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

from espalier_api.search import Search
from espalier_api.training import TrainingJob
from espalier_trainer.engines import FitData, Part
from espalier_trainer.errors import DivergedError, InvalidConfigError
from espalier_trainer.evaluation.calibration import ece, fit_temperature, softmax
from espalier_trainer.selection import build, proposals, space
from espalier_trainer.session import Alone

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy.typing as npt

    Rows = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]

TRAIN, HELD, TEST, CLASSES = 300, 100, 700, 10
SINGLES: Final[dict[str, dict[str, Any]]] = {
    "none": {},
    "weightDecay 1": {"weightDecay": {"strength": 1.0}},
    "dropout 0.5": {"dropout": {"p": 0.5}},
    "labelSmoothing 0.1": {"labelSmoothing": {"epsilon": 0.1}},
    "earlyStopping": {"earlyStopping": {"patience": 10}},
    "batchMixing mixup 0.4": {"batchMixing": {"alpha": 0.4}},
    "noiseInjection 0.6": {"noiseInjection": {"std": 0.6}},
    "robustLoss gce 0.7": {"robustLoss": {"kind": "gce", "q": 0.7}},
    "adversarial fgsm 0.3": {"adversarial": {"attack": "fgsm", "epsilon": 0.3, "mix": 1.0}},
    "cocktail (quickstart)": {
        "weightDecay": {"strength": 0.1},
        "dropout": {"p": 0.5},
        "noiseInjection": {"std": 0.4},
        "robustLoss": {"kind": "gce", "q": 0.7},
        "weightAveraging": {"decay": 0.99},
    },
}
SPACE: Final[dict[str, Any]] = {
    "regularizers.weightDecay.strength": {"logUniform": {"min": 0.01, "max": 3.0}},
    "regularizers.dropout.p": {"uniform": {"min": 0.0, "max": 0.7}},
    "regularizers.noiseInjection.std": {"uniform": {"min": 0.05, "max": 1.0}},
    "regularizers.adversarial.epsilon": {"uniform": {"min": 0.05, "max": 0.8}},
    "regularizers.adversarial.mix": {"uniform": {"min": 0.0, "max": 1.0}},
    "regularizers.weightAveraging.decay": {"uniform": {"min": 0.9, "max": 0.995}},
    "regularizers.normalization.kind": {"categories": ["none", "batch", "layer"]},
}


def job(regularizers: Mapping[str, Any], search: Mapping[str, Any] | None = None) -> TrainingJob:
    """The network of the reference with these blocks."""
    told: dict[str, Any] = {
        "model": {"namespace": "bench", "name": "digits"},
        "version": "v1",
        "attempt": 1,
        "specHash": "sha256:bench",
        "task": {"type": "classification"},
        "data": {"snapshot": {"uri": "s3://bench/digits/"}, "target": "label"},
        "engine": {
            "torch": {
                "architecture": {"mlp": {"hidden": [256, 256]}},
                "optimizer": {"adamw": {"learningRate": 1e-3}},
                "epochs": 100,
                "batchSize": 32,
            }
        },
        "regularizers": dict(regularizers),
        "artifact": {"uri": "s3://bench/v1/"},
        "checkpoint": {"uri": "s3://bench/.checkpoints/v1/"},
    }
    return TrainingJob.model_validate({**told, "search": search} if search else told)


def rows_of(seed: int, noise: float) -> tuple[FitData, Rows]:
    """Training and validation rows, standardized on the training rows, and the test rows."""
    x, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(y))
    parts = np.split(order[: TRAIN + HELD + TEST], [TRAIN, TRAIN + HELD])
    mean, spread = x[parts[0]].mean(0), x[parts[0]].std(0)
    x = np.divide(x - mean, spread, out=np.zeros_like(x), where=spread > 0).astype(np.float32)
    labels = y[parts[0]].copy()
    wrong = rng.random(TRAIN) < noise
    labels[wrong] = rng.integers(0, CLASSES, int(wrong.sum()))
    fit = FitData(
        train=Part(x[parts[0]], labels.astype(np.int64)),
        validation=Part(x[parts[1]], y[parts[1]].astype(np.int64)),
        classes=CLASSES,
        features=tuple(f"p{i}" for i in range(x.shape[1])),
        splits=frozenset({"train", "validation", "test"}),
    )
    return fit, (x[parts[2]], y[parts[2]].astype(np.int64))


def train(told: TrainingJob, data: FitData, seed: int) -> Any:  # noqa: ANN401 - whichever engine
    """One fit."""
    engine = build.engine(told)
    engine.plan(data)
    return engine.fit(data, seed, Alone())


def accuracy(fitted: Any, x: npt.NDArray[np.float32], y: npt.NDArray[np.int64]) -> float:  # noqa: ANN401
    """In points."""
    return 100.0 * float((fitted.scores(x).argmax(1) == y).mean())


def measured(fitted: Any, data: FitData, test: Rows) -> dict[str, float]:  # noqa: ANN401
    """Test accuracy in points, ECE before and after a temperature fitted on validation rows."""
    held = data.validation
    assert held is not None  # noqa: S101 - rows_of made some
    scores = fitted.scores(test[0])
    temperature = fit_temperature(fitted.scores(held.x), held.y)
    correct = (scores.argmax(1) == test[1]).astype(np.float64)
    before, after = softmax(scores).max(1), softmax(scores, temperature).max(1)
    return {"accuracy": 100.0 * correct.mean(), "ece": ece(before, correct), "eceAfter": ece(after, correct)}


def searched(data: FitData, test: Rows, seed: int, trials: int) -> tuple[dict[str, float], dict[str, Any]]:
    """The best of `trials` cocktails by validation accuracy, and what it was and cost."""
    told = job(
        {"robustLoss": {"kind": "gce", "q": 0.7}},
        {
            "method": "bayesian",
            "trials": trials,
            "space": SPACE,
            "objective": {"metric": "accuracy", "goal": "maximize"},
        },
    )
    search = told.search
    assert isinstance(search, Search)  # noqa: S101 - given above
    held = data.validation
    assert held is not None  # noqa: S101 - rows_of made some
    records: list[dict[str, Any]] = []
    best: tuple[float, Any, dict[str, Any]] | None = None
    began = time.process_time()
    for number in range(trials):
        values = proposals.propose(search, seed, records)
        record: dict[str, Any] = {"number": number, "params": values, "status": "Succeeded"}
        try:
            fitted = train(space.candidate(told, values), data, seed)
            record["objective"] = accuracy(fitted, held.x, held.y)
        except (InvalidConfigError, DivergedError) as error:
            record |= {"status": "Failed", "reason": str(error)}
        records.append(record)
        if "objective" in record and (best is None or record["objective"] > best[0]):
            best = record["objective"], fitted, dict(values)
    assert best is not None  # noqa: S101 - a search without one good trial is no result
    cost = {"cpuSeconds": round(time.process_time() - began, 1), "trials": trials, "validation": best[0]}
    return measured(best[1], data, test), {**cost, "params": best[2]}


def others(data: FitData, test: Rows, seed: int) -> dict[str, float]:
    """Test accuracy of well-known models on the same rows, in points."""
    from xgboost import XGBClassifier  # noqa: PLC0415 - only this comparison needs it

    x, y = data.train.x, data.train.y
    makers: dict[str, Callable[[], Any]] = {
        "logistic regression": lambda: LogisticRegression(max_iter=2000),
        "random forest": lambda: RandomForestClassifier(300, random_state=seed),
        "XGBoost": lambda: XGBClassifier(n_estimators=200, random_state=seed, n_jobs=1),
        "SVM C=1": lambda: SVC(C=1),
        "SVM C=10": lambda: SVC(C=10),
    }
    return {name: 100.0 * float((make().fit(x, y).predict(test[0]) == test[1]).mean()) for name, make in makers.items()}


def table(found: Mapping[str, list[dict[str, float]]]) -> str:
    """Mean accuracy (least to most), difference to none with wins, ECE before and after the temperature."""
    base = [one["accuracy"] for one in found["none"]]
    lines = [f"{'blocks':28} {'accuracy':>22} {'vs none':>8} {'wins':>6} {'ECE':>6} {'after T':>8}"]
    for name, runs in found.items():
        values = [one["accuracy"] for one in runs]
        gains = [a - b for a, b in zip(values, base, strict=True)]
        spread = f"{statistics.mean(values):6.2f} ({min(values):.1f}-{max(values):.1f})"
        wins = f"{sum(g > 0 for g in gains)}/{len(gains)}"
        line = f"{name:28} {spread:>22} {statistics.mean(gains):+8.2f} {wins:>6}"
        if "ece" in runs[0]:
            line += (
                f" {statistics.mean(r['ece'] for r in runs):6.3f} {statistics.mean(r['eceAfter'] for r in runs):8.3f}"
            )
        lines.append(line)
    return "\n".join(lines)


def main() -> None:
    """Fit, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="paired repetitions (default 5)")
    parser.add_argument("--trials", type=int, default=40, help="of each search (default 40; 0: no search)")
    parser.add_argument(
        "--noise", type=float, default=0.3, help="share of training labels drawn at random (default 0.3)"
    )
    parser.add_argument("--out", type=Path, help="also write JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[dict[str, float]]] = {}
    costs = []
    for seed in range(arguments.seeds):
        data, test = rows_of(seed, arguments.noise)
        for name, blocks in SINGLES.items():
            found.setdefault(name, []).append(measured(train(job(blocks), data, seed), data, test))
        if arguments.trials:
            result, cost = searched(data, test, seed, arguments.trials)
            found.setdefault("searched cocktail", []).append(result)
            costs.append(cost)
        for name, value in others(data, test, seed).items():
            found.setdefault(name, []).append({"accuracy": value})
        print(f"seed {seed} done", flush=True)
    print(f"noise {arguments.noise:g}, {arguments.seeds} seeds, torch {torch.__version__}, {platform.machine()}")
    print(table(found))
    for cost in costs:
        print(f"search: {cost}")
    if arguments.out:
        told = {"noise": arguments.noise, "torch": torch.__version__, "found": found, "searches": costs}
        arguments.out.write_text(json.dumps(told, indent=1, default=float) + "\n")


if __name__ == "__main__":
    main()
