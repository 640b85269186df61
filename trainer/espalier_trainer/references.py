"""Other fitted models that blocks refer to: fetched by digest, compared with this job (R33, R5, R10), and made into numbers.

A teacher or prior speaks through its own graph with its own preprocessing, so only its classes and features must be ours. Blocks that
hold on to its *weights* (ewc, trustRegion, functional l2sp, modelSoup) need the same inputs as well: then this job does not fit
a preprocessor but inherits the reference's, since a weight means something only together with the scale of its input.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from pydantic import ValidationError

from espalier_api import artifact
from espalier_api.artifact import Manifest
from espalier_api.hashing import json_digest
from espalier_api.rules import at_run_time as rules
from espalier_trainer.errors import DataProblemError, InvalidConfigError
from espalier_trainer.log import say
from espalier_trainer.preprocessing import DEFAULT, Preprocessor
from espalier_trainer.protocol import Reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import numpy.typing as npt

    from espalier_api.preprocessing import Preprocessing
    from espalier_api.regularizers import Regularizers
    from espalier_api.rules.rule import Finding
    from espalier_api.training import JobReference, TrainingJob
    from espalier_trainer.data.dataset import Dataset
    from espalier_trainer.protocol import PlanContext
    from espalier_trainer.storage import ObjectStore

PREVIOUS: Final = "previousModel"
FISHER: Final = "fisher.safetensors"
"""What ewc leaves for the next task: the diagonal of the Fisher information by parameter name."""
ROWS: Final = 8192
TINY: Final = float(np.finfo(np.float32).tiny)
WANTED: Final[tuple[str, ...]] = (
    artifact.MODEL_ONNX,
    artifact.PREPROCESSING,
    artifact.LINEAGE,
    artifact.MODEL_WEIGHTS,
    FISHER,
)


@dataclass(frozen=True, slots=True)
class Fetched:
    """One reference as it was published; every file has the digest that its manifest tells."""

    at: JobReference
    manifest: Manifest
    files: Mapping[str, bytes]
    facts: rules.Facts
    preprocessing: Mapping[str, Any] = field(default_factory=dict)


def weight_blocks(blocks: Regularizers) -> tuple[str, ...]:
    """The declared blocks that hold on to weights of another model."""
    named = [name for name in ("ewc", "trustRegion", "modelSoup") if name in blocks.references()]
    return tuple(named + (["functional"] if blocks.functional and blocks.functional.kind == "l2sp" else []))


def of(context: PlanContext, block: str, name: str) -> Reference | None:
    """The reference that a block names. None for `previousModel` of a first version: the block has nothing to hold on to and rests."""
    found = context.references.get(name)
    if found is None and name != PREVIOUS:
        raise InvalidConfigError(
            f"R33: regularizers.{block}: the model {name} is not among this job's references; "
            "the operator resolves them, and a job.json by hand needs it under references"
        )
    return found


# --- fetch ------------------------------------------------------------------------------------------------------------
def fetch(job: TrainingJob, open_store: Callable[[str, str], ObjectStore]) -> dict[str, Fetched]:
    """Every reference that a block names, verified and compatible. DataProblemError (44) when it is gone or changed,
    InvalidConfigError (42) when it answers another question.
    """
    found: dict[str, Fetched] = {}
    for name in dict.fromkeys(name for names in job.regularizers.references().values() for name in names):
        if (at := job.references.get(name)) is not None:
            found[name] = _fetched(name, at, open_store(at.uri, f"references.{name}.uri"))
            say("reference", name=name, model=at.model, version=at.version, digest=at.digest)
        elif name != PREVIOUS or job.parent is not None:
            blocks = [block for block, names in job.regularizers.references().items() if name in names]
            _refuse(rules.check_reference(blocks[0], None, rules.Facts(), weights=False))
        else:
            say("reference-absent", name=name, because="this is the first version of the model")
    return found


def _fetched(name: str, at: JobReference, store: ObjectStore) -> Fetched:
    content = store.read(artifact.MANIFEST)
    if content is None:
        raise DataProblemError(
            f"references.{name}: {at.uri} holds no {artifact.MANIFEST}; the version {at.version} of {at.model} was deleted. "
            "Name a version that exists"
        )
    if artifact.version_digest(content) != at.digest:
        raise DataProblemError(
            f"references.{name}: {at.uri}{artifact.MANIFEST} is not the one with {at.digest} that was resolved; "
            "published versions never change, so see who wrote there"
        )
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        raise InvalidConfigError(
            f"references.{name}: {at.uri}{artifact.MANIFEST} is not a manifest of this release ({error.error_count()} errors)"
        ) from error
    if f"{artifact.MODEL_ONNX}.data" in manifest.files:
        raise InvalidConfigError(
            f"references.{name}: a graph with weights in another file cannot be read; train it again"
        )
    files = {each: _verified(name, at, store, manifest, each) for each in WANTED if each in manifest.files}
    lineage, preprocessing = (json.loads(files.get(f, b"{}")) for f in (artifact.LINEAGE, artifact.PREPROCESSING))
    return Fetched(at, manifest, files, facts(manifest, lineage.get("job", {}), preprocessing), preprocessing)


def _verified(name: str, at: JobReference, store: ObjectStore, manifest: Manifest, file: str) -> bytes:
    content, entry = store.read(file), manifest.files[file]
    if content is None or hashlib.sha256(content).hexdigest() != entry.sha256:
        what = "is missing" if content is None else "is not the file that its manifest tells"
        raise DataProblemError(f"references.{name}: {at.uri}{file} {what}; restore it or name another version")
    return content


def facts(manifest: Manifest, job: Mapping[str, Any], preprocessing: Mapping[str, Any]) -> rules.Facts:
    """What must agree before another model leans on this one, from what its artifact records."""
    blocks, torch = job.get("regularizers", {}), job.get("engine", {}).get("torch", {})
    return rules.Facts(
        classes=manifest.task.classes,
        features=manifest.task.features,
        preprocessing=str(preprocessing.get("digest", "")),
        architecture=architecture(torch.get("architecture")),
        initialization=initialization(job),
        label_smoothing=float((blocks.get("labelSmoothing") or {}).get("epsilon", 0.1))
        if "labelSmoothing" in blocks
        else 0.0,
        private="privacy" in blocks,
    )


def architecture(declared: Mapping[str, Any] | None) -> str:
    """Digest of a network's description; empty without a network."""
    return json_digest(declared) if declared else ""


def initialization(job: Mapping[str, Any]) -> str:
    """Digest of what decides the weights before the first step: network, seed, and the version that a fit started from."""
    torch = job.get("engine", {}).get("torch", {})
    if not torch:
        return ""
    blocks = job.get("regularizers", {})
    starts = {name: reference["digest"] for name, reference in job.get("references", {}).items()}
    named = [blocks[b].get("reference", PREVIOUS) for b in ("ewc", "trustRegion") if b in blocks]
    named += [blocks["functional"].get("prior", PREVIOUS)] if blocks.get("functional", {}).get("kind") == "l2sp" else []
    start = next((starts[name] for name in named if name in starts), None)
    seed = job.get("seed", 0)
    return json_digest({"architecture": torch.get("architecture"), "start": start, "seed": None if start else seed})


# --- compare ----------------------------------------------------------------------------------------------------------
def preprocess(job: TrainingJob, fetched: Mapping[str, Fetched], train: Dataset) -> Preprocessor:
    """The preprocessor of this fit: inherited from the model whose weights are held on to, fitted to `train` without one.

    InvalidConfigError when a reference answers another question than this job (R33, R5, R10).
    """
    holders = {n: b for b in weight_blocks(job.regularizers) for n in job.regularizers.references()[b] if n in fetched}
    digests = {fetched[name].facts.preprocessing for name in holders}
    if len(digests) > 1:
        told = ", ".join(f"{block} refers to {name}" for name, block in holders.items())
        raise InvalidConfigError(f"R33: {told}, whose preprocessing differs; one fit has one. Refer to one model")
    own = rules.Facts(
        classes=train.classes,
        features=train.features,
        preprocessing=next(iter(digests), ""),
        architecture=architecture(job.engine.dump().get("torch", {}).get("architecture")),
    )
    _compare(job, fetched, own)
    declared = job.data.preprocessing or DEFAULT
    return _inherited(next(iter(holders)), fetched, declared) if holders else Preprocessor.fit(train, declared)


def _compare(job: TrainingJob, fetched: Mapping[str, Fetched], own: rules.Facts) -> None:
    holders = weight_blocks(job.regularizers)
    if job.regularizers.model_soup is not None:
        candidates = job.regularizers.model_soup.candidates
        _refuse(rules.check_soup({name: fetched[name].facts for name in candidates if name in fetched}))
    for block, names in job.regularizers.references().items():
        for told in (fetched[name].facts for name in names if name in fetched):
            found = list(rules.check_reference(block, told, own, weights=block in holders))
            found += rules.check_teacher(told) if block == "distillation" else ()
            found += rules.check_private_reference(block, told) if job.regularizers.privacy is not None else ()
            _refuse(found)


def _inherited(name: str, fetched: Mapping[str, Fetched], declared: Preprocessing) -> Preprocessor:
    try:
        found = Preprocessor.from_json(fetched[name].preprocessing)
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidConfigError(
            f"references.{name}: its {artifact.PREPROCESSING} cannot be inherited ({error}); train it again with this release"
        ) from error
    if found.declared != declared:
        raise InvalidConfigError(
            f"R33: data.preprocessing: it is not that of references.{name}, whose weights are held on to: "
            f"{found.declared.dump()} there, {declared.dump()} here. Declare what stands there"
        )
    say("preprocessing-inherited", reference=name, digest=fetched[name].facts.preprocessing)
    return found


def _refuse(findings: Iterable[Finding]) -> None:
    if told := "; ".join(str(finding) for finding in findings if finding.level == "error"):
        raise InvalidConfigError(told)


def ready(
    fetched: Mapping[str, Fetched], parts: Mapping[str, Dataset], preprocessor: Preprocessor
) -> dict[str, Reference]:
    """References as blocks get them: what they answer to the rows of every split, and their weights if they are networks."""
    return {name: _reference(each, parts, preprocessor) for name, each in fetched.items()}


def _reference(fetched: Fetched, parts: Mapping[str, Dataset], preprocessor: Preprocessor) -> Reference:
    runtime = import_module("espalier_trainer.evaluation.latency").Runtime(fetched.files[artifact.MODEL_ONNX])
    tensors = import_module("safetensors.numpy")
    scores = {name: _scores(runtime, fetched, part, preprocessor) for name, part in parts.items() if len(part)}
    weights, fisher = (
        tensors.load(fetched.files[f]) if f in fetched.files else {} for f in (artifact.MODEL_WEIGHTS, FISHER)
    )
    same = fetched.facts.preprocessing == preprocessor.to_json()["digest"]
    return Reference(fetched.at.uri, fetched.at.digest, same, scores, weights, fisher)


def _scores(
    runtime: Callable[[npt.NDArray[np.float32]], Mapping[str, npt.NDArray[Any]]],
    fetched: Fetched,
    part: Dataset,
    preprocessor: Preprocessor,
) -> npt.NDArray[np.float64]:
    """Log-probabilities (rows, classes), or values (rows, 1) standardized like our own target."""
    output = artifact.ONNX_PROBABILITIES if part.classes else artifact.ONNX_VALUE
    task = fetched.manifest.task
    if (x := part.as_seen_by(task.features, task.vocabulary, nullable=task.nullable)) is None:
        raise InvalidConfigError(
            f"R33: references.{fetched.at.model}: {fetched.at.version} cannot answer these rows: values are missing, and it was trained "
            "without data.preprocessing.imputation, or columns are names in one of the two only; train it again like this model"
        )
    told = [runtime(x[i : i + ROWS])[output] for i in range(0, len(part), ROWS)]
    values = np.concatenate(told).astype(np.float64)
    return np.log(np.maximum(values, TINY)) if part.classes else preprocessor.target(values)
