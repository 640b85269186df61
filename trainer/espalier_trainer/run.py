"""One training run from job to published version, phase by phase."""

from __future__ import annotations

import json
import platform
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final

from espalier_api import artifact
from espalier_api.durations import format_time
from espalier_api.exit_codes import ExitCode
from espalier_api.model import Diagnosis
from espalier_api.training import TrainingResult
from espalier_trainer import peers, rng
from espalier_trainer.attempt import FitSession, Start, evaluation_of, save
from espalier_trainer.evaluation import baseline
from espalier_trainer.evaluation.evaluate import Evaluation, evaluate
from espalier_trainer.evaluation.summary import summary
from espalier_trainer.jobfile import config_digest
from espalier_trainer.log import say
from espalier_trainer.preparing import prepare
from espalier_trainer.selection import build
from espalier_trainer.selection.memory import Memory
from espalier_trainer.selection.team import Pace, Team
from espalier_trainer.session import Preemption
from espalier_trainer.tracking import End, Tracking, reported, reports

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from espalier_api.artifact import MetricValue
    from espalier_api.search_result import SearchSummary
    from espalier_api.training import TrainingJob
    from espalier_trainer.checkpoint import Checkpoints, Identity
    from espalier_trainer.engines import Engine, Fitted
    from espalier_trainer.prepared import Prepared
    from espalier_trainer.progress import Board
    from espalier_trainer.storage import ObjectStore

MAX_TOLD_CLASSES: Final = 20
SOFTWARE: Final = ("espalier", "torch", "numpy", "scikit-learn", "onnx", "onnxruntime", "pyarrow")


@dataclass(slots=True)
class World:
    """Everything outside that a run touches."""

    open_store: Callable[[str, str], ObjectStore]
    board: Board
    preemption: Preemption = field(default_factory=Preemption)
    tracking: Tracking = field(default_factory=Tracking)
    worker: int | None = None
    """Which pod of an Indexed Job this is; None when there is no other."""
    pace: Pace = field(default_factory=Pace)


def run(job: TrainingJob, world: World) -> TrainingResult:
    """Train, judge, package, publish. Raises TrainerError for every end that is not success."""
    began = time.monotonic()
    publishing = import_module("espalier_trainer.export.publish")  # onnx and onnxruntime: while nothing waits for them
    store = world.open_store(job.artifact.uri, "artifact.uri")
    if (there := publishing.published(store, job)) is not None:
        say("already-published", digest=there[1])
        found = {**_recorded(store), "search": there[0].search}
        return _result(there[0].metrics, there[1], there[0].content_sha256, began, **found)
    signer = import_module("espalier_trainer.export.sign").read_signer(job.signing) if job.signing is not None else None
    if not world.worker:  # the leader tells of the search, too
        world.tracking.start(job, world.open_store)
    world.board.phase("LoadingData")
    prepared = prepare(job, world)
    engine = build.engine(job)
    engine.plan(prepared.fit)
    start = _resume(job, world, engine, prepared)
    peers.current().meet("start", start.described())
    selected = _select(job, world, prepared, start)
    if selected is None:
        return _assisted(world, began)
    job, files, summary_of_search = selected
    if job.search is not None:
        engine = build.engine(job)
        engine.plan(prepared.fit)
    fitted, evaluations = _fit_all(job, world, engine, prepared, start)
    if not peers.current().leads:
        return _helped(prepared.content_sha256, began)
    evaluations[0].files.update(files | reports(job, fitted, evaluations[0], prepared))
    if troubles := world.tracking.troubles():
        evaluations[0].notes["tracking"] = troubles
    world.preemption.check("exporting")
    world.board.phase("Exporting")
    package, provenance = _package(job, engine, fitted, evaluations, prepared, summary_of_search)
    world.preemption.check("publishing")
    world.board.phase("Publishing")
    package.tracking |= world.tracking.links() | reported(package.files)
    manifest, digest = publishing.publish(store, engine, package, provenance, prepared.parts["train"], signer)
    _clear(start)
    world.tracking.finish(End.of(manifest, digest, package.files, job.artifact.uri))
    return _result(
        manifest.metrics,
        digest,
        manifest.content_sha256,
        began,
        diagnosis=tuple(evaluations[0].diagnosis),
        classes=manifest.task.classes if len(manifest.task.classes) <= MAX_TOLD_CLASSES else (),
        search=summary_of_search,
    )


# --- fits -------------------------------------------------------------------------------------------------------------
def _select(
    job: TrainingJob, world: World, prepared: Prepared, start: Start
) -> tuple[TrainingJob, dict[str, bytes], SearchSummary | None] | None:
    """What comes before the fits that are shipped: the job with the winner's values, files that tell of it, and a summary. None for a
    worker that only helped to search.
    """
    files: dict[str, bytes] = {}
    told: SearchSummary | None = None
    if start.records is not None:
        search = import_module("espalier_trainer.selection.search")
        found = search.run(job, prepared, start.records, start.team, world.board, world.preemption)
        if found is None:
            return None
        job, told, files[search.FILE] = found.job, found.summary, found.file
        world.tracking.search(json.loads(found.file)["trials"])
    if job.regularizers.cross_validation is not None:
        cross = import_module("espalier_trainer.selection.cross_validation")
        folds = cross.run(job, prepared, start.memory, world.board, world.preemption)
        files[cross.FILE] = cross.file(folds)
    if job.data.label_column_noise_audit:
        audit = import_module("espalier_trainer.selection.label_audit")
        noise = audit.run(job, prepared, start.memory, world.board, world.preemption)
        files[audit.FILE] = audit.file(noise)
    return job, files, told


def _fit_all(
    job: TrainingJob, world: World, engine: Engine, prepared: Prepared, start: Start
) -> tuple[Fitted, list[Evaluation]]:
    """Seeds last to first, so that the packaged fit (the base seed's) is the one in memory at the end. Its evaluation comes first."""
    done = start.done
    yardstick = baseline.fit(prepared.fit.train, prepared.fit.validation, prepared.fit.classes)
    fitted: Fitted | None = None
    for index in range(len(done), job.seeds):
        seed = job.seed + job.seeds - 1 - index
        world.preemption.check(f"fit {index + 1} of {job.seeds}")
        world.board.phase("Training")
        peers.current().meet(f"fit {index + 1}")  # the leader may have judged the one before
        session = FitSession(job, world, start, index)
        fitted = engine.fit(prepared.fit, rng.derive(seed, "fit"), session)
        start.fit = None
        if not peers.current().leads:
            continue
        world.board.phase("Evaluating")
        done.append(evaluate(engine, fitted, prepared.parts, prepared.preprocessor, yardstick, seed, prepared.question))
        say(
            "fit",
            seed=seed,
            epochs=fitted.report.epochs,
            metrics={n: round(v.value, 5) for n, v in done[-1].metrics.items()},
        )
    assert fitted is not None  # noqa: S101 - a state is saved inside a fit or before one, never after the last
    done.reverse()
    return fitted, done


def _resume(job: TrainingJob, world: World, engine: Engine, prepared: Prepared) -> Start:
    """The newest state that belongs here; engines that fit in one piece have none, unless there are folds to remember."""
    if job.search is None:
        return _resumed(job, world, engine, prepared)
    module = import_module("espalier_trainer.selection.records")
    team = Team.of(job.search, world.worker if job.nodes == 1 else None, world.pace)
    start = _resumed(job, world, engine, prepared) if team.leads else Start(None, Memory(None, lambda: None))
    store = world.open_store(f"{job.checkpoint.uri.rstrip('/')}/{module.FOLDER}", "checkpoint.uri")
    start.records = module.Records(store, module.Owner(config_digest(job), prepared.snapshot_digest))
    start.team = team
    return start


def _clear(start: Start) -> None:
    """Remove what the next attempt would have gone on from. Workers that come late must still find each other's trials: on a cluster
    the operator removes those, with the Job.
    """
    if start.checkpoints is not None:
        start.checkpoints.clear()
    if start.records is not None and start.team.count == 1:
        start.records.clear()


def _resumed(job: TrainingJob, world: World, engine: Engine, prepared: Prepared) -> Start:
    loops = job.regularizers.cross_validation is not None or job.data.label_column_noise_audit
    if not engine.resumable and not loops:
        return Start(None, Memory(None, lambda: None))
    module = import_module("espalier_trainer.checkpoint")
    identity: Identity = module.Identity(config_digest(job), prepared.snapshot_digest, 0, engine.world)
    checkpoints: Checkpoints = module.Checkpoints(world.open_store(job.checkpoint.uri, "checkpoint.uri"), identity)
    state, _ = checkpoints.newest() or ({}, None)
    start = Start(checkpoints, Memory(state.get("selection"), lambda: save(start, start.fit)))
    if state:
        start.fit, start.done = state["fit"], [evaluation_of(e) for e in state["done"]]
        step = None if start.fit is None else start.fit["step"]
        say("resumed", step=step, fit=len(start.done) + 1, folds=len(start.memory.folds))
    return start


# --- results ----------------------------------------------------------------------------------------------------------
def _package(
    job: TrainingJob,
    engine: Engine,
    fitted: Fitted,
    evaluations: list[Evaluation],
    prepared: Prepared,
    search: SearchSummary | None,
) -> tuple[Any, Any]:
    packaging = import_module("espalier_trainer.export.package")
    means = summary(evaluations, frozenset(job.group_metrics), classification=bool(prepared.fit.classes), seed=job.seed)
    provenance = packaging.Provenance(
        job=job,
        snapshot_digest=prepared.snapshot_digest,
        content_sha256=prepared.content_sha256,
        created_at=format_time(datetime.now(UTC).replace(microsecond=0)),
        rows={n: len(p) for n, p in prepared.parts.items()} | ({"purged": prepared.purged} if prepared.purged else {}),
        previous={} if prepared.question.predecessor is None else prepared.question.predecessor.metrics,
        search=search,
        software={"python": platform.python_version(), **{n: v for n in SOFTWARE if (v := _version(n)) is not None}},
    )
    return packaging.build(
        engine, fitted, prepared.preprocessor, prepared.parts, evaluations, means, provenance
    ), provenance


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _recorded(store: ObjectStore) -> dict[str, Any]:
    """Diagnosis of a published version, from its metrics.json."""
    content = store.read(artifact.METRICS)
    saved = json.loads(content) if content else {}
    return {"diagnosis": tuple(Diagnosis.model_validate(d) for d in saved.get("diagnosis", ()))}


def _assisted(world: World, began: float) -> TrainingResult:
    """Of a worker that does not lead: the version is another pod's."""
    return TrainingResult(
        outcome="Succeeded",
        exit_code=ExitCode.OK,
        reason="TrainingSucceeded",
        message=f"worker {world.worker}: no trial of the search is left; worker 0 fits the winner",
        duration_seconds=round(time.monotonic() - began, 3),
    )


def _result(
    metrics: Mapping[str, MetricValue],
    digest: str,
    content: str,
    began: float,
    *,
    diagnosis: tuple[Diagnosis, ...] = (),
    classes: tuple[str, ...] = (),
    search: SearchSummary | None = None,
) -> TrainingResult:
    return TrainingResult(
        outcome="Succeeded",
        exit_code=ExitCode.OK,
        reason="TrainingSucceeded",
        message="published",
        digest=digest,
        metrics=dict(metrics),
        diagnosis=diagnosis,
        content_sha256=content,
        classes=classes,
        duration_seconds=round(time.monotonic() - began, 3),
        search=search,
    )


def _helped(content: str, began: float) -> TrainingResult:
    """Of a process that does not lead."""
    return TrainingResult(
        outcome="Succeeded",
        exit_code=ExitCode.OK,
        reason="TrainingSucceeded",
        message="trained; process 0 judges and publishes",
        content_sha256=content,
        duration_seconds=round(time.monotonic() - began, 3),
    )
