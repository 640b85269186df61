"""Reads one version's files from S3. Sorts every failure into three: refused (final), denied (final), unavailable
(try again).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from espalier_api.names import split_s3
from espalier_server.errors import MissingObjectError, ServerError, StorageDeniedError, StorageUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK_BYTES = 1 << 20
_MISSING = {"NoSuchKey", "NoSuchBucket", "404", "NotFound"}
_HTTP_THROTTLED = 429
_HTTP_FORBIDDEN = 403
_HTTP_SERVER_ERROR = 500


class Store(Protocol):
    """Where a version's files lie."""

    def read(self, name: str) -> Iterator[bytes]:
        """The bytes of a file, in chunks. Raises ArtifactError, StorageDeniedError or StorageUnavailableError."""
        ...


class S3Store:
    """One prefix of one bucket. Endpoint, region and credentials come from the standard AWS_* environment."""

    def __init__(self, uri: str, client: Any = None) -> None:  # noqa: ANN401 - boto3 makes its clients at run time
        self._bucket, self._prefix = split_s3(uri)
        self._client = client or _client()

    def read(self, name: str) -> Iterator[bytes]:
        """See Store."""
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - slow import, off the start's path

        key = f"{self._prefix.rstrip('/')}/{name}"
        try:
            body = self._client.get_object(Bucket=self._bucket, Key=key)["Body"]
            yield from body.iter_chunks(CHUNK_BYTES)
        except ClientError as error:
            raise _answered(error, f"s3://{self._bucket}/{key}") from error
        except BotoCoreError as error:
            raise _unanswered(error, f"s3://{self._bucket}/{key}") from error


def _client() -> Any:  # noqa: ANN401 - boto3 makes its clients at run time
    import boto3  # noqa: PLC0415 - slow import, off the start's path
    from botocore.config import Config  # noqa: PLC0415
    from botocore.exceptions import BotoCoreError  # noqa: PLC0415

    retries = {"max_attempts": 2, "mode": "standard"}
    config = Config(s3={"addressing_style": "path"}, connect_timeout=5, read_timeout=30, retries=retries)  # type: ignore[arg-type]
    try:
        return boto3.session.Session().client("s3", config=config)
    except (BotoCoreError, ValueError) as error:
        raise StorageDeniedError(
            f"S3 client: {error}; check AWS_ENDPOINT_URL and AWS_REGION in the model's secret"
        ) from error


def _answered(error: Any, address: str) -> ServerError:  # noqa: ANN401 - ClientError, imported late
    """An error that the store itself sent."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in _MISSING:
        return MissingObjectError(
            f"{address} does not exist ({code}): the version is incomplete or was deleted; serve another one"
        )
    if status >= _HTTP_SERVER_ERROR or status == _HTTP_THROTTLED or code in {"SlowDown", "RequestTimeout"}:
        return StorageUnavailableError(f"{address}: the store answered {status} {code}")
    if status == _HTTP_FORBIDDEN:
        return StorageDeniedError(
            f"{address}: {code}; the credentials of spec.artifacts.secretRef must be allowed to read this prefix"
        )
    return StorageDeniedError(f"{address}: the store answered {status} {code}")


def _unanswered(error: Exception, address: str) -> ServerError:
    """An error on the way: no credentials is the operator's or user's to mend, the rest passes."""
    from botocore.exceptions import NoCredentialsError, ParamValidationError, PartialCredentialsError  # noqa: PLC0415

    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return StorageDeniedError(
            f"{address}: no S3 credentials; the secret needs AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if isinstance(error, ParamValidationError):
        return StorageDeniedError(f"{address}: not an S3 address: {error}")
    return StorageUnavailableError(f"{address}: {error}")
