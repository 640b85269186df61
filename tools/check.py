"""`make check`: style, types, layers, generated files, and a few habits of the house.

Every part runs; failures are listed at the end.

`python -m tools.check [PART ...]` runs only the named parts.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
SOURCES = (
    "api/espalier_api",
    "operator/espalier_operator",
    "trainer/espalier_trainer",
    "server/espalier_server",
    "cli/espalier_cli",
    "tools",
    "cluster",
    "images",
)
MAX_LINES = 400

Part = Callable[[], list[str]]
"""Returns what is wrong; a command's own output has been printed by then."""


def tool(*command: str) -> Part:
    """A part that is a command of the environment."""

    def run() -> list[str]:
        done = subprocess.run([str(BIN / command[0]), *command[1:]], cwd=ROOT, check=False)
        return [] if done.returncode == 0 else [f"`{' '.join(command)}` ended with {done.returncode}"]

    return run


def tracked(*patterns: str) -> list[Path]:
    """Files that git knows or would know."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).exists()]


def source_folder_stays_a_folder() -> list[str]:
    """operator/__init__.py would shadow the standard library's operator module, and nothing would start."""
    wrong = [room for room in ("api", "operator", "trainer", "server", "cli") if (ROOT / room / "__init__.py").exists()]
    return [f"{room}/__init__.py exists: {room}/ is a source folder, remove the file" for room in wrong]


def modules_stay_small() -> list[str]:
    """A long module is a room that wants a wall."""
    lines = ((path, len(path.read_text().splitlines())) for path in tracked("*.py"))
    return [
        f"{path.relative_to(ROOT)}: {count} lines, at most {MAX_LINES}; split it"
        for path, count in lines
        if count > MAX_LINES
    ]


def chart_values_are_typed() -> list[str]:
    """Every key of values.yaml has a place in values.schema.json, and no place there is without a default."""
    chart = ROOT / "charts" / "espalier"
    if not (chart / "values.schema.json").exists():
        return []
    values = yaml.safe_load((chart / "values.yaml").read_text())
    schema = json.loads((chart / "values.schema.json").read_text())
    return [f"charts/espalier: {line}" for line in _untyped(values, schema, schema.get("definitions", {}), "")]


def _untyped(
    values: Mapping[str, Any], schema: Mapping[str, Any], definitions: Mapping[str, Any], path: str
) -> Iterator[str]:
    schema = definitions[schema["$ref"].rsplit("/", 1)[-1]] if "$ref" in schema else schema
    known = schema.get("properties")
    if known is None:
        return  # an open object of Kubernetes' own, such as resources
    yield from (
        f"values.yaml has {path}{name}, values.schema.json has not" for name in sorted(values.keys() - known.keys())
    )
    missing = sorted(known.keys() - values.keys() - {"global"})  # Helm itself writes global
    yield from (f"values.schema.json has {path}{name}, values.yaml has no default for it" for name in missing)
    for name in sorted(known.keys() & values.keys()):
        if isinstance(values[name], Mapping):
            yield from _untyped(values[name], known[name], definitions, f"{path}{name}.")


def versions_pinned() -> list[str]:
    """A lock without hashes is not a lock."""
    return [
        f"{path.relative_to(ROOT)}: no hashes; run `make lock`"
        for path in tracked("requirements/*.txt")
        if "--hash=sha256:" not in path.read_text()
    ]


def types() -> list[str]:
    """Mypy --strict over every room that has code."""
    present = [folder for folder in SOURCES if (ROOT / folder).exists()]
    return tool("mypy", *present)()


PARTS: dict[str, Part] = {
    "folders": source_folder_stays_a_folder,
    "lengths": modules_stay_small,
    "locks": versions_pinned,
    "chart": chart_values_are_typed,
    "ruff": tool("ruff", "check", "--quiet", "--output-format=concise", "."),
    "format": tool("ruff", "format", "--check", "--quiet", "."),
    "generated": tool("python", "-m", "tools.crds", "--check"),
    "techniques": tool("python", "-m", "tools.techniques", "--check"),
    "layers": tool("lint-imports", "--cache-dir", ".cache/import-linter"),
    "types": types,
}


def main(names: Iterable[str]) -> int:
    """0 when every part is clean."""
    wanted = list(names) or list(PARTS)
    if unknown := [name for name in wanted if name not in PARTS]:
        sys.exit(f"tools.check: no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    wrong: list[str] = []
    for name in wanted:
        started = time.monotonic()
        found = PARTS[name]()
        print(f"{'ok  ' if not found else 'FAIL'} {name} ({time.monotonic() - started:.1f} s)", flush=True)
        wrong += [f"{name}: {line}" for line in found]
    if wrong:
        print("\n" + "\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
