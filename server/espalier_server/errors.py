"""What can go wrong in the server. Two families: what keeps a version from serving, and what keeps a request from an
answer.

A `StartError` carries the process's exit code, a `RequestError` its HTTP status and the outcome it counts as. Each
message names the object or field, what was wrong with it and what to do.
"""

from __future__ import annotations

from typing import ClassVar

from espalier_api.exit_codes import ExitCode


class ServerError(Exception):
    """Base of every error this room raises on purpose."""


# --- start -----------------------------------------------------------------------------------------------------------
class StartError(ServerError):
    """The version must not be served: the process ends with `exit_code` and the kubelet starts it again."""

    exit_code: ClassVar[int] = 1


class ConfigError(StartError):
    """serving.json cannot work as it stands."""

    exit_code = ExitCode.INVALID_CONFIG


class ArtifactError(StartError):
    """The artifact is missing, half-written, tampered with, or does not answer its golden inputs."""

    exit_code = ExitCode.DATA_PROBLEM


class MissingObjectError(ArtifactError):
    """A file of the version is not in the store."""


class SignatureError(ArtifactError):
    """The version is not signed by a key of spec.artifacts.signing."""


class StorageDeniedError(StartError):
    """The object store knows us and says no. Ends the process because credentials are read at start only."""

    exit_code = ExitCode.INVALID_CONFIG


class StorageUnavailableError(ServerError):
    """The object store does not answer, or answers 429 or 5xx: try again later, stay alive and unready."""


# --- requests --------------------------------------------------------------------------------------------------------
class RequestError(ServerError):
    """A request that gets no answer. `outcome` is the label it counts as in inference_requests_total."""

    status: ClassVar[int] = 500
    outcome: ClassVar[str] = "error"
    retry_after: ClassVar[int | None] = None
    """Seconds for the Retry-After header, where trying again can help."""


class InvalidRequestError(RequestError):
    """The client's mistake; `field` says where, in the words of the request's JSON."""

    status = 400
    outcome = "invalid"

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class UnknownModelError(RequestError):
    """Another model or version than the one this pod serves."""

    status = 404
    outcome = "invalid"


class BodyTooLargeError(RequestError):
    """More bytes than limits.maxBodyBytes."""

    status = 413
    outcome = "invalid"


class BodyTooSlowError(RequestError):
    """The body did not arrive within limits.requestTimeoutSeconds."""

    status = 408
    outcome = "invalid"


class UnsupportedBodyError(RequestError):
    """Not JSON, or compressed."""

    status = 415
    outcome = "invalid"


class ThrottledError(RequestError):
    """limits.maxQueue requests wait already."""

    status = 429
    outcome = "throttled"
    retry_after = 1


class NotReadyError(RequestError):
    """The model is not loaded yet, or the pod is going away."""

    status = 503
    retry_after = 1


class TooLateError(RequestError):
    """Queue and computation took longer than limits.requestTimeoutSeconds."""

    status = 504


class ModelFailedError(RequestError):
    """The model itself failed on valid input: an error of the version, which the errors SLI must see."""


class AlreadyLabelledError(RequestError):
    """The prediction has its label."""

    status = 409


class PredictionExpiredError(RequestError):
    """The prediction is older than feedback.ttl."""

    status = 410
