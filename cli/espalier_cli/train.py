"""`espalier train`: a RegularizedModel trained on this machine, by the trainer that the cluster's Jobs run, in a process of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from espalier_api import artifact
from espalier_api.artifact import Manifest, version_digest
from espalier_api.gates import judge_gates
from espalier_api.hashing import spec_hash
from espalier_api.job import training_job
from espalier_api.model import ReferenceStatus, RegularizedModel, VersionStatus
from espalier_api.training import TrainingJob, TrainingProgress, TrainingResult
from espalier_cli.errors import CliError
from espalier_cli.linting import documents, look

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DATA, ARTIFACTS = "data", "artifacts"
"""Buckets of the folder that stands for S3: links to where the data lies and where versions go."""
NEEDED = ("numpy", "pyarrow", "boto3", "sklearn", "onnx", "onnxruntime", "safetensors", "prometheus_client")
ENGINES = {"torch": "torch", "sklearn": "sklearn", "xgboost": "xgboost"}
VERSION = re.compile(r"v([1-9][0-9]*)")
PREVIOUS = "previousModel"
STARTED = "start"
SECONDS = 0.5
"""Between two looks at the progress."""


def model_of(file: Path) -> RegularizedModel:
    """The one RegularizedModel of a manifest. CliError for none, several, or one that lint refuses."""
    found = [(source, each) for source, each in documents([file]) if each.get("kind") == "RegularizedModel"]
    if len(found) != 1:
        raise CliError(f"{file} holds {len(found)} objects of kind RegularizedModel; espalier train needs exactly one")
    source, document = found[0]
    if refused := [str(remark) for remark in look(source, document) if remark.level == "error"]:
        raise CliError("; ".join(refused))
    document = {**document, "metadata": {"namespace": "default", **document.get("metadata", {})}}
    return RegularizedModel.model_validate({key: value for key, value in document.items() if key != "status"})


def check_installed(engine: str) -> None:
    """CliError when the trainer's libraries are not here."""
    if missing := [name for name in (*NEEDED, ENGINES[engine]) if find_spec(name) is None]:
        raise CliError(
            f"the trainer is not installed: no {', '.join(missing)}; install it beside this command with pip install 'espalier[trainer]'"
        )


@dataclass(frozen=True, slots=True)
class Local:
    """Where a local run reads and writes."""

    data: Path
    out: Path

    def place(self, model: RegularizedModel) -> Path:
        """Folder of the model's versions."""
        return self.out / model.metadata.namespace / model.metadata.name

    def versions(self, model: RegularizedModel) -> list[int]:
        """Numbers of complete versions, ascending."""
        found = (VERSION.fullmatch(path.parent.name) for path in self.place(model).glob(f"v*/{artifact.MANIFEST}"))
        return sorted(int(match[1]) for match in found if match)

    def stage(self, folder: Path) -> None:
        """The two buckets, as links."""
        if not self.data.exists():
            raise CliError(f"--data {self.data}: there is no such file or folder")
        self.out.mkdir(parents=True, exist_ok=True)
        (folder / ARTIFACTS).symlink_to(self.out.resolve(), target_is_directory=True)
        if self.data.is_dir():
            (folder / DATA).symlink_to(self.data.resolve(), target_is_directory=True)
        else:
            (folder / DATA).mkdir()
            (folder / DATA / self.data.name).symlink_to(self.data.resolve())


def job_of(model: RegularizedModel, local: Local) -> TrainingJob:
    """What the operator would tell its Job, with the folders of this machine. Versions count on from those in `--out`."""
    done, spec = local.versions(model), model.spec
    parent = f"v{done[-1]}" if done else None
    snapshot = spec.data.snapshot.model_copy(update={"uri": f"s3://{DATA}/", "digest": None})
    artifacts = spec.artifacts.model_copy(update={"uri": f"s3://{ARTIFACTS}/", "signing": None})
    spec = spec.model_copy(update={"data": spec.data.model_copy(update={"snapshot": snapshot}), "artifacts": artifacts})
    version = VersionStatus(
        version=f"v{done[-1] + 1 if done else 1}",
        state="Training",
        parent=parent,
        spec_hash=spec_hash(spec, str(local.data)),
        requested_by="espalier train",
    )
    return training_job(model.metadata, spec, version, 1, "", _references(model, local, parent))


def _references(model: RegularizedModel, local: Local, parent: str | None) -> tuple[ReferenceStatus, ...]:
    """previousModel is the newest version in `--out`, other models are looked up beside it."""
    asked = {name for names in model.spec.regularizers.references().values() for name in names}
    found: list[ReferenceStatus] = []
    for name in sorted(asked):
        other, _, version = name.partition("@")
        if name == PREVIOUS:
            if parent is None:
                continue  # nothing to hold on to yet: the block rests, as on a cluster
            other, version = model.metadata.name, parent
        folder = local.out / model.metadata.namespace / other
        if not version:
            numbers = [VERSION.fullmatch(path.parent.name) for path in folder.glob(f"v*/{artifact.MANIFEST}")]
            version = f"v{max((int(match[1]) for match in numbers if match), default=0)}"
        manifest = folder / version / artifact.MANIFEST
        if not manifest.exists():
            raise CliError(f"{name}: there is no {manifest}; train that model into the same --out first")
        uri = f"s3://{ARTIFACTS}/{model.metadata.namespace}/{other}/{version}/"
        digest = version_digest(manifest.read_bytes())
        found.append(ReferenceStatus(name=name, model=other, version=version, uri=uri, digest=digest))
    return tuple(found)


def train(
    job: TrainingJob, local: Local, tell: Callable[[TrainingProgress], None], say: Callable[[str], None]
) -> TrainingResult:
    """Run the trainer to its end. `tell` gets the progress about twice a second, `say` a line for what a person may want to read."""
    with tempfile.TemporaryDirectory(prefix="espalier-train-") as name:
        folder = Path(name)
        local.stage(folder)
        (folder / "job.json").write_text(job.to_json(), encoding="utf-8")
        ended = folder / "termination"
        command = [sys.executable, "-m", "espalier_trainer", "--job", str(folder / "job.json")]
        with subprocess.Popen(  # noqa: S603 - our own module, fixed arguments
            [*command, "--port", "0", "--local", str(folder)],
            env={**os.environ, "TERMINATION_LOG": str(ended)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            log = _followed(process, tell, say)
        if not ended.exists():
            raise CliError(f"the trainer ended with {process.returncode} and said: {' '.join(log[-3:])[-500:]}")
        return TrainingResult.from_termination_message(ended.read_text(encoding="utf-8"))


def _followed(
    process: subprocess.Popen[str], tell: Callable[[TrainingProgress], None], say: Callable[[str], None]
) -> list[str]:
    """Lines that are no events. Ctrl-C asks the trainer to save and leave, like SIGTERM in a pod."""
    watch, other = _Watch(tell), []
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    while True:
        try:
            for line in process.stdout:
                event = _event(line)
                if event is None:
                    other.append(line.strip())
                    continue
                if event["event"] == STARTED:
                    watch.start(event["port"])
                for words in _words(event):
                    say(words)
            process.wait()
            watch.stop()
            return other
        except KeyboardInterrupt:
            process.terminate()


class _Watch:
    """Asks the trainer's /progress now and then, on a thread of its own."""

    def __init__(self, tell: Callable[[TrainingProgress], None]) -> None:
        self._tell, self._ended = tell, threading.Event()

    def start(self, port: int) -> None:
        """From now on."""
        threading.Thread(target=self._run, args=(port,), daemon=True).start()

    def stop(self) -> None:
        """Until now."""
        self._ended.set()

    def _run(self, port: int) -> None:
        while not self._ended.wait(SECONDS):
            if (now := _progress(port)) is not None:
                self._tell(now)


def _event(line: str) -> dict[str, Any] | None:
    with suppress(json.JSONDecodeError):
        found = json.loads(line)
        if isinstance(found, dict) and "event" in found:
            return found
    return None


def _words(event: dict[str, Any]) -> Iterator[str]:
    """An event of the log for people; most are not."""
    match event["event"]:
        case "data":
            rows = ", ".join(f"{count} {name}" for name, count in event["rows"].items())
            yield f"rows: {rows}; {event['features']} features"
        case "trial":
            values = ", ".join(f"{path.partition('.')[2]}={_short(value)}" for path, value in event["params"].items())
            yield f"trial {event['number']}: {_short(event.get('objective', event.get('reason', '')))} with {values}"
        case "fold":
            yield "fold: " + ", ".join(f"{name} {_short(value)}" for name, value in event["metrics"].items())
        case "fit":
            yield f"fit, seed {event['seed']}: {event['epochs']} epochs"
        case "trials-found":
            yield f"resumed: {event['count']} trials were done"
        case "resumed":
            yield f"resumed: {event['folds']} folds were done, step {event['step']}"
        case _:
            return


def _short(value: object) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _progress(port: int) -> TrainingProgress | None:
    address = f"http://127.0.0.1:{port}/progress"
    with suppress(OSError, ValueError), urllib.request.urlopen(address, timeout=2) as answer:
        return TrainingProgress.model_validate_json(answer.read())
    return None


def report(model: RegularizedModel, local: Local, version: str) -> tuple[Table, Table | None, bool]:
    """(metrics, gates if there are any, whether all gates are met) of a version."""
    manifest = Manifest.model_validate_json((local.place(model) / version / artifact.MANIFEST).read_bytes())
    numbers = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("METRIC", "VALUE", "95 % INTERVAL", "ROWS"):
        numbers.add_column(name, justify="left" if name == "METRIC" else "right")
    for name, metric in sorted(manifest.metrics.items()):
        interval = "" if metric.low is None or metric.high is None else f"{metric.low:.5g} - {metric.high:.5g}"
        numbers.add_row(name, f"{metric.value:.5g}", interval, "" if metric.n is None else str(metric.n))
    before = None
    if manifest.parent is not None:
        parent = local.place(model) / manifest.parent / artifact.MANIFEST
        before = Manifest.model_validate_json(parent.read_bytes()).metrics
    judged = judge_gates(model.spec.evaluation.gates, manifest.metrics, before)
    if not judged:
        return numbers, None, True
    gates = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("GATE", "BOUND", "VALUE", "MET"):
        gates.add_column(name)
    for gate in judged:
        value = "not recorded" if gate.value is None else f"{gate.value:.5g}"
        met = "[green]yes[/green]" if gate.passed else "[red]no[/red]"
        gates.add_row(f"{gate.metric}{f' by {gate.group}' if gate.group else ''}", gate.bound, value, met)
    return numbers, gates, all(gate.passed for gate in judged)
