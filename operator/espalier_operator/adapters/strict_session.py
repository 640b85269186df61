"""The HTTP session below prometheus-api-client: bounded in time and size, and honest about what is no answer.

The library would accept a login page's 200 until it stumbles over its form, keep a partial result without its
warnings, and let a server that drips one byte a second hold a thread for ever. Here each of these is an error with a
reason.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Final

import requests

from espalier_operator.decisions.judge.verdict import DownReason

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["BadAnswerError", "StrictSession"]

MAX_BYTES: Final = 64 * 1024 * 1024
_CHUNK: Final = 65_536
_OK: Final = 200
_CLIENT_ERROR: Final = 400
_SERVER_ERROR: Final = 500
_TOO_MANY: Final = 429
_SHOWN: Final = 200


class BadAnswerError(Exception):
    """An HTTP answer that is no result; `reason` says of which kind."""

    def __init__(self, reason: DownReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class StrictSession(requests.Session):
    """One thread's connection to one source. `timeout` seconds bound connecting, every read, and the whole answer."""

    def __init__(
        self, timeout: float, *, token_file: Path | None, ca_file: Path | None, headers: Mapping[str, str]
    ) -> None:
        super().__init__()
        self._timeout = timeout
        self._token_file = token_file
        self.verify = str(ca_file) if ca_file else True
        self.max_redirects = 3
        self.headers.update(headers)

    def request(self, method: str | bytes, url: str | bytes, *args: Any, **kwargs: Any) -> requests.Response:  # noqa: ANN401 - requests' own
        """As requests', with the result already parsed and checked. Raises BadAnswerError."""
        deadline = time.monotonic() + self._timeout
        if self._token_file is not None:
            token = self._token_file.read_text(encoding="utf-8").strip()
            kwargs["headers"] = {**(kwargs.get("headers") or {}), "Authorization": f"Bearer {token}"}
        kwargs |= {"timeout": self._timeout, "stream": True}
        with super().request(method, url, *args, **kwargs) as response:
            document = _parse(response.status_code, _read(response, deadline))
        response.json = lambda **_: document  # type: ignore[method-assign] # parsed once, not twice
        return response


def _read(response: requests.Response, deadline: float) -> bytes:
    """The whole body, or BadAnswerError once it is too late or too large."""
    body = bytearray()
    while chunk := response.raw.read1(_CHUNK, decode_content=True):
        body += chunk
        if len(body) > MAX_BYTES:
            raise BadAnswerError(DownReason.MALFORMED, f"the answer is larger than {MAX_BYTES >> 20} MiB")
        if time.monotonic() > deadline:
            raise BadAnswerError(DownReason.TIMEOUT, "the answer came too slowly")
    return bytes(body)


def _parse(status: int, body: bytes) -> dict[str, Any]:
    """The document of a full success; everything else is an error in the source's own words."""
    if status != _OK:
        raise BadAnswerError(_reason(status), f"HTTP {status}: {_words(body)}")
    try:
        document = json.loads(body)
    except ValueError as error:
        raise BadAnswerError(DownReason.MALFORMED, f"not JSON: {_words(body)}") from error
    if not isinstance(document, dict) or document.get("status") != "success":
        raise BadAnswerError(DownReason.MALFORMED, f"not a Prometheus result: {_words(body)}")
    if warnings := document.get("warnings"):
        raise BadAnswerError(DownReason.PARTIAL, f"the answer is partial: {'; '.join(map(str, warnings))[:_SHOWN]}")
    return document


def _reason(status: int) -> DownReason:
    if status >= _SERVER_ERROR or status == _TOO_MANY:
        return DownReason.SERVER_ERROR
    return DownReason.REJECTED if status >= _CLIENT_ERROR else DownReason.MALFORMED


def _words(body: bytes) -> str:
    """Prometheus' own error text, or the beginning of whatever came."""
    try:
        return str(json.loads(body)["error"])[:_SHOWN]
    except (ValueError, KeyError, TypeError):
        return body[:_SHOWN].decode("utf-8", "replace")
