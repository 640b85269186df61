"""Durations, times, names and requests: what two rooms must spell alike."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from espalier_api import names
from espalier_api.durations import Duration, Timestamp, format_duration, format_time, parse_duration


@pytest.mark.parametrize(
    "text, seconds, canonical",
    [
        ("90s", 90, "1m30s"),
        ("1h30m", 5400, "1h30m"),
        ("250ms", 0.25, "250ms"),
        ("3d", 259_200, "72h"),
        ("0s", 0, "0s"),
        ("1.5h", 5400, "1h30m"),
    ],
)
def test_durations(text: str, seconds: float, canonical: str) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)
    assert format_duration(parse_duration(text)) == canonical


@given(st.integers(min_value=0, max_value=10**12))
def test_durations_survive_a_round_trip(milliseconds: int) -> None:
    value = timedelta(milliseconds=milliseconds)
    assert parse_duration(format_duration(value)) == value


@pytest.mark.parametrize("text", ["", "10", "m", "1 h", "-5s", "5s ", "1y", "1h-3m"])
def test_what_is_not_a_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValidationError, match="for example 90s"):
        TypeAdapter(Duration).validate_python(text)


def test_times_are_utc_and_need_a_zone() -> None:
    moment = TypeAdapter(Timestamp).validate_python("2026-11-01T04:00:00+01:00")
    assert moment == datetime(2026, 11, 1, 3, tzinfo=UTC)
    assert format_time(moment) == "2026-11-01T03:00:00Z"
    with pytest.raises(ValidationError, match="needs its zone"):
        TypeAdapter(Timestamp).validate_python("2026-11-01T04:00:00")


def test_versions() -> None:
    assert names.version_name(4) == "v4"
    assert names.version_number("v12") == 12
    for wrong in ("4", "v0", "v04", "v", "latest"):
        with pytest.raises(ValueError, match="not a version"):
            names.version_number(wrong)


def test_children_fit_into_labels() -> None:
    """The longest name that the CRD admits, with many versions and attempts, is still a label."""
    longest = names.job_name("m" * names.MODEL_NAME_MAX, "v9999", 9999)
    assert len(f"{longest}-255") <= 63  # the host name of the last of 256 pods
    assert longest != names.job_name("m" * names.MODEL_NAME_MAX, "v9999", 9998)
    assert names.job_name("digits", "v4", 2) == "digits-v4-a2"
    assert names.job_name("m" * 45, "v9999", 9999) == "m" * 45 + "-v9999-a9999"  # long, and needs no digest yet


def test_the_rendezvous_leaves_the_clusters_domain_open() -> None:
    assert names.rendezvous("digits-v4-a2", "vision") == "digits-v4-a2-0.digits-v4-a2.vision.svc:29400"


def test_addresses() -> None:
    assert names.artifact_prefix("s3://models/", "vision", "digits", "v4") == "s3://models/vision/digits/v4/"
    assert names.artifact_prefix("s3://models", "vision", "digits", "v4") == "s3://models/vision/digits/v4/"
    assert names.checkpoint_prefix("s3://m/p/", "a", "b", "v1") == "s3://m/p/a/b/.checkpoints/v1/"
    assert names.split_s3("s3://models/a/b/") == ("models", "a/b/")
    assert names.split_s3("s3://models") == ("models", "")
    for wrong in ("https://models/", "s3://", "models/a"):
        with pytest.raises(ValueError, match="not an S3 address"):
            names.split_s3(wrong)


@pytest.mark.parametrize("verb", names.VERBS)
def test_requests(verb: str) -> None:
    assert names.parse_request(f"{verb}@4f2a-1") == (verb, "4f2a-1")


@pytest.mark.parametrize("text", ["promote", "promote@", "@1", "destroy@1", "promote@a b", "promote@" + "x" * 64])
def test_what_is_not_a_request_is_refused_with_the_verbs(text: str) -> None:
    with pytest.raises(ValueError, match="promote-full"):
        names.parse_request(text)
