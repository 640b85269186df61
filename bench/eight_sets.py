"""Is a searched cocktail better than any single regularizer and than boosted trees? `python -m bench.eight_sets [--resume] [--sets ...]`.

In the shape of Kadra et al. 2021, on eight sets that need no download service (section 8.3). Each contender gets the same TRIALS fits per
set and seed, drawn by our own random search over its own strength (a contender with fewer values has fewer), and ships the trial with the
best balanced accuracy on validation rows; ties go to the lower log loss there, after a temperature. Test rows choose nothing. Every
number is balanced accuracy on test rows, in points, before priorCorrection (the decision that balanced accuracy asks for). Splits are
stratified 60/20/20, other rows per seed, the same for all contenders; training and validation rows are cut to CAP, and what is cut is
test. Networks are MLPs of two layers of WIDTH, AdamW 1e-3, batches of BATCH, STEPS steps; features are standardized on the training rows.

Told are mean ranks over sets (1 is best; ties share), and Wilcoxon signed-rank p of the cocktail against each over sets x seeds and over
the means of sets. Pairs of one set share rows, so the first p is optimistic; the second has 8 pairs, and 0.008 is the least it can be. No
p is corrected for there being many. One JSON per set and seed goes to out/bench/eight_sets/; --resume keeps those that are there.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import train_test_split

from bench import eight_sets_table, record
from bench.eight_sets_data import SETS, Table
from bench.searching import best_of, fit
from espalier_api.training import TrainingJob
from espalier_trainer.engines import FitData, Part
from espalier_trainer.evaluation.calibration import fit_temperature, log_loss

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    Rows = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]

SEEDS, TRIALS, CAP = 5, 10, 400
WIDTH, BATCH, STEPS = 128, 32, 400
COCKTAIL, TREES, NONE = "searched cocktail", "XGBoost", "none"
SWITCH: Final = {"categories": ["false", "true"]}
SINGLES: Final[dict[str, dict[str, Any]]] = {
    "weightDecay": {"weightDecay.strength": {"logUniform": {"min": 0.01, "max": 3.0}}},
    "l1": {"l1.strength": {"logUniform": {"min": 1e-5, "max": 1e-2}}},
    "dropout": {"dropout.p": {"uniform": {"min": 0.05, "max": 0.7}}},
    "normalization": {"normalization.kind": {"categories": ["batch", "layer"]}},
    "labelSmoothing": {"labelSmoothing.epsilon": {"uniform": {"min": 0.02, "max": 0.3}}},
    "mixup": {"batchMixing.alpha": {"logUniform": {"min": 0.05, "max": 1.0}}},
    "input noise": {"noiseInjection.std": {"uniform": {"min": 0.05, "max": 1.0}}},
    "fgsm": {"adversarial.epsilon": {"logUniform": {"min": 0.01, "max": 0.5}}},
    "weight average": {"weightAveraging.decay": {"uniform": {"min": 0.9, "max": 0.995}}},
    "early stopping": {"earlyStopping.patience": {"intUniform": {"min": 2, "max": 20}}},
    "class rebalancing": {"classRebalancing.tau": {"uniform": {"min": 0.1, "max": 1.5}}},
}
MIX: Final[dict[str, Any]] = {
    "weightDecay.strength": {"logUniform": {"min": 0.01, "max": 1.0}},
    "dropout.p": {"choice": [0.0, 0.1, 0.2, 0.35, 0.5]},
    "normalization.kind": {"categories": ["none", "batch", "layer"]},
    "labelSmoothing": SWITCH,
    "batchMixing": SWITCH,
    "noiseInjection.std": {"uniform": {"min": 0.02, "max": 0.5}},
    "weightAveraging.decay": {"uniform": {"min": 0.9, "max": 0.995}},
    "classRebalancing.tau": {"choice": [0.0, 0.5, 1.0]},
}
FIXED: Final[dict[str, dict[str, Any]]] = {
    "fgsm": {"adversarial": {"attack": "fgsm", "mix": 0.5}},
    "class rebalancing": {"classRebalancing": {"priorCorrection": False}},
    COCKTAIL: {"classRebalancing": {"priorCorrection": False}},
}
"""What a space does not vary but must be declared."""


def job(rows: int, regularizers: Mapping[str, Any], space: Mapping[str, Any] | None = None) -> TrainingJob:
    """The network, trained for STEPS steps whatever the number of rows."""
    told: dict[str, Any] = {
        "model": {"namespace": "bench", "name": "eight"},
        "version": "v1",
        "attempt": 1,
        "specHash": "sha256:bench",
        "task": {"type": "classification"},
        "data": {"snapshot": {"uri": "s3://bench/eight/"}, "target": "label"},
        "engine": {
            "torch": {
                "architecture": {"mlp": {"hidden": [WIDTH, WIDTH]}},
                "optimizer": {"adamw": {"learningRate": 1e-3}},
                "epochs": round(STEPS / max(1, rows // BATCH)),
                "batchSize": BATCH,
            }
        },
        "regularizers": dict(regularizers),
        "artifact": {"uri": "s3://bench/v1/"},
        "checkpoint": {"uri": "s3://bench/.checkpoints/v1/"},
    }
    if space is not None:
        method = "grid" if all("categories" in one for one in space.values()) else "random"
        objective = {"metric": "balancedAccuracy", "goal": "maximize"}
        paths = {f"regularizers.{path}": values for path, values in space.items()}
        told["search"] = {"method": method, "trials": TRIALS, "space": paths, "objective": objective}
    return TrainingJob.model_validate(told)


def rows_of(table: Table, seed: int) -> tuple[FitData, Rows]:
    """Training and validation rows, standardized by the training rows, and the test rows."""
    everything = np.arange(len(table.y))
    rest, test = train_test_split(everything, test_size=0.2, random_state=seed, stratify=table.y)
    train, held = train_test_split(rest, test_size=0.25, random_state=seed, stratify=table.y[rest])
    more = [test]
    if len(train) > CAP:
        train, cut = train_test_split(train, train_size=CAP, random_state=seed, stratify=table.y[train])
        more.append(cut)
    if len(held) > CAP:
        held, cut = train_test_split(held, train_size=CAP, random_state=seed, stratify=table.y[held])
        more.append(cut)
    test = np.concatenate(more)
    mean, spread = table.x[train].mean(0), table.x[train].std(0)
    x = np.divide(table.x - mean, spread, out=np.zeros_like(table.x), where=spread > 0).astype(np.float32)
    data = FitData(
        train=Part(x[train], table.y[train]),
        validation=Part(x[held], table.y[held]),
        classes=table.classes,
        features=tuple(f"f{i}" for i in range(x.shape[1])),
        splits=frozenset({"train", "validation", "test"}),
    )
    return data, (x[test], table.y[test])


def merit(scores: npt.NDArray[np.float64], y: npt.NDArray[np.int64]) -> float:
    """Balanced accuracy in points."""
    return 100.0 * float(balanced_accuracy_score(y, scores.argmax(1)))


def judged(scores: npt.NDArray[np.float64], y: npt.NDArray[np.int64]) -> tuple[float, float]:
    """What chooses among trials: balanced accuracy, then minus the log loss after a temperature."""
    return merit(scores, y), -log_loss(scores, y, fit_temperature(scores, y))


def network(name: str, data: FitData, test: Rows, seed: int) -> dict[str, Any]:
    """One contender on one draw of one set."""
    held, rows = data.validation, len(data.train)
    assert held is not None  # noqa: S101 - rows_of made some
    if name == NONE:
        return {"test": merit(fit(job(rows, {}), data, seed).scores(test[0]), test[1]), "trials": 1}
    told = job(rows, FIXED.get(name, {}), MIX if name == COCKTAIL else SINGLES[name])
    won = best_of(told, data, seed, lambda fitted: judged(fitted.scores(held.x), held.y))
    told_of = {"trials": won.trials, "failed": won.failed, "validation": won.objective, "params": won.params}
    return {"test": merit(won.fitted.scores(test[0]), test[1]), **told_of}


def trees(data: FitData, test: Rows, seed: int) -> dict[str, Any]:
    """XGBoost: its defaults, then random draws of its usual knobs; rows weighted by class^-tau like the network's rebalancing."""
    from xgboost import XGBClassifier  # noqa: PLC0415 - only this contender needs it

    held, rng = data.validation, np.random.default_rng(seed)
    assert held is not None  # noqa: S101 - rows_of made some
    share = np.bincount(data.train.y, minlength=data.classes) / len(data.train)
    best: tuple[tuple[float, float], Any, dict[str, float]] | None = None
    for number in range(TRIALS):
        tau = float(rng.choice([0.0, 0.5, 1.0]))
        drawn: dict[str, Any] = {
            "n_estimators": int(rng.integers(50, 301)),
            "max_depth": int(rng.integers(2, 9)),
            "learning_rate": float(np.exp(rng.uniform(np.log(0.02), np.log(0.3)))),
            "subsample": float(rng.uniform(0.5, 1.0)),
            "colsample_bytree": float(rng.uniform(0.5, 1.0)),
            "reg_lambda": float(np.exp(rng.uniform(np.log(0.1), np.log(10.0)))),
        }
        tau, drawn = (tau, drawn) if number else (0.0, {})
        made = XGBClassifier(**drawn, random_state=seed, n_jobs=1)
        made.fit(data.train.x, data.train.y, sample_weight=share[data.train.y] ** -tau)
        value = judged(np.log(made.predict_proba(held.x) + 1e-9), held.y)
        if best is None or value > best[0]:
            best = value, made, {"tau": tau, **drawn}
    assert best is not None  # noqa: S101 - TRIALS is not 0
    reached = merit(best[1].predict_proba(test[0]), test[1])
    return {"test": reached, "trials": TRIALS, "validation": best[0][0], "params": best[2]}


def one(table: Table, seed: int) -> dict[str, Any]:
    """All contenders on one draw of one set."""
    data, test = rows_of(table, seed)
    held = data.validation
    assert held is not None  # noqa: S101 - rows_of made some
    found: dict[str, Any] = {}
    for name in (NONE, *SINGLES, COCKTAIL, TREES):
        began = time.process_time()
        found[name] = trees(data, test, seed) if name == TREES else network(name, data, test, seed)
        found[name]["cpuSeconds"] = round(time.process_time() - began, 2)
    sizes = {"train": len(data.train), "validation": len(held), "test": len(test[1])}
    setting = {"trials": TRIALS, "steps": STEPS, "cap": CAP, "width": WIDTH}
    sizes |= {"features": table.x.shape[1], "classes": table.classes}
    return {"set": table.name, "seed": seed, "sizes": sizes, "setting": setting, "found": found}


def main() -> None:
    """Every set and seed that is not there yet, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="*", choices=SETS, default=list(SETS), help="default: all")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"default {SEEDS}")
    parser.add_argument("--resume", action="store_true", help="keep what is in --out already")
    parser.add_argument("--out", type=Path, default=record.FOLDER / "eight_sets", help="folder for JSON and picture")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cells = []
    for seed in range(arguments.seeds):  # all sets of a seed first: whatever was cut short is comparable
        for name in arguments.sets:
            path = arguments.out / f"{name}-{seed}.json"
            if not (arguments.resume and path.exists()):
                began = time.process_time()
                record.keep(path, {**one(SETS[name](), seed), "where": record.surroundings()})
                print(f"{name} {seed}: {time.process_time() - began:.0f} s CPU", flush=True)
            cells.append(json.loads(path.read_text()))
    print(record.told(record.surroundings()))
    summary = eight_sets_table.summary(cells, COCKTAIL)
    print(eight_sets_table.text(summary))
    record.keep(arguments.out / "summary.json", {**summary, "where": record.surroundings()})
    (arguments.out / "ranks.png").write_bytes(eight_sets_table.picture(summary))


if __name__ == "__main__":
    main()
