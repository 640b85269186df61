"""Everything the operator may do in the API, as one table. `python -m espalier_operator.rbac` writes it into the
chart; CI checks for drift.

Least privilege: no `*`, no Secrets at all (the kubelet mounts what a spec names), no `update`, no right to create
tokens or roles. `patch` on our own kinds is for the finalizer; specs are never written.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from espalier_api.names import GROUP, PLURAL_MODEL, PLURAL_RETRAIN, PLURAL_ROLLOUT

CHART_FILE: Final = Path(__file__).resolve().parents[2] / "charts" / "espalier" / "files" / "rbac.json"
"""Where the chart reads it, in a checkout."""

READ: Final = ("get", "list", "watch")
APPLY: Final = ("create", "patch")
"""Server-side apply: patch, and create where there is nothing yet."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One PolicyRule."""

    apiGroups: tuple[str, ...]  # noqa: N815 - the API's spelling
    resources: tuple[str, ...]
    verbs: tuple[str, ...]


OPERATOR: Final = (
    Rule((GROUP,), (PLURAL_MODEL, PLURAL_ROLLOUT, PLURAL_RETRAIN), READ),
    Rule((GROUP,), (PLURAL_MODEL, PLURAL_ROLLOUT), ("patch",)),
    Rule((GROUP,), tuple(f"{plural}/status" for plural in (PLURAL_MODEL, PLURAL_ROLLOUT, PLURAL_RETRAIN)), ("patch",)),
    Rule(("batch",), ("jobs",), (*READ, *APPLY, "delete")),
    Rule(("apps",), ("deployments",), (*READ, *APPLY, "delete")),
    Rule(("",), ("configmaps", "services"), (*READ, *APPLY, "delete")),
    Rule(("",), ("pods",), READ),
    Rule(("",), ("events",), ("create",)),
    Rule(("gateway.networking.k8s.io",), ("httproutes",), (*READ, *APPLY, "delete")),
)
"""In every watched namespace; nothing is needed outside of them."""

VIEW: Final = (Rule((GROUP,), (PLURAL_MODEL, PLURAL_ROLLOUT, PLURAL_RETRAIN), READ),)
"""Added to the built-in role view."""

EDIT: Final = (
    Rule(
        (GROUP,),
        (PLURAL_MODEL, PLURAL_ROLLOUT, PLURAL_RETRAIN),
        ("create", "update", "patch", "delete", "deletecollection"),
    ),
)
"""Added to the built-in roles edit and admin; together with view."""


def rendered() -> str:
    """The chart's file."""
    tables = {"operator": OPERATOR, "view": VIEW, "edit": EDIT}
    document = {name: [asdict(rule) for rule in rules] for name, rules in tables.items()}
    return json.dumps(document, indent=2) + "\n"


def main(arguments: list[str]) -> int:
    """Write the chart's file, or with `--check` tell whether it is current."""
    if "--check" in arguments:
        current = CHART_FILE.exists() and CHART_FILE.read_text(encoding="utf-8") == rendered()
        if not current:
            sys.stderr.write(
                "charts/espalier/files/rbac.json is not what rbac.py says; run python -m espalier_operator.rbac\n"
            )
        return 0 if current else 1
    CHART_FILE.write_text(rendered(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
