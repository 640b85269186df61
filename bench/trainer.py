"""The trainer beside a bare torch loop, and what a cocktail is worth: `python -m bench.trainer [steps] [digits]`.

steps: CPU time per step of the same network, batch and optimizer, in alternating chunks of one process (noise of the machine hits both);
told are medians over 12 chunks, of the ratio chunk by chunk. A quiet machine is still needed: caches are shared.
`bare` is the loop one writes by hand; `no blocks` is ours without any; each further row adds one block, `cocktail` has all.
`bare, same work` is a hand-written loop that does what the cocktail does, so that the price of the method is told apart from ours; both
are there with torch's default Adam, which the bar is about, and with the fused one, which ours asks for (adr/0078).
digits: examples/quickstart's task (30 % of the training labels random), five seeds, each row one job as its pod runs it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from bench import record
from espalier_api.regularizers import Regularizers
from espalier_cli.demo.digits import load_digits, snapshot_parquet
from espalier_trainer.engines.torch.architectures.mlp import Mlp
from espalier_trainer.engines.torch.loop import Fit, Settings, Tensors
from espalier_trainer.engines.torch.optimizers import OptimizerSpec
from espalier_trainer.protocol import lookup
from espalier_trainer.schedule import ConstantRate
from espalier_trainer.session import Alone

if TYPE_CHECKING:
    from collections.abc import Callable

WIDTH, LAYERS, BATCH, CLASSES = 512, 8, 128, 10
STEPS_PER_CHUNK = 10
CHUNKS = 12
BAR = 1.20  # of the full cocktail, contributions logged (issue 4)
COCKTAIL: dict[str, dict[str, Any]] = {
    "weightDecay": {"strength": 0.1},
    "l2": {"strength": 1e-4, "target": {"include": ["head.*"]}},
    "dropout": {"p": 0.5},
    "noiseInjection": {"std": 0.4},
    "labelSmoothing": {"epsilon": 0.05},
    "gradientClipping": {"maxNorm": 1.0},
    "weightAveraging": {"decay": 0.99},
}
DIGITS: dict[str, dict[str, Any]] = {
    "none": {},
    "weightDecay": {"weightDecay": {"strength": 1.0}},
    "dropout": {"dropout": {"p": 0.5}},
    "noiseInjection": {"noiseInjection": {"std": 0.4}},
    "earlyStopping": {"earlyStopping": {"patience": 10}},
    "robustLoss": {"robustLoss": {"kind": "gce", "q": 0.7}},
    "quickstart": {
        "weightDecay": {"strength": 0.1},
        "dropout": {"p": 0.5},
        "noiseInjection": {"site": "input", "std": 0.4},
        "robustLoss": {"kind": "gce", "q": 0.7},
        "weightAveraging": {"kind": "ema", "decay": 0.99},
        "calibration": {"method": "temperature", "split": "calibration"},
    },
}


@dataclass(frozen=True, slots=True)
class StepFigure:
    """One row; milliseconds per step, and the median over chunks of the ratio to `bare` next to it."""

    name: str
    milliseconds: float
    ratio: float


@dataclass(frozen=True, slots=True)
class DigitsFigure:
    """One row; accuracies of five seeds on clean test rows, excess calibration error, seconds of the whole process."""

    name: str
    accuracy: float
    low: float
    high: float
    calibration_excess: float
    gap: float
    seconds: float


# --- steps ----------------------------------------------------------------------------------------------------------------
def network() -> torch.nn.Sequential:
    """The same for every contender."""
    torch.manual_seed(0)
    return Mlp(WIDTH, [WIDTH] * LAYERS, CLASSES)


def rows() -> tuple[torch.Tensor, torch.Tensor]:
    """A chunk's worth of batches."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(BATCH * STEPS_PER_CHUNK, WIDTH, generator=generator)
    return x, torch.randint(0, CLASSES, (len(x),), generator=generator)


def bare(*, fused: bool = False) -> Callable[[], None]:
    """The loop that one writes by hand; `fused` with the optimizer kernel that ours asks for, which is not torch's default on the CPU."""
    model, (x, y) = network(), rows()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=fused or None)

    def chunk() -> None:
        for part in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            functional.cross_entropy(model(x[part]), y[part]).backward()
            optimizer.step()

    return chunk


def bare_same_work(*, fused: bool = False) -> Callable[[], None]:
    """By hand, with the cocktail's dropout, noise, smoothing, decay, clipping and average."""
    model, (x, y) = network(), rows()
    for layer in model.hidden:
        layer.add_module("dropout", nn.Dropout(0.5))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1, fused=fused or None)
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99))

    def chunk() -> None:
        for part in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            inputs = x[part] + 0.4 * torch.randn(len(part), WIDTH)
            functional.cross_entropy(model(inputs), y[part], label_smoothing=0.05).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            average.update_parameters(model)

    return chunk


def ours(declared: dict[str, dict[str, Any]]) -> Callable[[], None]:
    """Our loop, epoch after epoch of one long fit, with the audits that such a fit has."""
    x, y = rows()
    blocks = [lookup(name)(config) for name, config in Regularizers.model_validate(declared).declared()]
    settings = Settings(OptimizerSpec("adam"), ConstantRate(1e-3), 100_000, BATCH, 0, regression=False)

    class OneChunk(Alone):
        """Leaves the loop at each end of an epoch; the next call goes on."""

        def stop_if_preempted(self) -> None:
            fit.stopped = fit.step % STEPS_PER_CHUNK == 0

    fit = Fit(network(), blocks, Tensors(x, y), None, settings)
    fit._finish = lambda: None  # type: ignore[method-assign]  # noqa: SLF001 - SELECT belongs to the end of a fit, not of a chunk

    def chunk() -> None:
        fit.stopped = False
        fit.run(OneChunk())

    return chunk


def measure_steps() -> list[StepFigure]:
    """Alternate all contenders, chunk by chunk; the first chunk of each warms up."""
    torch.set_num_threads(1)
    contenders = {"bare": bare(), "bare, fused Adam": bare(fused=True), "no blocks": ours({})}
    contenders |= {name: ours({name: block}) for name, block in COCKTAIL.items()}
    contenders |= {"cocktail": ours(COCKTAIL)}
    contenders |= {"bare, same work": bare_same_work(), "bare, same work, fused Adam": bare_same_work(fused=True)}
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(CHUNKS + 1):
        for name, chunk in contenders.items():
            began = time.process_time()
            chunk()
            if number:
                taken[name].append((time.process_time() - began) / STEPS_PER_CHUNK * 1000)
    return [
        StepFigure(
            name,
            round(statistics.median(values), 2),
            round(statistics.median(a / b for a, b in zip(values, taken["bare"], strict=True)), 3),
        )
        for name, values in taken.items()
    ]


# --- digits ---------------------------------------------------------------------------------------------------------------
def job(regularizers: dict[str, Any], place: str, seeds: int) -> dict[str, Any]:
    """examples/quickstart/30-model-regularized.yaml with these blocks."""
    return {
        "model": {"namespace": "bench", "name": "digits"},
        "version": "v1",
        "attempt": 1,
        "specHash": "sha256:bench",
        "task": {"type": "classification"},
        "data": {
            "snapshot": {"uri": "s3://datasets/digits/"},
            "target": "label",
            "features": {"include": ["px*"]},
            "timeColumn": "collected",
            "split": {"strategy": "time", "validation": 0.1, "calibration": 0.1, "test": 0.5, "seed": 7},
        },
        "engine": {
            "torch": {
                "architecture": {"mlp": {"hidden": [256, 256]}},
                "optimizer": {"adamw": {"learningRate": 1e-3}},
                "batchSize": 64,
                "epochs": 60,
            }
        },
        "regularizers": regularizers,
        "seeds": seeds,
        "seed": 7,
        "artifact": {"uri": f"s3://models/{place}/"},
        "checkpoint": {"uri": f"s3://checkpoints/{place}/"},
    }


def measure_digits(seeds: int, only: list[str]) -> list[DigitsFigure]:
    """One process per row; accuracies are of the published versions' metrics.json."""
    figures = []
    with tempfile.TemporaryDirectory(prefix="espalier-bench-") as folder:
        root = Path(folder)
        (root / "datasets/digits").mkdir(parents=True)
        (root / "datasets/digits/part-0.parquet").write_bytes(snapshot_parquet(load_digits()))
        for name, regularizers in ((n, r) for n, r in DIGITS.items() if n in only):
            (root / "job.json").write_text(json.dumps(job(regularizers, name, seeds)))
            command = [
                sys.executable,
                "-m",
                "espalier_trainer",
                "--job",
                str(root / "job.json"),
                "--local",
                str(root),
                "--port",
                "0",
            ]
            began = time.monotonic()
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{name} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
            seconds = time.monotonic() - began
            recorded = json.loads((root / "models" / name / "metrics.json").read_text())
            accuracies = [one["accuracy"] for one in recorded["seeds"]]
            excess = statistics.mean(one["calibrationErrorExcess"] for one in recorded["seeds"])
            gap = statistics.mean(one["validationGap"] for one in recorded["seeds"])
            figures.append(
                DigitsFigure(
                    name,
                    round(statistics.mean(accuracies), 4),
                    round(min(accuracies), 4),
                    round(max(accuracies), 4),
                    round(excess, 4),
                    round(gap, 3),
                    round(seconds, 1),
                )
            )
            print(f"  {figures[-1]}", file=sys.stderr)
    return figures


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=["steps", "digits"], choices=["steps", "digits"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--rows", nargs="*", default=list(DIGITS), choices=list(DIGITS), help="rows of the digits table"
    )
    parser.add_argument("--json", type=Path, default=record.FOLDER / "trainer.json")
    arguments = parser.parse_args()
    told: dict[str, Any] = {"where": record.surroundings()}
    print(record.told(told["where"]))
    if "steps" in arguments.parts:
        figures = measure_steps()
        told["steps"] = [asdict(f) for f in figures]
        print(f"{LAYERS} x {WIDTH}^2, batch {BATCH}, Adam, one thread, CPU time\n{'':29}{'ms/step':>9}{'x bare':>9}")
        print("\n".join(f"{f.name:29}{f.milliseconds:9.2f}{f.ratio:9.3f}" for f in figures))
        ratio = {f.name: f.ratio for f in figures}
        reached = ratio["cocktail"]
        verdict = "met" if reached <= BAR else "MISSED"
        beside = {name: round(reached / ratio[name], 2) for name in ratio if name.startswith("bare, ")}
        print(
            f"cocktail, median of {CHUNKS} paired runs: {reached:.3f}, bar {BAR} ({verdict}); load {os.getloadavg()[0]:.1f}; "
            f"beside other loops: {beside}"
        )
    if "digits" in arguments.parts:
        rows_ = measure_digits(arguments.seeds, arguments.rows)
        told["digits"] = [asdict(f) for f in rows_]
        print(f"\ndigits, 30 % label noise, {arguments.seeds} seeds")
        print(f"{'':16}{'accuracy':>9}{'min':>8}{'max':>8}{'ECE-null':>10}{'gap':>8}{'s':>7}")
        print(
            "\n".join(
                f"{f.name:16}{f.accuracy:9.4f}{f.low:8.4f}{f.high:8.4f}{f.calibration_excess:10.4f}{f.gap:8.3f}{f.seconds:7.1f}"
                for f in rows_
            )
        )
    record.keep(arguments.json, told)


if __name__ == "__main__":
    main()
