"""What a teacher is worth: `python -m bench.transfer [--seeds N]`. The reference's row: 40 % of a small student's labels are random.

Digits: 750 training rows, the rest is the test. The teacher (64-256-256-10) sees the clean labels of the same rows; the student (64-32-10)
the noisy ones, once by its hard loss and once distilled with the block's defaults but alpha 1. Our loop, no job around it; accuracy in
points as the mean over seeds (smallest-largest). The reference's own figures, by another loop over 8 seeds: 74.6 -> 96.1.
"""

from __future__ import annotations

import argparse
import statistics
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.datasets import load_digits

from espalier_api.regularizers import Regularizers
from espalier_trainer.engines.torch.architectures.mlp import Mlp
from espalier_trainer.engines.torch.loop import Fit, Settings, Tensors
from espalier_trainer.engines.torch.optimizers import OptimizerSpec
from espalier_trainer.protocol import PlanContext, Reference, lookup
from espalier_trainer.schedule import ConstantRate
from espalier_trainer.session import Alone

if TYPE_CHECKING:
    import numpy.typing as npt

ROWS, CLASSES, NOISE = 750, 10, 0.4
EPOCHS, BATCH, RATE = 100, 64, 1e-3


def fit(
    x: npt.NDArray[np.float64],
    y: npt.NDArray[np.int64],
    hidden: list[int],
    seed: int,
    blocks: dict[str, Any],
    reference: Reference | None = None,
) -> Fit:
    """Train on rows `x` (rows, 64) with labels `y` (rows,)."""
    torch.manual_seed(seed)
    made = [lookup(name)(config) for name, config in Regularizers.model_validate(blocks).declared()]
    steps = -(-len(y) // BATCH)
    context = PlanContext(
        regression=False,
        classes=CLASSES,
        features=tuple(f"p{i}" for i in range(x.shape[1])),
        rows=len(y),
        epochs=EPOCHS,
        steps_per_epoch=steps,
        optimizer="adamw",
        target_scale=1.0,
        splits=frozenset({"train"}),
        declared=frozenset(blocks),
        references={"teacher": reference} if reference is not None else {},
    )
    for block in made:
        block.plan(context)
    settings = Settings(OptimizerSpec("adamw", {}), ConstantRate(RATE), EPOCHS, BATCH, seed, regression=False)
    train = Tensors(torch.tensor(x, dtype=torch.float32), torch.tensor(y))
    done = Fit(Mlp(x.shape[1], hidden, CLASSES), made, train, None, settings)
    done.run(Alone())
    return done


def one(seed: int) -> tuple[float, float, float]:
    """Accuracies of teacher, student on its own, distilled student, in points."""
    x, y = load_digits(return_X_y=True)
    draw = np.random.default_rng(seed)
    order = draw.permutation(len(y))
    train, test = order[:ROWS], order[ROWS:]
    x = (x - x[train].mean(0)) / np.maximum(x[train].std(0), 1e-3)
    noisy = np.where(draw.random(ROWS) < NOISE, draw.integers(0, CLASSES, ROWS), y[train])
    teacher = fit(x[train], y[train], [256, 256], seed, {})
    told = torch.log_softmax(teacher.scores(torch.tensor(x[train], dtype=torch.float32)), -1).double().numpy()
    reference = Reference("s3://bench/teacher/v1/", "sha256:0", same_preprocessing=True, scores={"train": told})
    hard = fit(x[train], noisy, [32], seed, {})
    soft = fit(x[train], noisy, [32], seed, {"distillation": {"teacher": "teacher", "alpha": 1.0}}, reference)
    inputs = torch.tensor(x[test], dtype=torch.float32)
    right = [100 * float((each.scores(inputs).argmax(-1).numpy() == y[test]).mean()) for each in (teacher, hard, soft)]
    return right[0], right[1], right[2]


def main() -> None:
    """Print one row per model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    runs = [one(seed) for seed in range(parser.parse_args().seeds)]
    for name, found in zip(
        ("teacher", "student, hard labels", "student, distilled"), zip(*runs, strict=True), strict=True
    ):
        print(f"| {name} | {statistics.mean(found):.1f} ({min(found):.1f}-{max(found):.1f}) |")


if __name__ == "__main__":
    main()
