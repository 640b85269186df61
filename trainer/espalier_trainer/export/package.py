"""The files of a version, each as bytes; nothing here touches the store."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from safetensors.numpy import save as save_tensors

from espalier_api import artifact
from espalier_api.artifact import MetricValue
from espalier_api.evaluation import BUDGETED
from espalier_trainer import pictures, rng
from espalier_trainer.diagnosis import Exported, blown_up, mismatch
from espalier_trainer.errors import ParityError
from espalier_trainer.evaluation import rounded, size
from espalier_trainer.evaluation.calibration import softmax
from espalier_trainer.evaluation.latency import CALLS, CALLS_FOR_A_GATE, Runtime
from espalier_trainer.export.card import model_card
from espalier_trainer.export.graph import served_graph
from espalier_trainer.export.sbom import sbom
from espalier_trainer.export.task import nullable, task_of, unknown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from espalier_api.search_result import SearchSummary
    from espalier_api.training import TrainingJob
    from espalier_trainer.data.dataset import Dataset
    from espalier_trainer.engines import Engine, Fitted
    from espalier_trainer.evaluation.evaluate import Evaluation
    from espalier_trainer.preprocessing import Preprocessor

DECILES = np.arange(1, 10) / 10
LISTED: Final = 60
"""Values of a column of names that are watched by themselves; a server takes at most 64 bins."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a version comes from."""

    job: TrainingJob
    snapshot_digest: str
    content_sha256: str
    created_at: str
    rows: Mapping[str, int]
    software: Mapping[str, str]
    previous: Mapping[str, MetricValue] = field(default_factory=dict)  # metrics of the version before
    search: SearchSummary | None = None  # what came before the fit


def answers(
    fitted: Fitted, preprocessor: Preprocessor, classes: int, evaluation: Evaluation, x: npt.NDArray[np.float32]
) -> dict[str, npt.NDArray[Any]]:
    """What the graph must answer to raw features, computed by the engine itself."""
    scores = fitted.scores(preprocessor.apply(x))
    for transform in evaluation.transforms:
        scores = transform.apply(scores)
    if not classes:
        return {artifact.ONNX_VALUE: preprocessor.value(scores)[:, None].astype(np.float32)}
    return {
        artifact.ONNX_LABEL: scores.argmax(axis=1),
        artifact.ONNX_PROBABILITIES: softmax(scores, evaluation.temperature).astype(np.float32),
    }


def check_parity(
    runtime: Runtime, expected: Mapping[str, npt.NDArray[Any]], x: npt.NDArray[np.float32], spread: float
) -> float:
    """Largest difference between graph and engine, values in units of `spread`; ParityError (F3) above the tolerance or with another label.

    Labels whose two best probabilities are within the tolerance are ties: rounding may decide them either way.
    """
    found = runtime(x)
    worst = 0.0
    for name, value in expected.items():
        if name == artifact.ONNX_LABEL:
            p = np.sort(expected[artifact.ONNX_PROBABILITIES], axis=1)
            tied = p[:, -1] - p[:, -2] <= artifact.GOLDEN_TOLERANCE
            wrong = (found[name] != value) & ~tied
            if wrong.any():
                refuse(Exported(other_labels=int(wrong.sum()), rows=len(x)))
        else:
            worst = max(worst, float(np.abs(found[name] - value).max()) / spread)
    refuse(Exported(parity=worst, tolerance=artifact.GOLDEN_TOLERANCE))
    return worst


def refuse(exported: Exported) -> None:
    """ParityError when what would be served is not what was judged (F3)."""
    if (found := mismatch(exported)) is not None:
        raise ParityError(found.evidence, found.suggestion)


def check_repeatable(
    fitted: Fitted, preprocessor: Preprocessor, evaluation: Evaluation, x: npt.NDArray[np.float32]
) -> None:
    """The engine answers the same rows the same twice, and stands behind the preprocessing that it was judged with."""
    once, twice = (fitted.scores(preprocessor.apply(x)) for _ in range(2))
    refuse(
        Exported(
            repeated=float(np.abs(once - twice).max()),
            judged_preprocessing=evaluation.preprocessing,
            packaged_preprocessing=preprocessor.to_json()["digest"],
        )
    )


def golden_rows(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Up to 64 of the rows `x` (rows, features), evenly spaced."""
    rows = np.unique(np.linspace(0, len(x) - 1, min(len(x), artifact.GOLDEN_ROWS)).astype(np.int64))
    return x[rows]


def drawn_rows(preprocessor: Preprocessor, rows: int, seed: int) -> npt.NDArray[np.float32]:
    """(rows, features) raw inputs that are nobody's (R37): independent normal numbers with each feature's location and spread."""
    generator = np.random.default_rng(rng.derive(seed, "golden"))
    if (tokens := preprocessor.declared.tokens) is not None:
        return generator.integers(0, tokens.vocabulary, (rows, tokens.length)).astype(np.float32)
    columns = slice(len(preprocessor.features))  # what follows are features made of these
    location, spread = preprocessor.location[columns], preprocessor.spread[columns]
    noise = generator.normal(size=(rows, len(preprocessor.features)))
    return np.asarray(location + noise * spread, dtype=np.float32)


def bins(values: npt.NDArray[np.float32], *, missing: bool) -> dict[str, Any]:
    """Deciles of the values that are there, and the share of rows per bin, closed on the left like the server's; the last bin is that of
    missing ones.
    """
    known = values[~np.isnan(values)]
    edges = np.unique(np.quantile(known, DECILES).astype(np.float32))
    counts = np.bincount(np.searchsorted(edges, known, side="right"), minlength=len(edges) + 1).tolist()
    counts += [len(values) - len(known)] if missing else []
    told = {"edges": edges.tolist(), "ratios": [count / len(values) for count in counts]}
    return told | {"missing": True} if missing else told


def name_bins(codes: npt.NDArray[np.float32], values: Sequence[str], *, missing: bool) -> dict[str, Any]:
    """The most frequent values and the share of rows of each; then that of all others, unknown ones too, and of missing ones."""
    counts = np.bincount(codes[codes >= 0].astype(np.int64), minlength=len(values))
    listed = np.argsort(-counts, kind="stable")[:LISTED]
    absent = int(np.isnan(codes).sum())
    told = [*counts[listed].tolist(), len(codes) - absent - int(counts[listed].sum()), *([absent] if missing else [])]
    shares = [count / len(codes) for count in told]
    described = {"values": [values[code] for code in listed], "ratios": shares}
    return described | {"missing": True} if missing else described


def reference(train: Dataset, metrics: Mapping[str, MetricValue], *, missing: bool = False) -> dict[str, Any]:
    """The distribution of every training feature, and baseline rates; `missing` tells that features may be."""
    features = {
        name: name_bins(train.x[:, column], train.vocabulary[name], missing=missing)
        if name in train.vocabulary
        else bins(train.x[:, column], missing=missing)
        for column, name in enumerate(train.features)
    }
    told: dict[str, Any] = {"features": features, **{name: value.value for name, value in metrics.items()}}
    if train.classes:
        shares = np.bincount(train.y, minlength=len(train.classes)) / len(train)
        told["classes"] = dict(zip(train.classes, shares.tolist(), strict=True))
    return told


@dataclass(slots=True)
class Package:
    """All files but the manifest, and the metrics that only the finished graph has."""

    files: dict[str, bytes]
    metrics: dict[str, MetricValue]
    parity: float
    min_confidence: float | None = None  # what abstention promised
    served: Literal["model.onnx", "model.int8.onnx"] = artifact.MODEL_ONNX
    tracking: dict[str, str] = field(default_factory=dict)  # tracker: where to read it


def build(
    engine: Engine,
    fitted: Fitted,
    preprocessor: Preprocessor,
    parts: Mapping[str, Dataset],
    evaluations: Sequence[Evaluation],
    metrics: Mapping[str, MetricValue],
    provenance: Provenance,
) -> Package:
    """Make every file. `evaluations` holds the packaged fit first; `metrics` are the means over all."""
    first, data = evaluations[0], parts["train"]
    classes = len(data.classes)
    model = served_graph(fitted, preprocessor, classes, first.temperature, first.transforms)
    runtime, spread = Runtime(model), 1.0 if classes else preprocessor.target_scale
    job, integers = provenance.job, provenance.job.regularizers.quantization is not None
    inputs, moved = _inputs(parts["test"], preprocessor, job), 0.0
    if integers:
        steady = rounded.steady(answers(fitted, preprocessor, classes, first, inputs), runtime(inputs), spread)
        moved = float(1 - steady.mean())
        inputs = inputs[steady] if moved <= rounded.MOST_MOVED else inputs
    golden = golden_rows(inputs)
    check_repeatable(fitted, preprocessor, first, golden)
    expected = answers(fitted, preprocessor, classes, first, golden)
    parity = check_parity(runtime, expected, golden, spread)
    calls = CALLS_FOR_A_GATE if job.latency_gate else CALLS
    served: Literal["model.onnx", "model.int8.onnx"] = artifact.MODEL_INT8 if integers else artifact.MODEL_ONNX
    files = {
        served: model,
        artifact.PREPROCESSING: _json(preprocessor.to_json()),
        artifact.GOLDEN: _npz({"input": golden, **runtime(golden)}),
        artifact.LINEAGE: _json(_lineage(engine, provenance, fitted)),
        artifact.SBOM: sbom(provenance.job),
    }
    if weights := fitted.weights():
        files[artifact.MODEL_WEIGHTS] = save_tensors({n: np.ascontiguousarray(w) for n, w in weights.items()})
    files |= {**fitted.files(), **first.files}
    latency = runtime.latency(golden, calls)
    if integers:
        twin = served_graph(fitted, preprocessor, classes, first.temperature, first.transforms, plain=True)
        files[artifact.MODEL_ONNX] = twin
        first.notes["quantization"] = _beside(
            Runtime(twin), runtime, files, parts["test"], (golden, calls, latency), moved
        )
    told = {
        **metrics,
        **latency,
        "artifactBytes": MetricValue(value=float(size.model_bytes(files, served))),
        "peakMemoryBytes": MetricValue(value=float(size.peak_memory_bytes())),
    }
    if (swollen := blown_up(_exported(told, weights, provenance))) is not None:
        first.diagnosis.append(swollen)
    report = fitted.report
    files[artifact.REGULARIZERS] = _json(
        {
            "resolved": engine.resolved(),
            "contributions": {n: asdict(c) for n, c in report.contributions.items()},
            "notes": report.notes,
        }
    )
    files |= pictures.draw(report, first, files)
    files[artifact.METRICS] = _json(_metrics_file(told, evaluations, report.history, parity))
    files[artifact.REFERENCE] = _json(reference(data, told, missing=nullable(job)))
    files[artifact.MODEL_CARD] = model_card(provenance, task_of(job, data), engine, told, report, first, files).encode()
    return Package(files, told, parity, first.min_confidence, served)


def _inputs(test: Dataset, preprocessor: Preprocessor, job: TrainingJob) -> npt.NDArray[np.float32]:
    """What golden inputs are chosen from: rows of the test split, but under privacy none of anybody's. Where features may be missing, the
    last row has none; where names may be unknown, those of the first are.
    """
    rows = test.x
    if job.regularizers.privacy is not None:
        rows = drawn_rows(preprocessor, max(len(test), artifact.GOLDEN_ROWS), job.seed)
    if job.data.preprocessing is not None:
        rows = _with_gaps(rows, job, len(test.vocabulary))
    return rows


def _with_gaps(rows: npt.NDArray[np.float32], job: TrainingJob, names: int) -> npt.NDArray[np.float32]:
    """What a graph may be asked and a test split need not have; the last `names` columns are codes of names."""
    rows = rows.copy()
    if names and unknown(job) == "ignore":
        rows[0, -names:] = -1
    if nullable(job):
        rows[-1] = np.nan
    return rows


def _beside(
    twin: Runtime,
    runtime: Runtime,
    files: Mapping[str, bytes],
    test: Dataset,
    timed: tuple[npt.NDArray[np.float32], int, Mapping[str, MetricValue]],
    moved: float,
) -> dict[str, Any]:
    """The graph in integers beside its twin in floats; `timed` is (rows, calls, latency of the former)."""
    golden, calls, latency = timed
    return rounded.summary(
        {name: len(files[name]) for name in (artifact.MODEL_ONNX, artifact.MODEL_INT8)},
        {artifact.MODEL_ONNX: twin.latency(golden, calls), artifact.MODEL_INT8: latency},
        rounded.compare(twin(test.x), runtime(test.x), test.y),
        moved,
    )


def _exported(
    told: Mapping[str, MetricValue], weights: Mapping[str, npt.NDArray[Any]], provenance: Provenance
) -> Exported:
    """What F5 compares: resources with their budgets, else with the previous version's."""
    total = sum(w.size for w in weights.values())
    zeros = sum(int((w == 0).sum()) for w in weights.values())
    return Exported(
        resources={name: told[name].value for name in sorted(BUDGETED)},
        budgets=provenance.job.budgets,
        previous={n: provenance.previous[n].value for n in BUDGETED if n in provenance.previous},
        zeros=zeros / total if total else 0.0,
    )


def _metrics_file(
    told: Mapping[str, MetricValue],
    evaluations: Sequence[Evaluation],
    history: Sequence[Mapping[str, float]],
    parity: float,
) -> dict[str, Any]:
    first = evaluations[0]
    return {
        "metrics": {n: v.dump() for n, v in told.items()},
        "groups": {n: v.dump() for n, v in first.groups.items()},
        "seeds": [{n: v.value for n, v in e.metrics.items()} for e in evaluations],
        "diagnosis": [d.dump() for d in first.diagnosis],
        "temperature": first.temperature,
        "notes": first.notes,
        "parity": {"rows": artifact.GOLDEN_ROWS, "maxAbsDiff": parity},
        "history": list(history),
    }


def _lineage(engine: Engine, provenance: Provenance, fitted: Fitted) -> dict[str, Any]:
    job = provenance.job
    return {
        "model": job.model.dump(),
        "version": job.version,
        "attempt": job.attempt,
        "specHash": job.spec_hash,
        "parent": job.parent,
        "requestedBy": job.requested_by,
        "image": job.image,
        "framework": engine.framework,
        "software": dict(provenance.software),
        "world": engine.world,
        "snapshot": {
            "uri": job.data.snapshot.uri,
            "digest": provenance.snapshot_digest,
            "contentSha256": provenance.content_sha256,
        },
        "references": {name: reference.dump() for name, reference in job.references.items()},
        "rows": dict(provenance.rows),
        "seed": job.seed,
        "seeds": job.seeds,
        "epochs": fitted.report.epochs,
        "steps": fitted.report.steps,
        "createdAt": provenance.created_at,
        "job": job.dump(),
    }


def _json(value: Any) -> bytes:  # noqa: ANN401 - any JSON value
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def _npz(arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    sink = io.BytesIO()
    np.savez_compressed(sink, **arrays)  # type: ignore[arg-type]
    return sink.getvalue()
