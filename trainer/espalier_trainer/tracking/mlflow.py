"""MLflow: one run per version on a tracking server, in the experiment `<namespace>/<model>`; later attempts go on with it."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from espalier_trainer.errors import InvalidConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from espalier_trainer.tracking.telling import End, Ending, Opening, Point

DEFAULTS: Final = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds; the library's own 120 outlast a pod's grace
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # we try again ourselves; 7 with backoff take minutes
    "MLFLOW_DISABLE_TELEMETRY": "true",  # it would tell its makers
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
}
"""Of the library, unless training.env says otherwise."""
METRICS: Final = 1000
PARAMETERS: Final = 100
"""How many of each a server takes at once."""
STATUS: Final = {"succeeded": "FINISHED", "failed": "FAILED", "preempted": "KILLED"}
REFUSED: Final = {
    401: "secretRef: the server wants to know who is asking (HTTP 401); MLFLOW_TRACKING_USERNAME and _PASSWORD, or _TOKEN, in the Secret "
    "are missing or wrong",
    403: "secretRef: the server knows who is asking and refuses (HTTP 403); grant EDIT on the experiment",
    404: "uri: there is no MLflow server at this address (HTTP 404)",
}
"""Status that trying again cannot mend -> what to mend."""


def start(opening: Opening) -> Mlflow:
    """Go on with the version's run, or create it. InvalidConfigError for what REFUSED lists."""
    asked = opening.job.tracking.mlflow if opening.job.tracking is not None else None
    assert asked is not None  # noqa: S101 - who starts has looked
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    library = import_module("mlflow")
    uri = asked.uri.rstrip("/")
    client = library.MlflowClient(tracking_uri=uri)
    try:
        run = _resumed(library, client, opening.remembered.id) or _created(client, opening)
    except library.exceptions.MlflowException as error:
        if (why := REFUSED.get(status_of(error))) is not None:
            raise InvalidConfigError(f"training.tracking.mlflow.{why}") from error
        raise
    opening.remembered.keep(run.info.run_id)
    return Mlflow(library, client, run, uri, opening)


def status_of(error: Any) -> int:  # noqa: ANN401 - an MlflowException
    """HTTP status: the library gives it a name of its own when the answer is JSON, and writes it into the text when it is not."""
    found = next((code for code in REFUSED if f"failed with error code {code} " in str(error)), None)
    return int(error.get_http_status_code()) if found is None else found


def _resumed(library: Any, client: Any, run: str | None) -> Any:  # noqa: ANN401 - the library has no types that reach here
    """The run of earlier attempts, open again; None when there is none, or somebody deleted it."""
    if run is None:
        return None
    try:
        found = client.get_run(run)
    except library.exceptions.MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    if found.info.lifecycle_stage == "deleted":
        return None
    client.update_run(run, status="RUNNING")
    return found


def _created(client: Any, opening: Opening) -> Any:  # noqa: ANN401 - see above
    model = opening.job.model
    name = f"{model.namespace}/{model.name}"
    known = client.get_experiment_by_name(name)
    experiment = client.create_experiment(name) if known is None else known.experiment_id
    run = client.create_run(experiment, run_name=opening.job.version, tags=opening.tags())
    param = import_module("mlflow.entities").Param
    for some in _batches([param(*pair) for pair in opening.parameters().items()], PARAMETERS):
        client.log_batch(run.info.run_id, params=some)
    return run


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[at : at + size] for at in range(0, len(items), size))


class Mlflow:
    """An open run."""

    def __init__(self, library: Any, client: Any, run: Any, uri: str, opening: Opening) -> None:  # noqa: ANN401 - see above
        self._client, self._run, self._folder = client, run.info.run_id, opening.folder / "mlflow"
        self._metric = import_module("mlflow.entities").Metric
        self._known: Mapping[str, float] = dict(run.data.metrics)
        self.link = f"{uri}/#/experiments/{run.info.experiment_id}/runs/{self._run}"

    def log(self, points: Sequence[Point]) -> None:
        """Metrics with their epoch as step; epochs that an earlier attempt told already stay as they are: they are the same numbers."""
        new = [point for point in points if point.epoch > self._known.get(f"{point.prefix}epoch", -1.0)]
        metrics = [
            self._metric(name, value, int(point.at * 1000), point.epoch)
            for point in new
            for name, value in point.values.items()
        ]
        for some in _batches(metrics, METRICS):
            self._client.log_batch(self._run, metrics=some)

    def close(self, how: Ending, end: End | None) -> None:
        """Final metrics, where the version lies, its pictures; then the run's end."""
        if end is not None:
            for name, value in end.metrics.items():
                self._client.log_metric(self._run, f"final/{name}", value)
            self._client.set_tag(self._run, "espalier.artifact", end.address)
            self._client.set_tag(self._run, "espalier.digest", end.digest)
        self._client.set_terminated(self._run, status=STATUS[how])
        for name, picture in ({} if end is None else end.pictures).items():
            file = self._folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(picture)
            self._client.log_artifact(self._run, str(file), "pictures")  # last: it needs a server that takes files
