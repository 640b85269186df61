"""What a Dockerfile copies."""

from __future__ import annotations

import pytest

from images import recipe
from images.errors import ImageError


def test_continuations_comments_flags_and_stages() -> None:
    text = """\
# COPY not/this /x
FROM a AS b
copy --chown=1:1 ./one two/ \\
  three /target/
RUN a && \\
    COPY four /x
COPY --from=b /five /five
"""
    assert recipe.copied(text, name="demo") == ["one", "three", "two"]


@pytest.mark.parametrize("line", ["ADD a b", "COPY *.lock /src/", "COPY only", "COPY $SOURCE /x"])
def test_what_has_no_hash_is_refused(line: str) -> None:
    with pytest.raises(ImageError, match="images/demo/Dockerfile"):
        recipe.copied(f"FROM x\n{line}\n", name="demo")


def test_defaults_of_arguments() -> None:
    assert recipe.default_argument("ARG A\nARG BASE_IMAGE=python:3.13-slim\n", "BASE_IMAGE") == "python:3.13-slim"
    assert recipe.default_argument("ARG A\n", "A") == ""


def test_the_dependencies_end_before_the_last_stage() -> None:
    assert recipe.dependencies("FROM a AS deps\nRUN x\n\nFROM ${DEPS}\nCOPY b /b\n") == "FROM a AS deps\nRUN x\n"
    assert recipe.dependencies("FROM a\nCOPY b /b\n") == ""
