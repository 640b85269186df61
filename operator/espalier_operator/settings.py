"""What an administrator may set, from the environment and one mounted JSON file; read once at start, then immutable.

A tenant never sees these: rollouts name a Prometheus source, they do not hold its address or its token.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espalier_api import names
from espalier_api.durations import parse_duration

if TYPE_CHECKING:
    from collections.abc import Mapping


class SettingsError(ValueError):
    """A setting is missing or malformed; the message names it and the remedy. The operator does not start."""


@dataclass(frozen=True, slots=True)
class PrometheusSource:
    """A Prometheus that rollouts may name in `analysis.source`."""

    url: str
    """Base address, e.g. `http://prometheus.monitoring:9090`."""
    timeout: timedelta = timedelta(seconds=5)
    """Longest time of one query; beyond it the sample is SourceDown."""
    scrape_interval: timedelta = timedelta(seconds=15)
    """How often the source scrapes servers; NoData is called after two of them."""
    lag: timedelta = timedelta(seconds=30)
    """A block is judged this long after its end, so that late samples are in."""
    bearer_token_file: Path | None = None
    """Read again on every query: projected tokens rotate."""
    ca_file: Path | None = None
    """PEM bundle; None means the system's."""


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Where S3 is. The operator's own credentials come from the standard AWS_* environment, never from a tenant's
    Secret.
    """

    endpoint_url: str | None = None
    """None means AWS."""
    region: str | None = None
    """None means what the environment says."""
    timeout: timedelta = timedelta(seconds=5)
    """Connect and read timeout of one request."""
    threads: int = 4
    """Size of the store's own pool: a slow store delays no reconcile that does not need it."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All of it."""

    trainer_image: str
    """Image of training Jobs whose spec names none. Changing it never retrains."""
    server_image: str
    """Image of serving pods whose spec names none."""
    namespaces: tuple[str, ...] = ()
    """Watched namespaces; empty means all (then the chart makes ClusterRoles)."""
    prometheus: Mapping[str, PrometheusSource] = field(default_factory=dict)
    """Sources by name."""
    store: StoreSettings = StoreSettings()
    """The operator's view of S3."""
    metrics_port: int = names.PORT_OPERATOR_METRICS
    """Port of /metrics; 0 serves none (tests)."""
    probe_port: int = names.PORT_OPERATOR_PROBE
    """Port of /healthz."""
    kube_timeout: timedelta = timedelta(seconds=15)
    """Longest time of one API request that is not a watch."""
    kube_concurrency: int = 16
    """Requests to the API server at once; the rest queue here, not there."""
    watch_timeout: timedelta = timedelta(seconds=290)
    """The server ends a watch after this long and we open it again from where it was."""
    watch_silence: timedelta = timedelta(seconds=70)
    """A watch without even a bookmark for this long is dead (load balancers do that) and is opened again."""
    reconcile_timeout: timedelta = timedelta(seconds=60)
    """A pass that takes longer is cancelled and backs off: one stuck object delays no other, and never itself for
    ever."""
    liveness_grace: timedelta = timedelta(seconds=180)
    """Liveness fails when any loop is overdue by this much, or caches are unsynced for this long."""
    progress_interval: timedelta = timedelta(seconds=5)
    """How often a training pod is asked for its progress."""


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from the environment and the file that it names.

    Raises SettingsError that names the variable or the key, and what to write there.
    """
    env = os.environ if environ is None else environ
    document = _read(Path(env.get("ESPALIER_SETTINGS_FILE", names.SETTINGS_PATH)))
    return Settings(
        trainer_image=_required(env, "ESPALIER_TRAINER_IMAGE"),
        server_image=_required(env, "ESPALIER_SERVER_IMAGE"),
        namespaces=tuple(sorted({part.strip() for part in env.get("ESPALIER_NAMESPACES", "").split(",")} - {""})),
        prometheus={name: _source(name, raw) for name, raw in _mapping(document, "prometheus").items()},
        store=_store(_mapping(document, "s3")),
        metrics_port=_port(env, "ESPALIER_METRICS_PORT", names.PORT_OPERATOR_METRICS),
        probe_port=_port(env, "ESPALIER_PROBE_PORT", names.PORT_OPERATOR_PROBE),
    )


def _required(env: Mapping[str, str], name: str) -> str:
    if not (value := env.get(name, "").strip()):
        raise SettingsError(f"{name} is not set; the chart sets it from values.images, a shell must export it")
    return value


def _port(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name, str(default))
    if not text.isdecimal() or not 0 <= int(text) <= 65535:  # noqa: PLR2004 - the largest port there is
        raise SettingsError(f"{name}={text!r} is not a port; write a number from 0 to 65535")
    return int(text)


def _read(path: Path) -> Mapping[str, Any]:
    if not path.exists():
        return {}
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SettingsError(f"{path}: not JSON: {error}; fix `settings` in the chart's values") from error
    if not isinstance(document, dict):
        raise SettingsError(f"{path}: must be one JSON object with the keys prometheus and s3")
    if unknown := sorted(document.keys() - {"prometheus", "s3"}):
        raise SettingsError(f"{path}: unknown keys {', '.join(unknown)}; known are prometheus and s3")
    return document


def _mapping(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = document.get(key, {})
    if not isinstance(value, dict):
        raise SettingsError(f"settings.{key} must be an object, not {type(value).__name__}")
    return value


def _source(name: str, raw: object) -> PrometheusSource:
    where = f"settings.prometheus.{name}"
    known = {"url", "timeoutSeconds", "scrapeInterval", "lag", "bearerTokenFile", "caFile"}
    if not isinstance(raw, dict) or not isinstance(raw.get("url"), str):
        raise SettingsError(f"{where}.url is missing; write the base address of a Prometheus")
    if unknown := sorted(raw.keys() - known):
        raise SettingsError(f"{where}: unknown keys {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    return PrometheusSource(
        url=raw["url"].rstrip("/"),
        timeout=timedelta(seconds=_number(where, raw, "timeoutSeconds", 5.0)),
        scrape_interval=_duration(where, raw, "scrapeInterval", "15s"),
        lag=_duration(where, raw, "lag", "30s"),
        bearer_token_file=_path(raw.get("bearerTokenFile")),
        ca_file=_path(raw.get("caFile")),
    )


def _store(raw: Mapping[str, Any]) -> StoreSettings:
    known = {"endpointUrl", "region", "timeoutSeconds"}
    if unknown := sorted(raw.keys() - known):
        raise SettingsError(f"settings.s3: unknown keys {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    return StoreSettings(
        endpoint_url=raw.get("endpointUrl") or None,
        region=raw.get("region") or None,
        timeout=timedelta(seconds=_number("settings.s3", raw, "timeoutSeconds", 5.0)),
    )


def _number(where: str, raw: Mapping[str, Any], key: str, default: float) -> float:
    value = raw.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise SettingsError(f"{where}.{key}={value!r} must be a positive number of seconds")
    return float(value)


def _duration(where: str, raw: Mapping[str, Any], key: str, default: str) -> timedelta:
    value = raw.get(key, default)
    try:
        return parse_duration(str(value))
    except ValueError as error:
        raise SettingsError(f"{where}.{key}: {error}") from error


def _path(value: object) -> Path | None:
    return Path(str(value)) if value else None
