"""Prediction ids: they carry what feedback needs, and nothing else is taken for one."""

from __future__ import annotations

import base64
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espalier_server.ids import InvalidIdError, PredictionIds, fingerprint

IDS = PredictionIds("uid-1", "v4", ["a", "b"])


@given(
    st.integers(0, 2**48),
    st.integers(0, 1000) | st.floats(allow_nan=False, allow_infinity=False),
    st.floats(0, 1, width=32),
    st.booleans(),
)
def test_what_was_issued_is_read_back(at_ms: int, predicted: float, confidence: float, rejected: bool) -> None:
    prediction, key = IDS.read(IDS.issue(at_ms, predicted, confidence, rejected=rejected))
    assert (prediction.version, prediction.at_ms, prediction.predicted) == ("v4", at_ms, predicted)
    assert (prediction.confidence, prediction.rejected) == (confidence, rejected)
    assert prediction.classes == fingerprint(["a", "b"])
    assert len(key) == 12


def test_another_pod_of_another_version_reads_it() -> None:
    text = IDS.issue(5, 1, 0.5, rejected=False)
    assert PredictionIds("uid-1", "v12", ["a", "b"]).read(text)[0].version == "v4"


def test_equal_predictions_have_different_ids() -> None:
    assert len({IDS.issue(1, 1, 0.5, rejected=False) for _ in range(1000)}) == 1000


def test_an_id_of_another_model_is_foreign() -> None:
    with pytest.raises(InvalidIdError) as caught:
        PredictionIds("uid-2", "v4", ["a", "b"]).read(IDS.issue(5, 1, 0.5, rejected=False))
    assert caught.value.reason == "foreign"


@given(st.text(max_size=200) | st.text("AZaz09-_", min_size=55, max_size=170))
def test_no_text_is_taken_for_an_id(text: str) -> None:
    with pytest.raises(InvalidIdError):
        IDS.read(text)


@given(st.integers(0, 45), st.integers(1, 255))
def test_one_changed_byte_is_found(position: int, change: int) -> None:
    raw = bytearray(base64.urlsafe_b64decode(IDS.issue(5, 1, 0.5, rejected=False) + "=="))
    raw[position % len(raw)] ^= change
    with pytest.raises(InvalidIdError):
        IDS.read(base64.urlsafe_b64encode(bytes(raw)).rstrip(b"=").decode())


@pytest.mark.parametrize("key", ["", "uid-1", "k" * 64, "k" * 65, "ключ" * 30])
def test_the_tag_is_the_standard_librarys_hmac(key: str) -> None:
    raw = base64.urlsafe_b64decode(PredictionIds(key, "v4", []).issue(5, 1, 0.5, rejected=False) + "==")
    assert raw[-12:] == hmac.digest(key.encode(), raw[:-12], "sha256")[:12]


def test_class_lists_that_only_look_alike_differ() -> None:
    assert fingerprint(["ab", "c"]) != fingerprint(["a", "bc"])
