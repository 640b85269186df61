"""Names for shells to complete. A completion never shows an error: without a cluster there is just nothing to offer."""

from __future__ import annotations

import sys

from espalier_cli.errors import CliError

NO_FILES = ":4"
"""cobra's directive that kubectl understands: do not offer file names."""
FILES = ":0"
"""cobra's directive for: the shell's own offers, which are file names."""
FILE_OPTIONS = {"-f", "--filename", "--data", "--out"}


def names(incomplete: str) -> list[str]:
    """Models and rollouts of the context's namespace that begin with what was typed."""
    from espalier_cli.objects import Objects

    try:
        objects = Objects.connect(None, None)
        found = {
            str(item["metadata"]["name"])
            for kind in ("RegularizedModel", "CanaryRollout")
            for item in objects.list(kind)
        }
    except CliError:
        return []
    return sorted(name for name in found if name.startswith(incomplete))


def rules(incomplete: str) -> list[str]:
    """Ids of validator rules that begin with what was typed."""
    from espalier_cli.explain import rule_ids

    return rule_ids(incomplete)


def offers(words: list[str]) -> list[str]:
    """What may stand at the last of these words: first a command, then a name; after --explain a rule."""
    from espalier_cli.main import app

    if len(words) <= 1:
        typed = words[0] if words else ""
        known = (info.name or info.callback.__name__ for info in app.registered_commands if info.callback is not None)
        return sorted(name for name in {*known, "demo"} if name.startswith(typed))
    if words[-2] == "--explain":
        return rules(words[-1])
    if words[-2] in FILE_OPTIONS or words[0] == "train":
        return []  # files are the shell's to offer, and train has no names
    return [] if words[-1].startswith("-") else names(words[-1])


def run() -> None:
    """`kubectl_complete-espalier WORD...`: one offer per line and a directive, as kubectl asks its plugins."""
    words = sys.argv[1:]
    print("\n".join([*offers(words), FILES if words[-2:-1] and words[-2] in FILE_OPTIONS else NO_FILES]))
