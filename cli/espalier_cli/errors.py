"""What a command may fail with: one line for a person, exit status 1."""

from __future__ import annotations


class CliError(Exception):
    """The command cannot do what was asked; the message names the object and the remedy."""
