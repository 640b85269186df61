"""Settings: what is wrong is told by name, before anything starts."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from espalier_operator.main import run
from espalier_operator.settings import SettingsError, load

ENV = {"ESPALIER_TRAINER_IMAGE": "trainer:1", "ESPALIER_SERVER_IMAGE": "server:1"}


def loaded(tmp_path: Path, document: Any, **env: str) -> Any:
    path = tmp_path / "settings.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return load({**ENV, "ESPALIER_SETTINGS_FILE": str(path), **env})


def test_defaults() -> None:
    settings = load({**ENV, "ESPALIER_SETTINGS_FILE": "/nowhere"})
    assert (settings.namespaces, settings.metrics_port, settings.probe_port) == ((), 9100, 8080)
    assert dict(settings.prometheus) == {}


def test_everything(tmp_path: Path) -> None:
    document = {
        "prometheus": {
            "default": {
                "url": "http://p:9090/",
                "timeoutSeconds": 2,
                "scrapeInterval": "2s",
                "lag": "4s",
                "caFile": "/ca",
            }
        },
        "s3": {"endpointUrl": "http://s3:8333", "region": "eu"},
    }
    settings = loaded(tmp_path, document, ESPALIER_NAMESPACES="b, a,,b")
    source = settings.prometheus["default"]
    assert (source.url, source.timeout, source.lag) == ("http://p:9090", timedelta(seconds=2), timedelta(seconds=4))
    assert (source.ca_file, source.bearer_token_file) == (Path("/ca"), None)
    assert (settings.store.endpoint_url, settings.store.region) == ("http://s3:8333", "eu")
    assert settings.namespaces == ("a", "b")


WRONG: list[tuple[Any, dict[str, str], str]] = [
    ({}, {"ESPALIER_TRAINER_IMAGE": " "}, "ESPALIER_TRAINER_IMAGE is not set"),
    ({}, {"ESPALIER_METRICS_PORT": "x"}, "ESPALIER_METRICS_PORT='x' is not a port"),
    ({}, {"ESPALIER_PROBE_PORT": "70000"}, "ESPALIER_PROBE_PORT"),
    ("{", {}, "not JSON"),
    ([], {}, "one JSON object"),
    ({"promethues": {}}, {}, "unknown keys promethues"),
    ({"prometheus": []}, {}, "settings.prometheus must be an object"),
    ({"prometheus": {"a": {}}}, {}, "settings.prometheus.a.url is missing"),
    ({"prometheus": {"a": {"url": "http://p", "lagg": "1s"}}}, {}, "unknown keys lagg"),
    (
        {"prometheus": {"a": {"url": "http://p", "lag": "soon"}}},
        {},
        "settings.prometheus.a.lag: 'soon' is not a duration",
    ),
    ({"prometheus": {"a": {"url": "http://p", "timeoutSeconds": 0}}}, {}, "timeoutSeconds=0 must be a positive number"),
    ({"s3": {"bucket": "x"}}, {}, "settings.s3: unknown keys bucket"),
]


@pytest.mark.parametrize("document,env,message", WRONG)
def test_what_is_wrong_is_named(tmp_path: Path, document: Any, env: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        loaded(tmp_path, document, **env)
    assert message in str(caught.value)


def test_a_wrong_setting_ends_the_process_at_once(caplog: pytest.LogCaptureFixture) -> None:
    assert run({}) == 2
    assert "ESPALIER_TRAINER_IMAGE" in caplog.text
