"""Read a Dockerfile: what it copies is what the image depends on, so nothing has to be listed twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from images.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Iterator


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """Each instruction's name, in upper case, and the rest of its line; comments and continuations resolved."""
    pending = ""
    for line in text.splitlines():
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        if stripped.endswith("\\"):
            pending += stripped[:-1] + " "
            continue
        name, _, rest = (pending + stripped).partition(" ")
        pending = ""
        yield name.upper(), rest.strip()


def copied(text: str, *, name: str) -> list[str]:
    """The paths, relative to the repository's root, that a Dockerfile copies from its context, sorted.

    Args:
        text: the Dockerfile.
        name: the image, for messages.

    Raises:
        ImageError: a COPY without a destination, an ADD, or a pattern: their content could not be hashed.

    """
    found: set[str] = set()
    for instruction, rest in instructions(text):
        if instruction == "ADD":
            raise ImageError(f"images/{name}/Dockerfile: ADD {rest}", remedy="use COPY, whose content has a hash")
        if instruction != "COPY":
            continue
        words = rest.split()
        flags = [word for word in words if word.startswith("--")]
        if any(flag.startswith("--from=") for flag in flags):
            continue
        sources = [word for word in words if not word.startswith("--")][:-1]
        if not sources or any(set(source) & set("*?[$") for source in sources):
            raise ImageError(
                f"images/{name}/Dockerfile: COPY {rest}: the sources are not plain paths",
                remedy="name each file or folder",
            )
        found |= {source.strip("/").removeprefix("./") for source in sources}
    return sorted(found)


def default_argument(text: str, argument: str) -> str:
    """The default of a Dockerfile's ``ARG``; empty if it has none."""
    for instruction, rest in instructions(text):
        key, _, value = rest.partition("=")
        if instruction == "ARG" and key == argument:
            return value
    return ""


def dependencies(text: str) -> str:
    """The part of a Dockerfile that makes its ``deps`` stage, which has no source of ours; empty if it has none.

    It ends before the last stage, which begins with ``FROM ${DEPS}``.
    """
    part, separator, _ = text.partition("\nFROM ${DEPS}\n")
    return part if separator else ""
