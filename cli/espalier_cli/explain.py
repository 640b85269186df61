"""`espalier lint --explain R11`: what a rule is about, why, what to do, and who looks after it."""

from __future__ import annotations

from difflib import get_close_matches

from espalier_api.rules import RULES
from espalier_api.rules.at_run_time import CHECKS
from espalier_cli.errors import CliError

LEVELS = {
    "error": "refuses the manifest",
    "warning": "asks, and refuses nothing",
    "automatic": "tells what the engine does by itself",
}


def rule_ids(incomplete: str) -> list[str]:
    """Ids that begin with what was typed, for shells to complete."""
    return [rule.id for rule in RULES if rule.id.startswith(incomplete.upper())]


def explain(rule_id: str) -> str:
    """A few lines about one rule. Raises CliError for an id that is none."""
    rules = {rule.id: rule for rule in RULES}
    rule = rules.get(rule_id.upper())
    if rule is None:
        close = get_close_matches(rule_id.upper(), rules, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else f"they are {RULES[0].id} to {RULES[-1].id}"
        raise CliError(f"--explain: there is no rule {rule_id!r}; {hint}")
    lines = [
        f"{rule.id} ({rule.level}: {LEVELS[rule.level]})",
        f"  What     {rule.message}",
        f"  Why      {rule.why}",
        f"  Do       {rule.remedy}",
    ]
    if rule.keeps:
        when = "of this release" if rule.kept else "of a later release, so this one refuses"
        lines.append(f"  Engine   {rule.keeps} ({when})")
    lines += [f"  Run time {' '.join((check.__doc__ or '').split())}" for check in CHECKS.get(rule.id, ())]
    return "\n".join(lines)
