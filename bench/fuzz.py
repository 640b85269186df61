"""Random regularizer maps: each is refused with a rule or a field, or trains without an exception. `python -m bench.fuzz --maps 10000`.

Every SHARD maps a JSON of what became of them is written to out/bench/fuzz/; `--resume` keeps those that are whole, so a hunt may be cut
anywhere, and `--first` lets several processes share one.

Maps are drawn from the API's own JSON schema, mostly within the bounds of each field and now and then outside, so a new block or field is
part of the hunt without a line here. What is neither refused by name nor trained to finite scores is printed with its seed; the exit code
is the number of such maps, at most 99. No figure here is a time that matters.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import time
import warnings
from collections import Counter
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from pydantic import ValidationError

from bench import record
from espalier_api.engines import Engine
from espalier_api.regularizers import Regularizers
from espalier_api.rules import Subject, errors, supported, validate
from espalier_api.training import TrainingJob
from espalier_trainer import engines
from espalier_trainer.engines import FitData, Part
from espalier_trainer.errors import DivergedError, InvalidConfigError
from espalier_trainer.preprocessing import scaling
from espalier_trainer.protocol import Reference
from espalier_trainer.session import Alone

if TYPE_CHECKING:
    from espalier_api.preprocessing import Scaling

SHARD: Final = 250
ROWS: Final = 64
SIDE: Final = 4
OUTSIDE: Final = 0.01  # chance that a value ignores its bounds
ANY_BLOCK: Final = 0.1  # chance that blocks are drawn without asking what the engine honours
NAMED: Final = re.compile(r"\bR\d+\b|regularizers|engine\.|data\.|task\.")
TEXTS: Final = {
    "column": ("g", "nowhere"),
    "dataset": ("s3://datasets/safe/",),
    "teacher": ("teacher", "missing"),
    "prior": ("teacher", "previousModel"),
    "reference": ("teacher", "previousModel"),
    "candidates": ("teacher", "other@v1"),
    "layer": ("*", "hidden.*", "hidden.0", "nothing"),
    "include": ("*", "head.*", "*weight", "hidden.*"),
    "exclude": ("head.*", "*bias", "nothing"),
    "protect": ("head.*",),
    "parameter": ("l1.strength", "l2.strength", "dropout.p"),
}
ENGINES: Final[tuple[dict[str, Any], ...]] = (
    {"torch": {"architecture": {"mlp": {"hidden": [12, 12]}}}},
    {"torch": {"architecture": {"mlp": {"hidden": [8, 8, 8, 8, 8, 8], "residual": True}}}},
    {"torch": {"architecture": {"mlp": {"hidden": []}}}},
    {"torch": {"architecture": {"cnn": {"image": [1, SIDE, SIDE], "channels": [4], "hidden": [8]}}}},
    {"torch": {"architecture": {"resnet": {"image": [1, SIDE, SIDE], "blocks": [1], "width": 4}}}},
    {"torch": {"architecture": {"tabularTransformer": {"dim": 8, "depth": 1, "heads": 2}}}},
    {"sklearn": {"estimator": "logisticRegression"}},
    {"sklearn": {"estimator": "histGradientBoosting", "params": {"max_iter": 3}}},
    {"xgboost": {"rounds": 3}},
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one map: `trained`, `refused`, `diverged` or `broken`, and why."""

    kind: str
    why: str = ""


@cache
def schema() -> dict[str, Any]:
    """Of spec.regularizers; making it costs more than most fits of the hunt."""
    return Regularizers.model_json_schema(by_alias=True)


class Drawer:
    """Draws values of a JSON schema."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.schema = schema()

    def blocks(self, honoured: frozenset[str]) -> dict[str, Any]:
        """One to six blocks with some of their fields, mostly such as the engine honours."""
        everything = self.rng.random() < ANY_BLOCK
        pool = sorted(self.schema["properties"] if everything else honoured & set(self.schema["properties"]))
        names = self.rng.sample(pool, min(len(pool), self.rng.choice([1, 1, 2, 2, 3, 4, 6])))
        return {name: self.value(self.schema["properties"][name], name) for name in names}

    def value(self, schema: dict[str, Any], name: str) -> Any:  # noqa: ANN401, PLR0911 - any JSON value; one line per kind
        """A value of the schema; `name` is the field's, for texts that mean something."""
        if "$ref" in schema:
            schema = self.schema["$defs"][schema["$ref"].rsplit("/", 1)[1]]
        if "anyOf" in schema:
            return self.value(self.rng.choice([s for s in schema["anyOf"] if s.get("type") != "null"]), name)
        if "enum" in schema:
            return "nonsense" if self.rng.random() < OUTSIDE else self.rng.choice(schema["enum"])
        match schema.get("type"):
            case "object":
                needed = schema.get("required", [])
                fields = {k: s for k, s in schema["properties"].items() if k in needed or self.rng.random() < 0.4}  # noqa: PLR2004
                return {k: self.value(s, k) for k, s in fields.items()}
            case "array":
                items = schema.get("items") or schema["prefixItems"][0]
                length = len(schema.get("prefixItems", [])) or self.rng.randint(max(1, schema.get("minItems", 0)), 2)
                length = max(length, schema.get("minItems", 0))
                return sorted((self.value(items, name) for _ in range(length)), key=str)
            case "boolean":
                return self.rng.random() < 0.5  # noqa: PLR2004
            case "string":
                return self.rng.choice(TEXTS.get(name, ("text",)))
            case kind:
                return self.number(schema, whole=kind == "integer")

    def number(self, schema: dict[str, Any], *, whole: bool) -> float:
        """Evenly or, over decades, evenly in the logarithm; small counts, because fits are small."""
        low = float(schema.get("minimum", schema.get("exclusiveMinimum", 0.0)))
        high = float(schema.get("maximum", schema.get("exclusiveMaximum", 10.0)))
        if self.rng.random() < OUTSIDE:
            return -1.0 if self.rng.random() < 0.5 else high * 10 + 1  # noqa: PLR2004
        if whole:
            return self.rng.randint(int(low), int(min(high, low + 12)))
        if high > 100 * max(low, 1e-6) and self.rng.random() < 0.7:  # noqa: PLR2004
            return float(max(low, high * 10 ** -self.rng.uniform(0, 5)))
        return self.rng.uniform(low, high)


def data(rng: np.random.Generator, classes: int, kind: Scaling) -> FitData:
    """Small scaled rows with everything that blocks may ask for."""

    def part(rows: int) -> Part:
        x = rng.normal(size=(rows, SIDE * SIDE)).astype(np.float32)
        y = rng.integers(0, classes, rows) if classes else x[:, 0].astype(np.float64)
        if classes:
            y[:classes] = np.arange(classes)
        return Part(x, y, None, {"g": rng.integers(0, 2, rows)})

    train, validation, safety = part(ROWS), part(ROWS // 2), part(ROWS // 2)
    location, factor = scaling.fit(kind, train.x.astype(np.float64), np.zeros(SIDE * SIDE, dtype=bool))
    train, validation, safety = (
        replace(one, x=((one.x - location) * factor).astype(np.float32)) for one in (train, validation, safety)
    )
    scores = {
        name: np.log(rng.dirichlet(np.ones(classes), len(one))) if classes else rng.normal(size=(len(one), 1))
        for name, one in (("train", train), ("validation", validation))
    }
    reference = Reference("s3://models/x/", "sha256:" + "0" * 64, same_preprocessing=True, scores=scores)
    return FitData(
        train=train,
        validation=validation,
        classes=classes,
        features=tuple(f"f{i}" for i in range(SIDE * SIDE)),
        splits=frozenset({"train", "validation", "calibration", "test"}),
        location=location.astype(np.float32),
        scale=(1 / factor).astype(np.float32),
        unit=scaling.UNITS[kind],
        extra={"safety": safety},
        references={"teacher": reference},
    )


def manifest(rng: random.Random) -> dict[str, Any]:
    """A whole job with random blocks."""
    engine = json.loads(json.dumps(rng.choice(ENGINES)))
    task = rng.choice(["classification", "classification", "regression"])
    honoured = supported(Engine.model_validate(engine), task) or frozenset()
    if "torch" in engine:
        rate = rng.choice([1e-3, 1e-2])
        engine["torch"] |= {
            "optimizer": {rng.choice(["sgd", "adam", "adamw"]): {"learningRate": rate}},
            "epochs": rng.choice([1, 2, 13]),
            "batchSize": rng.choice([ROWS, ROWS // 2, 17]),
        }
    told: dict[str, Any] = {
        "model": {"namespace": "fuzz", "name": "fuzz"},
        "version": "v1",
        "attempt": 1,
        "specHash": "sha256:fuzz",
        "task": {"type": task},
        "data": {
            "snapshot": {"uri": "s3://datasets/fuzz/"},
            "target": "label",
            "split": {"calibration": 0.1},
            "groupColumns": ["g"],
        },
        "engine": engine,
        "regularizers": Drawer(rng).blocks(honoured),
        "artifact": {"uri": "s3://models/fuzz/v1/"},
        "checkpoint": {"uri": "s3://models/fuzz/.checkpoints/v1/"},
    }
    told["data"]["preprocessing"] = {"scaling": rng.choice(sorted(scaling.UNITS))}
    if "torch" in engine:  # drawn last: a seed keeps its map
        engine["torch"]["precision"] = rng.choices(["fp32", "bf16", "fp16"], [18, 1, 1])[0]
    return told


def attempt(told: dict[str, Any], seed: int) -> Outcome:
    """Refuse or train one job."""
    try:
        job = TrainingJob.model_validate(told)
    except ValidationError as error:
        return Outcome("refused", ".".join(map(str, error.errors()[0]["loc"])))
    if found := errors(validate(Subject.of_job(job))):
        return Outcome("refused", found[0].rule)
    try:
        ((name, config),) = job.engine.chosen().items()
        engine = engines.load(name, config, dict(job.regularizers.declared()))
        chosen = job.data.preprocessing.scaling if job.data.preprocessing else "standard"
        rows = data(np.random.default_rng(seed), 3 if job.task.type == "classification" else 0, chosen)
        engine.plan(rows)
        fitted = engine.fit(rows, seed, Alone())
    except InvalidConfigError as error:
        return Outcome("refused" if NAMED.search(str(error)) else "broken", str(error))
    except DivergedError as error:
        return Outcome("diverged", str(error))
    scores = fitted.scores(rows.train.x)
    return Outcome("trained") if np.isfinite(scores).all() else Outcome("broken", "scores are not finite")


def one(seed: int) -> tuple[dict[str, Any], Outcome]:
    """The map of a seed and what became of it."""
    told = manifest(random.Random(seed))  # noqa: S311 - a seeded hunt, not a secret
    try:
        return told, attempt(told, seed)
    except Exception as error:  # noqa: BLE001 - what the hunt is for
        return told, Outcome("broken", f"{type(error).__name__}: {error}")


def hunt(first: int, maps: int) -> tuple[Counter[str], list[tuple[int, dict[str, Any], Outcome]]]:
    """Counts of outcomes, and the broken ones."""
    counts: Counter[str] = Counter()
    broken = []
    for seed in range(first, first + maps):
        told, outcome = one(seed)
        counts[outcome.kind] += 1
        for block in told["regularizers"] if outcome.kind == "trained" else ():
            counts[f"trained/{block}"] += 1
        if outcome.kind == "broken":
            broken.append((seed, told, outcome))
    return counts, broken


def shard(first: int, maps: int, path: Path, *, resume: bool) -> dict[str, Any]:
    """The hunt through one range of seeds, as JSON on disk and returned."""
    if resume and path.exists():
        kept: dict[str, Any] = json.loads(path.read_text())
        if (kept["first"], kept["maps"]) == (first, maps):
            return kept
    began = time.process_time()
    counts, broken = hunt(first, maps)
    told = {
        "first": first,
        "maps": maps,
        "cpuSeconds": round(time.process_time() - began, 1),
        "where": record.surroundings(),
        "counts": counts,
        "broken": [
            {"seed": s, "why": outcome.why, "engine": one["engine"], "regularizers": one["regularizers"]}
            for s, one, outcome in broken
        ],
    }
    record.keep(path, told)
    return told


def main() -> int:
    """Hunt and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", type=int, default=10_000, help="how many random maps (default 10000)")
    parser.add_argument("--first", type=int, default=0, help="first seed (default 0)")
    parser.add_argument("--resume", action="store_true", help="keep shards that are whole")
    parser.add_argument("--out", type=Path, default=record.FOLDER / "fuzz", help="folder of the shards")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    counts: Counter[str] = Counter()
    broken, seconds, end = [], 0.0, arguments.first + arguments.maps
    for first in range(arguments.first, end, SHARD):
        told = shard(first, min(SHARD, end - first), arguments.out / f"{first:06d}.json", resume=arguments.resume)
        counts.update(told["counts"])
        broken += told["broken"]
        seconds += told["cpuSeconds"]
        for one_ in told["broken"]:
            print(f"seed {one_['seed']}: {one_['why'][:300]}")
            print(f"    {json.dumps(one_['engine'])} {json.dumps(one_['regularizers'])}", flush=True)
    kinds = {kind: counts[kind] for kind in ("refused", "trained", "diverged", "broken")}
    print(record.told(record.surroundings()))
    print(f"{arguments.maps} maps in {seconds:.0f} s CPU: {kinds}")
    print("trained with: " + ", ".join(f"{n[8:]} {c}" for n, c in sorted(counts.items()) if n.startswith("trained/")))
    return min(len(broken), 99)


if __name__ == "__main__":
    sys.exit(main())
