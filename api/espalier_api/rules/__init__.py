"""Validator rules: what is refused or questioned although every single field is fine (references: R1-R38, own ones from R39).

`validate` lists all findings, ordered by rule id; nothing stops at the first.
"""

from __future__ import annotations

from espalier_api.rules import compression, distributed, modalities, objectives, penalties, privacy, process, references
from espalier_api.rules.engine_support import supported
from espalier_api.rules.release import not_in_this_release
from espalier_api.rules.rule import REGISTRY, Finding, Level, Objection, Rule, Subject

RULES: tuple[Rule, ...] = tuple(REGISTRY.rules)
"""Every rule, ordered by id."""


def validate(subject: Subject) -> tuple[Finding, ...]:
    """Every objection of every rule, ordered by rule id."""
    return tuple(finding for rule in RULES for finding in rule.findings(subject))


def errors(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """Those that refuse the spec."""
    return tuple(finding for finding in findings if finding.level == "error")


def warnings(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """Those that only ask."""
    return tuple(finding for finding in findings if finding.level == "warning")


__all__ = [
    "RULES",
    "Finding",
    "Level",
    "Objection",
    "Rule",
    "Subject",
    "compression",
    "distributed",
    "errors",
    "modalities",
    "not_in_this_release",
    "objectives",
    "penalties",
    "privacy",
    "process",
    "references",
    "supported",
    "validate",
    "warnings",
]
